"""Schema matching that has learned from labelled pairs of columns.

Besides the features of the pair itself it is seen how often either column and its table were
matched, and how similar the pair is to labelled matches: another column matched with the same one,
or both columns like those of a match. A labelled pair is always described as if it had no label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.fit_blend import (
    Blend,
    BoolArray,
    Filler,
    Fit,
    FloatArray,
    Forest,
    LastColumn,
)
from meld_duckdb.features.schema_match import SchemaContext
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record

IntArray = NDArray[np.int64]

LABEL_FEATURES: tuple[str, ...] = tuple(
    "matched_left matched_right matched_share_left matched_share_right tables_matched "
    "tables_matched_share table_share_left table_share_right like_match_of_left "
    "like_match_of_right like_a_match_min like_a_match_mean like_three_matches".split()
)
"""Names of the columns of `LabelledColumns.features`."""

_CELLS = 2_000_000
_NEAREST = 3
_TREES = 150
_LEAF = 1
_SHARE = 0.4

MEMBERS: tuple[Fit, ...] = (
    lambda rows, answers: LastColumn(),
    lambda rows, answers: Forest(rows, answers, _TREES, _LEAF, _SHARE, columns=-1),
)
"""The forest does not see the shipped log-odds: they may come from these very labels."""


class LabelledColumns:
    """Labelled pairs of columns of two schemas.

    Args:
        context: The two schemas, with vectors.
        at: (left, right) position of each labelled pair, int64 [n, 2].
        matches: Whether they match, bool [n].
    """

    def __init__(self, context: SchemaContext, at: IntArray, matches: BoolArray) -> None:
        self._tables = [_numbers([context.columns[d].table for d in s]) for s in context.sides]
        sizes = [len(side) for side in context.sides]
        groups = [int(tables.max(initial=-1)) + 1 for tables in self._tables]
        self._width = sizes[1]
        keys = at[:, 0] * self._width + at[:, 1]
        order = np.argsort(keys, kind="stable")
        self._keys, self._known = keys[order], matches[order].astype(np.float64)
        weights = matches.astype(np.float64)
        self._column = [
            (np.bincount(at[:, s], weights, sizes[s]), np.bincount(at[:, s], None, sizes[s]))
            for s in (0, 1)
        ]
        pair = [self._tables[s][at[:, s]] for s in (0, 1)]
        self._table = [
            (np.bincount(pair[s], weights, groups[s]), np.bincount(pair[s], None, groups[s]))
            for s in (0, 1)
        ]
        joint = pair[0] * groups[1] + pair[1]
        size = groups[0] * groups[1]
        self._joint = np.bincount(joint, weights, size), np.bincount(joint, None, size)
        self._groups = groups[1]
        self._matches = at[matches]
        if context.vectors is None:
            raise ValueError("labels of columns need their vectors")
        self._alike = [
            (v @ v[self._matches[:, s]].T).astype(np.float64).round(5)
            for s, v in enumerate(context.vectors)
        ]

    def features(self, at: IntArray) -> FloatArray:
        """Describe pairs given by position, int64 [n, 2]: float64 [n, len(LABEL_FEATURES)]."""
        own, known = self._own(at)
        found = np.zeros((len(at), len(LABEL_FEATURES)))
        for s in (0, 1):
            matched, asked = (counts[at[:, s]] for counts in self._column[s])
            found[:, s] = matched - own
            found[:, 2 + s] = (matched - own) / (asked - known + 5)
            matched, asked = (counts[self._tables[s][at[:, s]]] for counts in self._table[s])
            found[:, 6 + s] = (matched - own + 0.1) / (asked - known + 10)
        joint = self._tables[0][at[:, 0]] * self._groups + self._tables[1][at[:, 1]]
        matched, asked = (counts[joint] for counts in self._joint)
        found[:, 4] = matched - own
        found[:, 5] = (matched - own + 0.1) / (asked - known + 10)
        step = max(1, _CELLS // max(1, len(self._matches)))
        for start in range(0, len(at) if len(self._matches) else 0, step):
            found[start : start + step, 8:] = self._likeness(at[start : start + step])
        return found

    def _own(self, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """The label of each pair itself, 0 where there is none, and whether there is one."""
        keys = at[:, 0] * self._width + at[:, 1]
        if not len(self._keys):
            return np.zeros(len(at)), np.zeros(len(at))
        where = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[where] == keys
        return np.where(known, self._known[where], 0.0), known.astype(np.float64)

    def _likeness(self, at: IntArray) -> FloatArray:
        """How similar pairs are to the labelled matches other than themselves, [n, 5]."""
        same = [at[:, s, None] == self._matches[None, :, s] for s in (0, 1)]
        other = ~(same[0] & same[1])
        left, right = (self._alike[s][at[:, s]] for s in (0, 1))
        product = -np.sort(-np.where(other, left * right, 0.0), axis=1)[:, :_NEAREST]
        return np.stack(
            [
                np.where(same[0] & other, right, 0.0).max(axis=1),
                np.where(same[1] & other, left, 0.0).max(axis=1),
                np.where(other, np.minimum(left, right), 0.0).max(axis=1),
                np.where(other, (left + right) / 2, 0.0).max(axis=1),
                product.mean(axis=1),
            ],
            axis=1,
        )


class FittedSchemaMatcher:
    """Fitted to labelled pairs of columns of two schemas.

    Args:
        context: The two schemas, with vectors.
        pairs: The labelled pairs; both columns of each are of the two schemas.
        rows: Their features, as the shipped model reads them.
        matches: Whether they match, bool [n]; see `fit_blend.enough`.
        shipped: The shipped model.
    """

    def __init__(
        self,
        context: SchemaContext,
        pairs: Sequence[tuple[Record, Record]],
        rows: NDArray[np.float32],
        matches: BoolArray,
        shipped: TreeEnsemble,
    ) -> None:
        self._context = context
        self._shipped = shipped
        self._fill = Filler(rows)
        self._labelled = LabelledColumns(context, self._positions(pairs), matches)
        self._blend = Blend(self._extended(pairs, rows), matches, MEMBERS)
        self.threshold = self._blend.threshold

    def of(self, pairs: Sequence[tuple[Record, Record]]) -> _Asked:
        """The model for the features of these pairs."""
        return _Asked(self, pairs)

    def predict(
        self, pairs: Sequence[tuple[Record, Record]], rows: NDArray[np.float32]
    ) -> FloatArray:
        """Probability of a match, [n]; each pair's does not depend on the others."""
        return self._blend.predict(self._extended(pairs, rows))

    def explain(
        self, pairs: Sequence[tuple[Record, Record]], rows: NDArray[np.float32], most: int
    ) -> list[list[tuple[str, float]]]:
        """The labels' say (how like a labelled match a pair is), then the shipped reasons."""
        say = self._label_features(pairs)[:, LABEL_FEATURES.index("like_a_match_min")]
        return [
            [("like_a_match_min", float(value)), *reasons]
            for value, reasons in zip(say, self._shipped.explain(rows, most - 1), strict=True)
        ]

    def _positions(self, pairs: Sequence[tuple[Record, Record]]) -> IntArray:
        found = [self._context.find(a.digest, b.digest) or (-1, -1) for a, b in pairs]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def _label_features(self, pairs: Sequence[tuple[Record, Record]]) -> FloatArray:
        at = self._positions(pairs)
        found = np.zeros((len(at), len(LABEL_FEATURES)))
        inside = at[:, 0] >= 0
        found[inside] = self._labelled.features(at[inside])
        return found

    def _extended(
        self, pairs: Sequence[tuple[Record, Record]], rows: NDArray[np.float32]
    ) -> FloatArray:
        odds = self._shipped.log_odds(rows)
        return np.column_stack((self._fill(rows), self._label_features(pairs), odds))


class _Asked:
    """A fitted model together with the pairs that it is asked about."""

    def __init__(self, fitted: FittedSchemaMatcher, pairs: Sequence[tuple[Record, Record]]) -> None:
        self._fitted = fitted
        self._pairs = pairs

    def predict(self, rows: NDArray[np.float32]) -> FloatArray:
        return self._fitted.predict(self._pairs, rows)

    def explain(self, rows: NDArray[np.float32], most: int) -> list[list[tuple[str, float]]]:
        return self._fitted.explain(self._pairs, rows, most)


def _numbers(values: Sequence[tuple[str, ...]]) -> IntArray:
    """Number values by first occurrence."""
    known: dict[tuple[str, ...], int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)
