"""Blocking (BLK): for every left record the k right records most worth comparing.

Search is exact up to `sparse_top.EXACT_CELLS` pairs of rows. Larger tables are searched by their
rare terms (`features.sparse_top`), with exact scores of what is found. The lexical score is the
mean of two TF-IDF cosines, over words and over character 3-grams, weighted by the two tables
together; the dense score is the encoder's cosine.

Paper: MELD §2.2 and §5 (top-k recall). Ties, of which it says nothing, go to the lower position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features import sparse_top
from meld_duckdb.features import text as tx
from meld_duckdb.features.context import comparable_text
from meld_duckdb.records import Record
from meld_duckdb.retrieval.groups import Groups

METHODS = ("ranked", "lexical", "dense", "hybrid", "static", "union")
_CELLS = 8_000_000
_TIE = 1e-13


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidate pairs: positions in both tables, rank from 1 and score; by left, then rank.

    ``recall`` is the estimated share of all matches among them, None where there is no estimate.
    """

    left: np.ndarray
    right: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    recall: float | None = None


def find_candidates(
    left: Sequence[Record],
    right: Sequence[Record],
    k: int,
    *,
    vectors: tuple[np.ndarray, np.ndarray] | None,
    lexical: bool,
    same: bool,
) -> Candidates:
    """Find the ``k`` best right records of every left record.

    Args:
        left: Left table.
        right: Right table.
        k: Candidates per left record; fewer where nothing else is similar at all.
        vectors: Embeddings of both tables (float32 [n, d], L2-normalised) to use the dense score.
        lexical: Whether to use the lexical score; with ``vectors`` the mean of both counts.
        same: Both are one table: a record is no candidate of itself.
    """
    texts = [[comparable_text(r) for r in side] for side in ((left, right) if lexical else ())]
    matrices = lexical_matrices(*texts) if lexical else []
    if lexical and vectors is None and len(left) * len(right) > sparse_top.EXACT_CELLS:
        return _by_rare_terms(matrices, k, same)
    shape = (len(left), len(right))
    return _compare_all(shape, matrices, vectors, k, same)


def _compare_all(
    shape: tuple[int, int],
    matrices: list[tuple[Any, Any]],
    vectors: tuple[np.ndarray, np.ndarray] | None,
    k: int,
    same: bool,
) -> Candidates:
    """Score every left record against every right one."""
    parts: list[np.ndarray] = []
    n_left, n_right = shape
    height = max(1, _CELLS // max(n_right, 1))
    for start in range(0, n_left, height):
        interrupt.check()
        stop = min(start + height, n_left)
        scores = np.zeros((stop - start, n_right), dtype=np.float32)
        for rows, columns in matrices:
            scores += (rows[start:stop] @ columns.T).toarray() / len(matrices)
        if vectors is not None:
            dense = vectors[0][start:stop] @ vectors[1].T
            scores = (scores + dense) / 2 if matrices else dense
        if same:
            scores[np.arange(stop - start), np.arange(start, stop)] = -1.0
        parts.append(_best(scores, start, k))
    return _table(np.concatenate(parts) if parts else np.zeros((0, 4)))


def compare_within(
    blocks: Iterable[tuple[np.ndarray, ...]],
    groups: Groups,
    matrices: list[tuple[Any, Any]],
    vectors: tuple[np.ndarray, np.ndarray] | None,
    k: int,
    *,
    lexical_share: float,
    same: bool,
) -> Candidates:
    """Find the ``k`` best right rows of every left row among those of its group.

    Args:
        blocks: Left and right positions of one or more groups each; see `groups.packed`.
        groups: Group of every row.
        matrices: TF-IDF matrices of both tables; the lexical score is the mean of their cosines.
        vectors: Of both tables, float32 [n, d], rows L2-normalised; None for the lexical score
            alone.
        k: Candidates per left row.
        lexical_share: Weight of the lexical score in the mean, the rest is that of the vectors.
        same: Both are one table: a row is no candidate of itself.
    """
    parts = [np.zeros((0, 4))]
    for block, columns in blocks:
        height = max(1, _CELLS // len(columns))
        for start in range(0, len(block), height):
            interrupt.check()
            rows = block[start : start + height]
            scores = np.zeros((len(rows), len(columns)), dtype=np.float32)
            for left, right in matrices:
                product = (left[rows] @ right[columns].T).toarray()
                scores += product * np.float32(lexical_share / len(matrices))
            if vectors is not None:
                dense = vectors[0][rows] @ vectors[1][columns].T
                scores += dense * np.float32(1 - lexical_share)
            scores[groups.left[rows][:, None] != groups.right[columns]] = -1.0
            if same:
                scores[rows[:, None] == columns] = -1.0
            best = _best(scores, 0, k)
            best[:, 0] = rows[best[:, 0].astype(np.int64)]
            best[:, 1] = columns[best[:, 1].astype(np.int64)]
            parts.append(best)
    table = np.concatenate(parts)
    return _table(table[np.argsort(table[:, 0], kind="stable")])


class ExactLexical:
    """Two tables whose rows are all compared by words and 3-grams.

    Args:
        left: Folded texts of the left table.
        right: Of the right table; the same object for one table twice.
    """

    def __init__(self, left: Sequence[str], right: Sequence[str]) -> None:
        self._shape = (len(left), len(right))
        self._same = left is right
        self._matrices = lexical_matrices(left, right)

    def candidates(self, k: int) -> Candidates:
        """The ``k`` best right rows of every left row, ties to the lower position."""
        return _compare_all(self._shape, self._matrices, None, k, self._same)

    def scores(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Mean cosines over words and 3-grams of pairs of positions: float32 [n]."""
        found = np.zeros(len(left), dtype=np.float32)
        for rows, partners in self._matrices:
            found += sparse_top.pair_products(rows, partners, left, right) / len(self._matrices)
        return found


def best_of_each(
    left: np.ndarray, right: np.ndarray, score: np.ndarray, k: int
) -> tuple[Candidates, np.ndarray]:
    """The ``k`` best pairs of every left record, ties to the lower position.

    Returns:
        The candidates, and where they stood in the arrays given.
    """
    order = np.lexsort((right, -score, left))
    at = left[order]
    rank = np.arange(len(at)) - np.searchsorted(at, at, side="left") + 1
    order, rank = order[rank <= k], rank[rank <= k]
    return Candidates(left[order], right[order], rank, score[order]), order


def _by_rare_terms(matrices: list[tuple[Any, Any]], k: int, same: bool) -> Candidates:
    """Search large tables; see `features.sparse_top`."""
    from scipy import sparse

    scale = np.float32(len(matrices) ** -0.5)
    left, right = (
        sparse.hstack([pair[side] for pair in matrices], format="csr") * scale for side in (0, 1)
    )
    own = np.arange(left.shape[0]) if same else np.full(left.shape[0], -1)
    a, b, score = sparse_top.RareTerms(right).best(left, k, own, interrupt.check)
    rank = np.arange(len(a)) - np.searchsorted(a, a, side="left") + 1
    return _table(np.column_stack([a, b, rank, score]))


def _table(table: np.ndarray) -> Candidates:
    return Candidates(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2].astype(np.int64),
        table[:, 3],
    )


def lexical_matrices(left: Sequence[str], right: Sequence[str]) -> list[tuple[Any, Any]]:
    """Word and 3-gram TF-IDF matrices of both sides, scipy sparse, rows L2-normalised."""
    # Terms are made one record at a time: all 3-grams of a large table fill gigabytes.
    splits: tuple[Callable[[str], Iterable[str]], ...] = (tx.words, tx.grams)
    return [
        tx.tfidf_matrices((split(t) for t in left), (split(t) for t in right)) for split in splits
    ]


def _best(scores: np.ndarray, start: int, k: int) -> np.ndarray:
    """The k best columns of every row as rows (left, right, rank, score), zero scores left out."""
    k = min(k, scores.shape[1])
    if k == 0:
        return np.zeros((0, 4))
    # Equal scores go to the lower position: a tie is broken by less than float32 can tell apart.
    ranked = scores.astype(np.float64) - np.arange(scores.shape[1]) * _TIE
    order = np.argpartition(-ranked, k - 1, axis=1)[:, :k]
    within = np.argsort(-np.take_along_axis(ranked, order, axis=1), axis=1, kind="stable")
    order = np.take_along_axis(order, within, axis=1)
    best = np.take_along_axis(scores, order, axis=1)
    rows = np.repeat(np.arange(start, start + len(scores)), k)
    ranks = np.tile(np.arange(1, k + 1), len(scores))
    found = np.column_stack([rows, order.reshape(-1), ranks, best.reshape(-1)])
    return found[best.reshape(-1) > 0]
