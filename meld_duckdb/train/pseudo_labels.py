"""Pseudo-labels of a workspace: the rows of its indexed tables, annotated by what it knows.

Candidates come from the lexical search in both directions, their similarity is the probability of
tier 0 with the labels learned so far.

Paper: MELD §4.1, self-annotation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.planner.session import Session
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import Record
from meld_duckdb.retrieval.blocking import find_candidates
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import HeldOut, hold_out
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.self_annotate import Scored, annotate_pairs

TEST = "test"
"""Split of rows that training must not touch; in lower case."""

_PART = 2_048


@dataclass(frozen=True, slots=True)
class AnnotateSettings:
    """How rows are annotated.

    Attributes:
        threshold: Least probability of a pseudo-labelled match.
        margin: Least distance to the next best partner of either record.
        rows: Records of the smaller table that are looked at, drawn with the seed.
        candidates: Candidates of each.
        negatives: Mismatches mined beside each match.
        ceiling: Probability from which on a rival is not taken for a mismatch.
        seed: Of the draw.
    """

    threshold: float = 0.85
    margin: float = 0.05
    rows: int = 2_000
    candidates: int = 4
    negatives: int = 3
    ceiling: float = 0.3
    seed: int = 42


def contexts_of(session: Session, labels: Sequence[TrainingRow]) -> list[Context]:
    """Pairs of indexed tables that labelled pairs stand in, the one with most labels first."""
    found = Counter(
        tuple(sorted(context))
        for context in session.tables.find([row.query for row in labels])
        if context
    )
    return [context for context, _ in sorted(found.items(), key=lambda x: (-x[1], x[0]))]


def held_out_of(session: Session) -> HeldOut:
    """The rows of all indexed tables whose split is ``test``: no training touches them."""
    records: list[Record] = []
    for table in session.catalogue.tables():
        stored = session.store.stored_rows(table.digest)
        at = [i for i, (_, split, _) in stored.items() if (split or "").lower() == TEST]
        if at:
            rows = session.tables.index(table.digest).records
            records.extend(rows[i] for i in at)
    return hold_out(records=records)


def annotate_matches(
    session: Session, context: Context, held_out: HeldOut, settings: AnnotateSettings
) -> list[TrainingRow]:
    """Annotate the rows of two indexed tables; see `self_annotate.annotate_pairs`.

    Args:
        session: Where the tables are indexed and the labels learned.
        context: Digests of the two tables; twice the same for one table.
        held_out: Pairs and records that give no row.
        settings: Of the annotation.
    """
    tables = [session.tables.index(digest).records for digest in context]
    same = context[0] == context[1]
    turned = not same and len(tables[1]) < len(tables[0])
    few, many = tables[::-1] if turned else tables
    asked = _drawn(len(few), settings)
    k = settings.candidates
    found = find_candidates(
        [few[i] for i in asked], many, k + same, vectors=None, lexical=True, same=False
    )
    forward = _judged(session, few, many, asked[found.left], found.right)
    best = np.unique(found.right)
    back = find_candidates(
        [many[j] for j in best], few, k + same, vectors=None, lexical=True, same=False
    )
    backward = _judged(session, few, many, back.right, best[back.left])
    return annotate_pairs(
        few,
        many,
        forward,
        backward,
        threshold=settings.threshold,
        margin=settings.margin,
        held_out=held_out,
        negatives=settings.negatives,
        ceiling=settings.ceiling,
        same=same,
    )


def _drawn(n: int, settings: AnnotateSettings) -> np.ndarray:
    if n <= settings.rows:
        return np.arange(n)
    drawn = np.random.default_rng(settings.seed).choice(n, settings.rows, replace=False)
    return np.sort(drawn)


def _judged(
    session: Session,
    left: Sequence[Record],
    right: Sequence[Record],
    at_left: np.ndarray,
    at_right: np.ndarray,
) -> Scored:
    """Candidate pairs with the probability that tier 0 gives them."""
    queries = [
        Query(tuple(sorted((left[i], right[j]), key=lambda record: record.digest)))
        for i, j in zip(at_left.tolist(), at_right.tolist(), strict=True)
    ]
    score = np.zeros(len(queries))
    for start in range(0, len(queries), _PART):
        interrupt.check()
        part = queries[start : start + _PART]
        answers = session.feature_answers("match", part)
        score[start : start + _PART] = [
            (a.probability or 0.0) if a is not None else 0.0 for a in answers
        ]
    return Scored(at_left, at_right, score)
