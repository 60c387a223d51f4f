"""The options that a label is asked with: it is kept without them, a statement asks with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from meld_duckdb.planner.experts import shortlisted
from meld_duckdb.planner.questions import candidate_key
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Demonstration, Query

WITH_OPTIONS = frozenset({"annotate_column", "extract_relation", "link_entity"})
"""Tasks that no statement asks without options."""


def offered(
    task: str, label: Demonstration, said: Answer | None, most: int, *, with_answer: bool = True
) -> Query:
    """The question of a label with the options that tier 0 ranks best, the right one among them.

    Args:
        task: One of `tasks.pairs.CHOOSING`.
        label: The label, with or without options.
        said: What tier 0 says of it; the first options are taken where it says nothing.
        most: Options at most.
        with_answer: False to leave the right one out where tier 0 does, as statements do.
    """
    query = label.query
    if task == "link_entity" and query.domain is None:
        query = replace(query, domain=_candidates(query))
    ranking = [option for option, _ in said.ranking] if said is not None else []
    short = shortlisted(query, ranking, most)
    if not with_answer or short.domain is None or label.answer in short.domain:
        return short
    if query.domain is not None and label.answer not in query.domain:
        return short
    return shortlisted(query, [*(short.domain[: most - 1]), label.answer], most)


def with_all_options(task: str, query: Query, answers: Collection[str]) -> Query:
    """The question of a label with all options it may have: candidates, or answers of its kind.

    Candidates stay in their order. Answers come in an order of each question's own: which one a
    statement lists them in is not known, and an expert should not learn letters by heart.
    """
    if query.domain is not None:
        return query
    if task == "link_entity":
        return replace(query, domain=_candidates(query))
    drawn = sorted(set(answers), key=lambda answer: digest("option", query.digest, answer))
    return replace(query, domain=tuple(drawn))


def in_order_of(query: Query, short: Query) -> Query:
    """A shortlist of a question with its options, and candidates, in the order of the question."""
    kept = set(short.domain or ())
    ordered = [option for option in query.domain or () if option in kept]
    return shortlisted(query, ordered, len(ordered))


def subject(task: str, query: Query) -> str:
    """Identity of what a label is about, the same with options and without, as it is kept."""
    if task not in WITH_OPTIONS:
        return query.digest
    return digest(query.records[0].digest, query.target or "")


def _candidates(query: Query) -> tuple[str, ...]:
    return tuple(candidate_key(record) or "" for record in query.records[1:])
