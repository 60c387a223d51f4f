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

BUDGET = 2_000
"""Right rows looked at for a left text, counted once for each term they share with it."""

LEAST_TERMS = 3
"""Rarest terms of a text that are looked up whatever they cost, if fewer rows than `MOST` do."""

MOST = 20_000
"""Rows from which a term is too common to be looked up at all."""

GATHERED = 2
"""Rows gathered for each one wanted, `LEAST_GATHERED` at the least."""

LEAST_GATHERED = 20

_ROWS = 50_000
_COST_BITS = 20


class LexicalSearch:
    """Two tables, prepared to be searched.

    Args:
        left: Folded texts of the left table.
        right: Of the right table; the same object for one table twice.
    """

    def __init__(self, left: Sequence[str], right: Sequence[str]) -> None:
        self.same = left is right
        first = hashed_terms(left, interrupt.check)
        second = first if self.same else hashed_terms(right, interrupt.check)
        self._terms = (first, second)
        self._cost = np.bincount(second.columns, minlength=1 << BITS)
        frequency, n_texts = self._cost, len(second)
        if not self.same:
            frequency = frequency + np.bincount(first.columns, minlength=1 << BITS)
            n_texts += len(first)
        self._weights = term_weights(frequency, n_texts)
        left_words = first.words().matrix(self._weights)
        right_words = left_words if self.same else second.words().matrix(self._weights)
        self._words = (left_words, right_words)

    @property
    def words(self) -> tuple[Any, Any]:
        """TF-IDF matrices over words of both tables, rows L2-normalised."""
        return self._words

    def candidates(self, k: int) -> Candidates:
        """The ``k`` best right rows of every left row, ties to the lower position."""
        asked, held = self._terms
        partners = by_term(held, self._cost, self._weights)
        most = max(GATHERED * k, LEAST_GATHERED) + int(self.same)
        nothing = np.empty(0, dtype=np.int64)
        parts = [Candidates(nothing, nothing, nothing, np.empty(0, dtype=np.float32))]
        for start in range(0, len(asked), _ROWS):
            interrupt.check()
            part = within_budget(asked.part(start, min(start + _ROWS, len(asked))), self._cost)
            a, b, _ = sparse_top.top_products(part.matrix(self._weights), partners, most)
            a, b = a + start, len(held) - 1 - b
            if self.same:
                a, b = a[a != b], b[a != b]
            score = self.scores(a, b)
            some = score > 0
            parts.append(best_of_each(a[some], b[some], score[some], k)[0])
        return Candidates(
            np.concatenate([part.left for part in parts]),
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.rank for part in parts]),
            np.concatenate([part.score for part in parts]),
        )

    def scores(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Cosines over words of pairs of positions: float32 [n]."""
        return sparse_top.pair_products(*self._words, left, right)


def term_weights(frequency: np.ndarray, n_texts: int) -> np.ndarray:
    """How much each term tells, by the texts of both tables that hold it: float32."""
    weights = np.log((1.0 + n_texts) / (1.0 + frequency)) + 1.0
    return np.asarray(weights, dtype=np.float32)


def by_term(held: Terms, counts: np.ndarray, weights: np.ndarray) -> Any:
    """The transposed matrix; terms that no text can afford to look up are left out.

    The last row comes first: of equal products the search keeps those of the higher columns.
    """
    affordable = counts[held.columns] <= max(BUDGET, MOST)
    return held.kept(affordable).matrix(weights)[::-1].T.tocsr()


def within_budget(terms: Terms, counts: np.ndarray) -> Terms:
    """The rarest terms of each text that cost no more than the budget together."""
    cost = np.minimum(counts[terms.columns], MOST + 1)
    # One number for text, cost and term: sorting numbers is many times as fast as sorting by keys.
    keys = terms.rows().astype(np.uint64) << np.uint64(_COST_BITS) | cost.astype(np.uint64)
    keys = keys << np.uint64(BITS) | terms.columns.astype(np.uint64)
    keys.sort()
    cost = (keys >> np.uint64(BITS)).astype(np.int64) & ((1 << _COST_BITS) - 1)
    rows = terms.rows()
    spent = np.cumsum(cost)
    before = np.concatenate(([0], spent))[terms.starts[:-1]]
    place = np.arange(len(keys)) - terms.starts[:-1][rows]
    affordable = (spent - before[rows] <= BUDGET) | ((place < LEAST_TERMS) & (cost <= MOST))
    columns = (keys & np.uint64((1 << BITS) - 1)).astype(np.int32)
    return Terms(columns, terms.starts).kept(affordable & (cost > 0))
