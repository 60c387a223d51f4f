"""Nearest neighbours of dense vectors: by matrix products, or by an inverted file of clusters.

Vectors of large tables are put into the clusters of a k-means of both tables (faiss, seeded); a
vector is compared with those of its nearest clusters only. Scores are exact in any case.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from meld_duckdb import interrupt

Vectors = npt.NDArray[np.float32]
_Search = Callable[[Vectors, int], tuple[np.ndarray, np.ndarray]]

EXACT_CELLS = 400_000_000
"""Pairs of vectors up to which all are compared."""

PROBES = 8
"""Clusters searched for a vector."""

_MOST_CLUSTERS = 4096
_SAMPLE = 40
_ROUNDS = 8
_BLOCK = 16_000_000
_ROWS = 50_000


class Neighbours:
    """Two sets of vectors, prepared to be searched in both directions.

    Args:
        left: float32 [n, d], rows L2-normalised.
        right: float32 [m, d]; the same object for one set twice.
        exact: Whether to compare all; None to decide by size.
    """

    def __init__(self, left: Vectors, right: Vectors, exact: bool | None = None) -> None:
        self._sides = (left, right)
        self._same = left is right
        n_cells = len(left) * len(right)
        self._exact = n_cells <= EXACT_CELLS if exact is None else exact
        self._centres = None if self._exact else _centres(left, right)

    def nearest(self, k: int, *, reverse: bool = False) -> tuple[np.ndarray, np.ndarray, Vectors]:
        """Find the ``k`` nearest right vectors of every left one; ``reverse`` asks the other way.

        A vector of one set twice is not its own neighbour. Small clusters may hold fewer.

        Returns:
            (left position, right position, cosine), by the side that asks, then best first, ties to
            the lower position; positive cosines only.
        """
        asked, held = self._sides[::-1] if reverse else self._sides
        wanted = min(k + int(self._same), len(held))
        if not len(asked) or not wanted:
            none = np.empty(0, dtype=np.int64)
            return none, none, np.empty(0, dtype=np.float32)
        search = _all_pairs(held) if self._centres is None else _inverted_file(held, self._centres)
        step = max(1, _BLOCK // len(held)) if self._exact else _ROWS
        parts = []
        for start in range(0, len(asked), step):
            interrupt.check()
            score, at = search(asked[start : start + step], wanted)
            row = np.repeat(np.arange(start, start + len(at)), wanted)
            at, score = at.reshape(-1).astype(np.int64), score.reshape(-1)
            fits = (at >= 0) & (score > 0) & ~((row == at) & self._same)
            row, at, score = row[fits], at[fits], score[fits]
            order = np.lexsort((at, -score, row))
            row, at, score = row[order], at[order], score[order]
            first = np.arange(len(row)) - np.searchsorted(row, row, side="left") < k
            parts.append((row[first], at[first], score[first]))
        row, at, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        return (at, row, score) if reverse else (row, at, score)


def cosines(left: Vectors, right: Vectors, a: np.ndarray, b: np.ndarray) -> Vectors:
    """Cosines of pairs of positions: float32 [n]."""
    found = np.empty(len(a), dtype=np.float32)
    for start in range(0, len(a), _ROWS):
        cut = slice(start, start + _ROWS)
        np.einsum("ij,ij->i", left[a[cut]], right[b[cut]], out=found[cut])
    return found


def _all_pairs(held: Vectors) -> _Search:
    position = np.arange(len(held)) * 1e-13

    def search(asked: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = asked @ held.T
        ranked = position - scores
        at = np.argpartition(ranked, k - 1, axis=1)[:, :k]
        return np.take_along_axis(scores, at, axis=1), at

    return search


def _centres(left: Vectors, right: Vectors) -> Vectors:
    """Centres of the clusters of both sets together: float32 [clusters, d]."""
    import faiss

    total = len(left) + len(right)
    n = 1 << int(np.log2(max(1, min(_MOST_CLUSTERS, total // 256))))
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(total, min(total, n * _SAMPLE), replace=False))
    sample = np.concatenate(
        (left[rows[rows < len(left)]], right[rows[rows >= len(left)] - len(left)])
    )
    means = faiss.Kmeans(
        left.shape[1], n, niter=_ROUNDS, seed=1, spherical=True, min_points_per_centroid=1
    )
    means.train(np.ascontiguousarray(sample))
    return np.asarray(means.centroids, dtype=np.float32)


def _inverted_file(held: Vectors, centres: Vectors) -> _Search:
    import faiss

    clusters = faiss.IndexFlatIP(held.shape[1])
    clusters.add(centres)
    index = faiss.IndexIVFFlat(clusters, held.shape[1], len(centres), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = PROBES
    for start in range(0, len(held), _ROWS):
        interrupt.check()
        index.add(held[start : start + _ROWS])

    def search(asked: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray] = index.search(np.ascontiguousarray(asked), k)
        return found

    return search
