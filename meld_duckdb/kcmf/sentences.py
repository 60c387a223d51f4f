"""EaK: examples of a term, told as sentences."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Protocol

from meld_duckdb.records import digest, plain_text

_MEANS, _ALIAS = "means", "alias"
_FEW_WORDS = 6
"""Words of an alias's text beside the two names, up to which it tells nothing but them."""


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
    term: str,
    facts: Sequence[Told],
    hierarchy: Collection[str],
    most: int = 3,
    most_others: int = 5,
) -> tuple[str, ...]:
    """Tell what is known about a term: examples of narrower terms first, then other facts.

    Which narrower terms are drawn depends on them and on the term alone, not on the order of the
    facts. One level down is all that is looked at, so a hierarchy may go in circles. Of the other
    facts, what the term means comes first, and what is only another name or a code of it last.

    Args:
        term: The term that was asked for.
        facts: The facts of the terms that go by this name.
        hierarchy: Relations that lead from a broader term to a narrower one.
        most: How many examples at most.
        most_others: How many other sentences at most.

    Returns:
        Sentences, each once.

    Paper: KcMF §3.3: the children of the best concept, up to three of them, as "One of <parent>
    is <child>."
    """
    children: dict[tuple[str, str], tuple[str, str]] = {}
    others: set[tuple[int, str, str, str]] = set()
    for fact in facts:
        pair = (_folded(fact.term), _folded(fact.object))
        if fact.relation not in hierarchy:
            others.add((_rank(fact), fact.relation, fact.object, fact.text))
        elif pair[0] != pair[1]:
            shown = (fact.term, fact.object)
            children[pair] = min(children.get(pair, shown), shown)
    known = sorted(children.values())
    draw = random.Random(int(digest(_folded(term)), 16))
    drawn = draw.sample(known, max(0, min(most, len(known))))
    told = [f"One of {parent} is {child}." for parent, child in drawn]
    texts = [text for text in dict.fromkeys(o[-1] for o in sorted(others)) if text not in told]
    return (*told, *texts[: max(0, most_others)])


def _rank(fact: Told) -> int:
    """Place of a fact among those that are not examples: the lower, the more it tells."""
    if _folded(fact.relation) == _MEANS:
        return 0
    return 2 if fact.relation == _ALIAS and _names_only(fact) else 1


def _names_only(fact: Told) -> bool:
    """Whether the text of an alias says little but the two names, as "The code of a is b." does."""
    names = {word for name in (fact.term, fact.object) for word in _words(name)}
    return sum(word not in names for word in _words(fact.text)) <= _FEW_WORDS


def _words(text: str) -> list[str]:
    return [word.strip(".,;:()'\"") for word in _folded(text).split()]


def _folded(text: str) -> str:
    return plain_text(text.replace("_", " ")).casefold()
