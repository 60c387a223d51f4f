"""What the two tables say about a pair: how its score compares with its records' best partners.

Rows of scores are computed block-wise for the records asked about, reduced to the best partners
and kept, so that memory grows with the records asked about and never with the product of tables.
Of large tables the best partners are found by rare terms; see `features.sparse_top`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features import sparse_top
from meld_duckdb.features import text as tx
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.records import Record, is_key_column

MAX_COLUMNS = 64
"""Columns of a record that take part; the rest of a wider record is ignored."""

PARTNERS = 16
"""Best partners kept of each record; lower ranks are not told apart."""

SAMPLE = 512
"""Records whose best scores stand for the distribution of a table."""

GRAM_LIMIT = 512
"""Characters of a record that enter the 3-gram matrix."""

_BLOCK_CELLS = 2_000_000
_DECIMALS = 5  # the sum of a product depends on its order in the last bits

_STATISTICS = (
    "score",
    "margin_min",
    "margin_max",
    "share_of_best_min",
    "share_of_best_max",
    "rank_min",
    "rank_max",
    "mutual_best",
    "rivals_min",
    "rivals_max",
    "quantile",
    "normalised",
)
_VIEWS = ("word", "gram", "encoder")

CONTEXT_FEATURES: tuple[str, ...] = tuple(
    f"table_{view}_{name}" for view in _VIEWS for name in _STATISTICS
)
"""Names of the columns of `PairTables.context_features`."""


def comparable(record: Record) -> dict[str, str]:
    """Return the folded present values, by folded column name, keys left out."""
    found: dict[str, str] = {}
    for name, value in record.present.items():
        if len(found) >= MAX_COLUMNS:
            break
        if not is_key_column(name):
            folded = tx.fold(value)
            if folded:
                found.setdefault(tx.squash(tx.fold(name)), folded)
    return found


def comparable_text(record: Record) -> str:
    """Return the folded present values as one text, keys left out."""
    return " ".join(comparable(record).values())[: tx.TEXT_LIMIT]


class TableIndex:
    """A table whose records can be looked up.

    Args:
        records: The records.
        vectors: float32 [n, d], rows L2-normalised, same order as ``records``; None for none.

    Attributes:
        position: Record digest to its (first) position.
    """

    def __init__(self, records: Sequence[Record], vectors: np.ndarray | None = None) -> None:
        self.records = records
        self.vectors = vectors
        self.position: dict[str, int] = {}
        for row, record in enumerate(records):
            self.position.setdefault(record.digest, row)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def distinct(self) -> _Distinct:
        """The distinct texts of the table."""
        return _Distinct.of([comparable_text(record) for record in self.records])


@dataclass(frozen=True, slots=True)
class _Distinct:
    """Distinct texts, where each record's text is among them, and how often each occurs."""

    texts: list[str]
    of_record: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @staticmethod
    def of(texts: Sequence[str]) -> _Distinct:
        number: dict[str, int] = {}
        of_record = np.fromiter(
            (number.setdefault(text, len(number)) for text in texts), np.int64, len(texts)
        )
        _, first = np.unique(of_record, return_index=True)
        return _Distinct(list(number), of_record, first, np.bincount(of_record))


class PairTables:
    """Two tables (or one table twice) as the context of pairs of their records.

    Equal texts count as one partner. A copy of a record in the other table (equal text) is no
    rival of its other partners: overlapping tables repeat records, and that says nothing about
    the pair. Where both sides are the same table, a record is no partner of itself; other records
    with an equal text are.
    """

    def __init__(self, left: TableIndex, right: TableIndex) -> None:
        self.left = left
        self.right = right
        self.same = left is right
        self._views: dict[str, _ScoreView | None] = {}

    @cached_property
    def weights(self) -> IdfWeights:
        """Word weights over the distinct texts of both tables."""
        tables = (self.left,) if self.same else (self.left, self.right)
        return IdfWeights.from_documents(
            tx.words(text) for table in tables for text in table.distinct.texts
        )

    def context_features(self, pairs: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
        """Compute the context features of pairs given by position.

        Args:
            pairs: (position in left, position in right), or an integer array [n, 2] of them.

        Returns:
            float32 [n, len(CONTEXT_FEATURES)], same order as ``pairs``; NaN where a record has no
            partner, and in the encoder columns where a table has no vectors.
        """
        if not len(pairs):
            return np.empty((0, len(CONTEXT_FEATURES)), dtype=np.float32)
        at = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        left = self.left.distinct.of_record[at[:, 0]]
        right = self.right.distinct.of_record[at[:, 1]]
        blocks = []
        for name in _VIEWS:
            view = self._view(name)
            if view is None:
                blocks.append(np.full((len(at), len(_STATISTICS)), np.nan, dtype=np.float32))
            else:
                blocks.append(view.statistics(left, right))
        return np.hstack(blocks)

    def _view(self, name: str) -> _ScoreView | None:
        if name not in self._views:
            self._views[name] = self._build(name)
        return self._views[name]

    def _build(self, name: str) -> _ScoreView | None:
        a, b = self.left.distinct, self.right.distinct
        if name == "encoder":
            if self.left.vectors is None or self.right.vectors is None:
                return None
            left, right = self.left.vectors[a.first], self.right.vectors[b.first]
        else:
            terms = _words if name == "word" else _grams
            left, right = tx.tfidf_matrices(
                (terms(text) for text in a.texts),
                (terms(text) for text in (() if self.same else b.texts)),
                least=1 if self.same else 2,
            )
        if self.same:
            side = _Side(left, left, np.where(a.count == 1, np.arange(len(a.texts)), -1))
            return _ScoreView(side, side)
        return _ScoreView(
            _Side(left, right, _copies(a.texts, b.texts)),
            _Side(right, left, _copies(b.texts, a.texts)),
        )


def _copies(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return where each text stands among the others, -1 for nowhere."""
    at = {text: row for row, text in enumerate(others)}
    return np.fromiter((at.get(text, -1) for text in texts), np.int64, len(texts))


def _words(text: str) -> list[str]:
    return tx.words(text)


def _grams(text: str) -> frozenset[str]:
    return tx.grams(text[:GRAM_LIMIT])


class _Side:
    """The best partners of one table's rows among another's, computed when first asked for.

    Args:
        rows: Sparse or dense [n, d], rows L2-normalised.
        partners: The same of the other table, [m, d].
        own: The partner that is the row itself or its copy, -1 for none; never among the best.
    """

    def __init__(self, rows: Any, partners: Any, own: np.ndarray) -> None:
        n, m = rows.shape[0], partners.shape[0]
        self.rows = rows
        self._partners = partners.T
        self._n_partners = m
        self._is_large = n * m > sparse_top.EXACT_CELLS and not isinstance(rows, np.ndarray)
        self._own = own
        width = min(PARTNERS, m)
        self._done = np.zeros(n, dtype=bool)
        self._score = np.full((n, width), -1.0, dtype=np.float32)
        self._partner = np.full((n, width), -1, dtype=np.int32)

    def best(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (score, partner) of the best partners, [n, width] each, best first.

        A score of -1 with partner -1 stands for none.
        """
        wanted = np.unique(rows)
        todo = wanted[~self._done[wanted]]
        step = max(1, _BLOCK_CELLS // max(1, self._n_partners))
        if self._is_large and len(todo):
            self._fill_by_rare_terms(todo)
        else:
            for start in range(0, len(todo), step):
                interrupt.check()
                self._fill(todo[start : start + step])
        return self._score[rows], self._partner[rows]

    @cached_property
    def reference(self) -> np.ndarray:
        """Sorted best scores of a sample of the rows: what a table's best partners look like."""
        n = self.rows.shape[0]
        rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64))
        if not len(rows) or not self._score.shape[1]:
            return np.empty(0, dtype=np.float32)
        best = self.best(rows)[0][:, 0]
        return np.sort(best[best >= 0])

    @cached_property
    def _searched(self) -> sparse_top.RareTerms:
        return sparse_top.RareTerms(self._partners.T.tocsr())

    def _fill_by_rare_terms(self, rows: np.ndarray) -> None:
        width = self._score.shape[1]
        at, partner, score = self._searched.best(
            self.rows[rows], width, self._own[rows], interrupt.check
        )
        column = np.arange(len(at)) - np.searchsorted(at, at, side="left")
        self._score[rows[at], column] = np.round(score, _DECIMALS)
        self._partner[rows[at], column] = partner
        self._done[rows] = True

    def _fill(self, rows: np.ndarray) -> None:
        product = self.rows[rows] @ self._partners
        dense = product if isinstance(product, np.ndarray) else product.toarray()
        dense = np.round(np.maximum(dense, 0.0), _DECIMALS)
        copied = np.flatnonzero(self._own[rows] >= 0)
        dense[copied, self._own[rows[copied]]] = -1.0
        width = self._score.shape[1]
        self._done[rows] = True
        if not width:
            return
        top = np.argpartition(-dense, width - 1, axis=1)[:, :width]
        score = np.take_along_axis(dense, top, axis=1)
        order = np.lexsort((top, -score), axis=1)
        score = np.take_along_axis(score, order, axis=1)
        self._score[rows] = score
        self._partner[rows] = np.where(score < 0, -1, np.take_along_axis(top, order, axis=1))


class _ScoreView:
    """One kind of score between two tables, and the statistics of pairs under it."""

    def __init__(self, left: _Side, right: _Side) -> None:
        self._left = left
        self._right = right

    def statistics(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return float32 [n, len(_STATISTICS)] of pairs of distinct texts."""
        score = self._scores(left, right)
        a = _against(score, right, *self._left.best(left))
        b = _against(score, left, *self._right.best(right))
        reference = self._reference()
        spread = median = math.nan
        if len(reference):
            low, median, high = np.quantile(reference, (0.25, 0.5, 0.75))
            spread = max(float(high - low), 0.05)
        columns = [score]
        for x, y in zip(a, b, strict=True):
            columns += [np.fmin(x, y), np.fmax(x, y)]
        mutual = ((columns[5] == 0) & (columns[6] == 0)).astype(np.float32)
        mutual[np.isnan(columns[5])] = np.nan
        columns.insert(7, mutual)
        below = np.searchsorted(reference, score, side="right") / max(1, len(reference))
        columns.append(below if len(reference) else np.full(len(score), np.nan))
        columns.append((score - median) / spread)
        return np.stack(columns, axis=1).astype(np.float32)

    def _scores(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        rows, partners = self._left.rows, self._right.rows
        found = np.empty(len(left), dtype=np.float32)
        for start in range(0, len(left), 4096):
            cut = slice(start, start + 4096)
            x, y = rows[left[cut]], partners[right[cut]]
            if isinstance(x, np.ndarray):
                found[cut] = np.einsum("ij,ij->i", x, y)
            else:
                found[cut] = np.asarray(x.multiply(y).sum(axis=1)).ravel()
        return np.asarray(np.round(np.clip(found, 0.0, 1.0), _DECIMALS))

    def _reference(self) -> np.ndarray:
        """Best scores of the smaller table, whose records have partners more often."""
        n, m = self._left.rows.shape[0], self._right.rows.shape[0]
        if self._left is self._right or n < m:
            return self._left.reference
        if m < n:
            return self._right.reference
        return np.sort(np.concatenate((self._left.reference, self._right.reference)))


def _against(
    score: np.ndarray, partner: np.ndarray, best: np.ndarray, who: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compare scores with the best partners of one side.

    Returns:
        (margin over the best other partner, share of the best score, rank from 0, rivals with
        nine tenths of the score or more), each [n]; NaN where there is no other partner.
    """
    if not best.shape[1]:
        nothing = np.full(len(score), np.nan, dtype=np.float32)
        return nothing, nothing, nothing, nothing
    others = np.where((who == partner[:, None]) | (who < 0), -np.inf, best)
    top = others.max(axis=1)
    alone = np.isinf(top)
    margin = np.where(alone, np.nan, score - top)
    ceiling = np.maximum(best[:, 0], score)
    share = np.where(ceiling > 0, score / np.where(ceiling > 0, ceiling, 1), np.nan)
    tolerance = score[:, None] + 1e-6
    rank = (others > tolerance).sum(axis=1).astype(np.float32)
    rivals = (others >= 0.9 * score[:, None] - 1e-6).sum(axis=1).astype(np.float32)
    rivals[score <= 0] = np.nan
    rank[alone], rivals[alone] = np.nan, np.nan
    return margin, np.where(alone, np.nan, share), rank, rivals
