"""EaK: examples of a term, told as sentences."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Protocol

from meld_duckdb.records import digest, plain_text


class Told(Protocol):
    """A fact (term, relation, object) of a knowledge base, and how it reads."""

    @property
    def term(self) -> str:
        """What it is about."""

    @property
    def relation(self) -> str:
        """How term and object belong together."""

    @property
    def object(self) -> str:
        """What is said of the term."""

    @property
    def text(self) -> str:
        """The fact as it reads."""


def examples_as_knowledge(
    term: str, facts: Sequence[Told], hierarchy: Collection[str], most: int = 3
) -> tuple[str, ...]:
    """Tell what is known about a term: examples of narrower terms first, then all other facts.

    Which narrower terms are drawn depends on them and on the term alone, not on the order of the
    facts. One level down is all that is looked at, so a hierarchy may go in circles.

    Args:
        term: The term that was asked for.
        facts: The facts of the terms that go by this name.
        hierarchy: Relations that lead from a broader term to a narrower one.
        most: How many examples at most.

    Returns:
        Sentences, each once.

    Paper: KcMF §3.3: the children of the best concept, up to three of them, as "One of <parent>
    is <child>."
    """
    children: dict[tuple[str, str], tuple[str, str]] = {}
    others: set[tuple[str, str, str]] = set()
    for fact in facts:
        pair = (_folded(fact.term), _folded(fact.object))
        if fact.relation not in hierarchy:
            others.add((fact.relation, fact.object, fact.text))
        elif pair[0] != pair[1]:
            shown = (fact.term, fact.object)
            children[pair] = min(children.get(pair, shown), shown)
    known = sorted(children.values())
    draw = random.Random(int(digest(_folded(term)), 16))
    drawn = draw.sample(known, max(0, min(most, len(known))))
    told = [f"One of {parent} is {child}." for parent, child in drawn]
    return tuple(dict.fromkeys([*told, *(text for *_, text in sorted(others))]))


def _folded(text: str) -> str:
    return plain_text(text.replace("_", " ")).casefold()
