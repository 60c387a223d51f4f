"""The k largest cosines of every row of two large sparse matrices, without their dense product.

Terms that many rows hold cost most of a product and tell least. So rows are first gathered by
their rare terms only, and the best gathered are then scored exactly over all terms.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

EXACT_CELLS = 100_000_000
"""Pairs of rows up to which every row is compared with every row instead."""

COMMON = 500
"""Rows of the right table from which a term is too common to gather by."""

GATHERED = 4
"""Rows gathered for each one wanted, `LEAST_GATHERED` at the least."""

LEAST_GATHERED = 32
_CELLS = 40_000_000
_PAIRS = 100_000
_TIE = 1e-13


class RareTerms:
    """A table to search, prepared once.

    Args:
        right: ``csr_matrix`` float32 [m, d].
    """

    def __init__(self, right: Any) -> None:
        frequency = np.bincount(right.indices, minlength=right.shape[1])
        self._right = right
        self._rare = np.flatnonzero((frequency > 0) & (frequency <= COMMON))
        self._frequency = frequency[self._rare].astype(np.float32)
        self._partners = right[:, self._rare].T.tocsr()

    def best(
        self, left: Any, k: int, own: np.ndarray, check: Callable[[], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find about the ``k`` best right rows of every left row.

        What is found for a row does not depend on the other left rows.

        Args:
            left: ``csr_matrix`` float32 [n, d].
            k: Rows wanted per left row.
            own: The right row that is not to be found for a left row, -1 for none; int [n].
            check: Called now and then; may raise to stop.

        Returns:
            (left row, right row, score), by left row, then score, then right row; scores are exact
            and positive. A row without a rare term in common with another has none.
        """
        rows = left[:, self._rare].tocsr()
        wanted = max(LEAST_GATHERED, GATHERED * k)
        work = np.asarray(rows.astype(bool).astype(np.float32) @ self._frequency)
        parts = []
        for start, stop in _chunks(work):
            check()
            found = _largest(rows[start:stop] @ self._partners, wanted, start, own)
            parts.append(_exact(left, self._right, *found, k))
        if not parts:
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, np.empty(0, dtype=np.float32)
        a, b, c = (np.concatenate(column) for column in zip(*parts, strict=True))
        return a, b, c


def _chunks(work: np.ndarray) -> list[tuple[int, int]]:
    """Cut rows so that a chunk's product has a bounded number of entries."""
    total = np.cumsum(work.astype(np.float64))
    chunks, start = [], 0
    while start < len(work):
        before = total[start - 1] if start else 0.0
        stop = int(np.searchsorted(total, before + _CELLS, side="right"))
        chunks.append((start, max(stop, start + 1)))
        start = chunks[-1][1]
    return chunks


def _largest(product: Any, most: int, first: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the largest entries of each row; ties go to the lower column."""
    lefts, rights = [], []
    for row in range(product.shape[0]):
        cut = slice(product.indptr[row], product.indptr[row + 1])
        columns, values = product.indices[cut], product.data[cut]
        other = columns != own[first + row]
        columns, values = columns[other], values[other]
        if len(columns) > most:
            ranked = values.astype(np.float64) - columns * _TIE
            columns = columns[np.argpartition(-ranked, most - 1)[:most]]
        rights.append(np.sort(columns))
        lefts.append(np.full(len(columns), first + row))
    return np.concatenate(lefts).astype(np.int64), np.concatenate(rights).astype(np.int64)


def _exact(
    left: Any, right: Any, a: np.ndarray, b: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score pairs over all terms and keep the k best of each left row."""
    score = pair_products(left, right, a, b)
    order = np.lexsort((b, -score, a))
    a, b, score = a[order], b[order], score[order]
    rank = np.arange(len(a)) - np.searchsorted(a, a, side="left")
    keep = (rank < k) & (score > 0)
    return a[keep], b[keep], score[keep]


def top_products(
    left: Any, partners: Any, most: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``most`` largest entries of each row of a product.

    Args:
        left: ``csr_matrix`` float32 [n, d].
        partners: ``csr_matrix`` float32 [d, m].
        most: Entries kept of each row.
        threads: Threads that compute; None for all cores.

    Returns:
        (row, column, entry), by row.
    """
    from sparse_dot_topn import sp_matmul_topn

    threads = threads or os.cpu_count() or 1
    product = sp_matmul_topn(left, partners, most, sort=True, n_threads=threads)
    rows = np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
    return rows, product.indices.astype(np.int64), product.data


def pair_products(left: Any, right: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of pairs of rows of two sparse matrices: float32 [n]."""
    found = np.empty(len(a), dtype=np.float32)
    for start in range(0, len(a), _PAIRS):
        cut = slice(start, start + _PAIRS)
        found[cut] = np.asarray(left[a[cut]].multiply(right[b[cut]]).sum(axis=1)).ravel()
    return found
