"""Lexical candidates of tables of any size: rare words and word pairs first, then exact scores.

Each left text spends a fixed budget: its terms, rarest first, until the right rows that hold them
are `BUDGET`. So the work grows with the rows and not with their product, and a text of common words
only has candidates too. What is gathered is then scored by the TF-IDF cosine over words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features import sparse_top
from meld_duckdb.features.hashed_terms import BITS, Terms, hashed_terms
from meld_duckdb.retrieval.blocking import Candidates, best_of_each

BUDGET = 1_000
"""Right rows looked at for a left text, counted once for each term they share with it."""

LEAST_TERMS = 3
"""Rarest terms of a text that are looked up whatever they cost, if fewer rows than `MOST` do."""

MOST = 20_000

GATHERED = 2
"""Rows gathered for each one wanted."""

_ROWS = 50_000


class LexicalSearch:
    """Two tables, prepared to be searched in both directions.

    Args:
        left: Folded texts of the left table.
        right: Of the right table; the same object for one table twice.
    """

    def __init__(self, left: Sequence[str], right: Sequence[str]) -> None:
        self.same = left is right
        first = hashed_terms(left, interrupt.check)
        second = first if self.same else hashed_terms(right, interrupt.check)
        self._terms = (first, second)
        counts = [np.bincount(t.columns, minlength=1 << BITS) for t in (first, second)]
        frequency, n_texts = counts[1], len(second)
        if not self.same:
            frequency, n_texts = counts[0] + counts[1], len(first) + len(second)
        weights = np.log((1.0 + n_texts) / (1.0 + frequency)) + 1.0
        self._weights = weights.astype(np.float32)
        self._counts = counts
        words = [t.words().matrix(self._weights) for t in ((first,) if self.same else (first, second))]
        self._words = (words[0], words[-1])

    def candidates(self, k: int) -> Candidates:
        """The ``k`` best right rows of every left row, ties to the lower position."""
        return self._search(0, 1, k)

    def scores(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Cosines over words of pairs of positions: float32 [n]."""
        return self._scores(0, left, right)

    def _scores(self, side: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return sparse_top.pair_products(self._words[side], self._words[1 - side], a, b)

    def _search(self, side: int, other: int, k: int) -> Candidates:
        asked, held = self._terms[side], self._terms[other]
        partners = _columns_first(held, self._weights)
        most = GATHERED * k + int(self.same)
        parts = []
        for start in range(0, len(asked), _ROWS):
            interrupt.check()
            part = _within_budget(asked.part(start, min(start + _ROWS, len(asked))), self._counts[other])
            a, b, _ = sparse_top.top_products(part.matrix(self._weights), partners, most)
            a += start
            if self.same:
                a, b = a[a != b], b[a != b]
            score = self._scores(side, a, b)
            found, _ = best_of_each(*(column[score > 0] for column in (a, b, score)), k)
            parts.append((found.left, found.right, found.rank, found.score))
        if not parts:
            none = np.empty(0, dtype=np.int64)
            return Candidates(none, none, none, np.empty(0))
        return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _columns_first(terms: Terms, weights: np.ndarray) -> Any:
    """The transposed matrix, by term; what no text can afford to look up is left out."""
    counts = np.bincount(terms.columns, minlength=1 << BITS)
    return terms.kept(counts[terms.columns] <= max(BUDGET, MOST)).matrix(weights).T.tocsr()


def _within_budget(terms: Terms, counts: np.ndarray) -> Terms:
    """The rarest terms of each text that cost no more than the budget together."""
    cost = counts[terms.columns]
    rows = terms.rows()
    order = np.lexsort((terms.columns, cost, rows))
    spent = np.cumsum(cost[order])
    before = np.concatenate(([0], spent))[terms.starts[:-1]]
    place = np.arange(len(order)) - terms.starts[:-1][rows]
    affordable = (spent - before[rows] <= BUDGET) | ((place < LEAST_TERMS) & (cost[order] <= MOST))
    keep = np.zeros(len(order), dtype=bool)
    keep[order] = affordable & (cost[order] > 0)
    return terms.kept(keep)
