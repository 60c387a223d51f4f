"""Features that order the candidates of one record: the pair, its tables, and who covers whom.

Unlike the features of a match they know a direction: how much of the record asked about the
candidate covers, whatever else the candidate adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from meld_duckdb.features import text as tx
from meld_duckdb.features.context import TableIndex, comparable
from meld_duckdb.features.match import CONTEXT_FEATURES, FEATURES, PairTables, pair_features
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.records import Record

__all__ = ["RANK_FEATURES", "PairTables", "TableIndex", "less_best_other", "rank_features"]

_DIRECTED = (
    "covered",
    "rarest_uncovered",
    "added",
    "title_covered",
    "title_rarest_uncovered",
    "title_added",
)
_BASE = tuple(
    name for name in (*FEATURES, *CONTEXT_FEATURES) if not name.startswith(("encoder", "table_enc"))
)
_KEPT = [i for i, n in enumerate((*FEATURES, *CONTEXT_FEATURES)) if n in set(_BASE)]
RANK_FEATURES: tuple[str, ...] = (*_BASE, *_DIRECTED, "blocking_score")
"""Names of the columns of `rank_features`."""


def rank_features(
    tables: PairTables, left: np.ndarray, right: np.ndarray, score: np.ndarray
) -> np.ndarray:
    """Compute the features of candidate pairs.

    Args:
        tables: Both tables.
        left: Positions of the records asked about, [n].
        right: Positions of their candidates, [n].
        score: Blocking scores, [n].

    Returns:
        float32 [n, len(RANK_FEATURES)], NaN where a feature is undefined.
    """
    if not len(left):
        return np.empty((0, len(RANK_FEATURES)), dtype=np.float32)
    a, b = tables.left.records, tables.right.records
    pairs = [(a[i], b[j]) for i, j in zip(left.tolist(), right.tolist(), strict=True)]
    context = tables.context_features(np.column_stack([left, right]))
    alone = pair_features(pairs, None, tables.weights)
    base = np.hstack((alone, context))[:, _KEPT]
    directed = _directed(pairs, tables.weights)
    return np.column_stack([base, directed, score]).astype(np.float32)


def less_best_other(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Subtract from each value the largest of the other rows of its group.

    Args:
        values: float [n, d]; NaN counts as absent.
        group: Number of the group of each row, [n].

    Returns:
        float [n, d]; NaN where the value or all others are absent.
    """
    if not len(values):
        return np.empty_like(values)
    order = np.argsort(group, kind="stable")
    ordered = np.where(np.isnan(values), -np.inf, values)[order]
    first = np.r_[True, group[order][1:] != group[order][:-1]]
    start, member = np.flatnonzero(first), np.cumsum(first) - 1
    best = np.maximum.reduceat(ordered, start, axis=0)[member]
    is_best = ordered == best
    alone = is_best & (np.add.reduceat(is_best.astype(np.int64), start, axis=0)[member] == 1)
    second = np.maximum.reduceat(np.where(is_best, -np.inf, ordered), start, axis=0)[member]
    other = np.where(alone, second, best)
    known = np.isfinite(other) & np.isfinite(ordered)
    result = np.full_like(values, np.nan)
    with np.errstate(invalid="ignore"):
        result[order] = np.where(known, ordered - other, np.nan)
    return result


class _Preparer:
    """Words of records and of their titles, each record prepared once."""

    def __init__(self, weights: IdfWeights) -> None:
        self._weights = weights
        self._known: dict[str, tuple[_Words, _Words]] = {}

    def of(self, record: Record) -> tuple[_Words, _Words]:
        known = self._known.get(record.digest)
        if known is None:
            values = list(comparable(record).values())
            whole = " ".join(values)[: tx.TEXT_LIMIT]
            title = next((v for v in values if len(tx.words(v)) > 1), whole)
            known = (_Words(whole, self._weights), _Words(title, self._weights))
            self._known[record.digest] = known
        return known


class _Words:
    __slots__ = ("mass", "squashed", "weight")

    def __init__(self, folded: str, weights: IdfWeights) -> None:
        self.weight = {word: weights.weight(word) for word in sorted(set(tx.words(folded)))}
        self.squashed = tx.squash(folded)
        self.mass = math.fsum(self.weight.values())


def _directed(pairs: Sequence[tuple[Record, Record]], weights: IdfWeights) -> np.ndarray:
    side = _Preparer(weights)
    rows = np.empty((len(pairs), len(_DIRECTED)), dtype=np.float32)
    for row, (a, b) in enumerate(pairs):
        (whole, title), (other, other_title) = side.of(a), side.of(b)
        rows[row] = (*_cover(whole, other), *_cover(title, other_title))
    return rows


def _cover(a: _Words, b: _Words) -> tuple[float, float, float]:
    """How much of ``a`` is in ``b``, the rarest word that is not, and what ``b`` adds."""
    if not a.mass or not b.mass:
        return math.nan, math.nan, math.nan
    missing = _missing(a, b)
    return (
        1.0 - math.fsum(missing) / a.mass,
        max(missing, default=0.0),
        math.fsum(_missing(b, a)) / b.mass,
    )


def _missing(a: _Words, b: _Words) -> list[float]:
    return [
        weight
        for word, weight in a.weight.items()
        if word not in b.weight and not (len(word) >= 4 and word in b.squashed)
    ]
