"""Nearest neighbours of dense vectors: all compared, or those of near clusters only.

Vectors of large tables are put into the clusters of a k-means of both tables (faiss, seeded). A
vector is compared with the vectors of its nearest clusters, cluster by cluster, as products of
matrices: that is several times as fast as following lists of single vectors. Scores are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from meld_duckdb import interrupt

Vectors = npt.NDArray[np.float32]
_Found = tuple[np.ndarray, np.ndarray, Vectors]

EXACT_CELLS = 400_000_000
"""Pairs of vectors up to which all are compared."""

PROBES = 3
"""Clusters searched for a vector; one fewer the other way round."""

_MOST_CLUSTERS = 1024
_CLUSTER = 1024
_SAMPLE = 64
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
        self._exact = len(left) * len(right) <= EXACT_CELLS if exact is None else exact
        self._near: list[np.ndarray] = []
        if not self._exact and len(left) and len(right):
            centres = _centres(left, right)
            probes = min(PROBES, len(centres))
            self._near = [_best_products(side, centres, probes)[1] for side in (left, right)]

    def nearest(self, k: int, *, reverse: bool = False) -> _Found:
        """Find the ``k`` nearest right vectors of every left one; ``reverse`` asks the other way.

        A vector of one set twice is not its own neighbour. Small clusters may hold fewer.

        Returns:
            (left position, right position, cosine), by the side that asks, then best first, ties to
            the lower position; positive cosines only.
        """
        asked, held = self._sides[::-1] if reverse else self._sides
        wanted = min(k + int(self._same), len(held))
        parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        if len(asked) and wanted:
            if self._exact:
                parts += self._compare_all(asked, held, wanted, k)
            else:
                near = self._near[::-1] if reverse else self._near
                probed = near[0][:, : PROBES - int(reverse)]
                parts += self._compare_near(asked, held, (probed, near[1]), wanted, k)
        row, at, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        return (at, row, score) if reverse else (row, at, score)

    def _compare_all(self, asked: Vectors, held: Vectors, wanted: int, k: int) -> Iterator[_Found]:
        position = np.arange(len(held)) * 1e-13
        step = max(1, _BLOCK // len(held))
        for start in range(0, len(asked), step):
            interrupt.check()
            scores = asked[start : start + step] @ held.T
            at = np.argpartition(position - scores, wanted - 1, axis=1)[:, :wanted]
            yield self._best(start, at, np.take_along_axis(scores, at, axis=1), k)

    def _compare_near(
        self, asked: Vectors, held: Vectors, near: Sequence[np.ndarray], wanted: int, k: int
    ) -> Iterator[_Found]:
        n_probes = near[0].shape[1]
        at = np.full((len(asked), n_probes, wanted), -1, dtype=np.int32)
        scores = np.full(at.shape, -1.0, dtype=np.float32)
        askers, members = _by_cluster(near[0]), _by_cluster(near[1][:, :1])
        for cluster in range(min(len(askers), len(members))):
            interrupt.check()
            rows, probes = np.divmod(askers[cluster], n_probes)
            inside = members[cluster]
            if len(rows) and len(inside):
                found, which = _best_products(asked[rows], held[inside], min(wanted, len(inside)))
                scores[rows, probes, : found.shape[1]] = found
                at[rows, probes, : found.shape[1]] = inside[which]
        for start in range(0, len(asked), _ROWS):
            cut = slice(start, start + _ROWS)
            n_rows = len(at[cut])
            yield self._best(start, at[cut].reshape(n_rows, -1), scores[cut].reshape(n_rows, -1), k)

    def _best(self, start: int, at: np.ndarray, score: np.ndarray, k: int) -> _Found:
        """The ``k`` best of what was found for each of some rows, from ``start`` on."""
        row = np.repeat(np.arange(start, start + len(at)), at.shape[1])
        at, score = at.reshape(-1).astype(np.int64), score.reshape(-1)
        fits = (at >= 0) & (score > 0) & ~((row == at) & self._same)
        row, at, score = row[fits], at[fits], score[fits]
        order = np.lexsort((at, -score, row))
        row, at, score = row[order], at[order], score[order]
        first = np.arange(len(row)) - np.searchsorted(row, row, side="left") < k
        return row[first], at[first], score[first]


def _by_cluster(near: np.ndarray) -> list[np.ndarray]:
    """Positions in the flat array of each cluster's number, ascending."""
    flat = near.reshape(-1)
    order = np.argsort(flat, kind="stable")
    return np.split(order, np.searchsorted(flat[order], np.arange(1, int(flat.max()) + 1)))


def _best_products(asked: Vectors, held: Vectors, k: int) -> tuple[Vectors, np.ndarray]:
    """Largest products of each row: (float32 [n, k], position in ``held`` int64 [n, k])."""
    import faiss

    scores, at = faiss.knn(asked, held, k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, at


def cosines(left: Vectors, right: Vectors, a: np.ndarray, b: np.ndarray) -> Vectors:
    """Cosines of pairs of positions: float32 [n]."""
    found = np.empty(len(a), dtype=np.float32)
    for start in range(0, len(a), _ROWS):
        cut = slice(start, start + _ROWS)
        np.einsum("ij,ij->i", left[a[cut]], right[b[cut]], out=found[cut])
    return found


def _centres(left: Vectors, right: Vectors) -> Vectors:
    """Centres of the clusters of both sets together: float32 [clusters, d]."""
    import faiss

    total = len(left) + len(right)
    n = 1 << int(np.log2(max(1, min(_MOST_CLUSTERS, total // _CLUSTER))))
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
