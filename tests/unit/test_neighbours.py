from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.retrieval.neighbours import Neighbours


def vectors(n: int, seed: int, d: int = 16) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_nearest_are_by_cosine_then_position() -> None:
    left, right = vectors(30, 0), vectors(40, 1)
    right[7] = right[3]  # a tie
    a, b, score = Neighbours(left, right).nearest(5)
    cosine = left @ right.T
    for row in range(30):
        expected = sorted(range(40), key=lambda j: (-cosine[row, j], j))[:5]
        assert b[a == row].tolist() == [j for j in expected if cosine[row, j] > 0]
    assert score == pytest.approx(cosine[a, b], abs=1e-6)


def test_the_other_way_gives_the_nearest_left_of_each_right() -> None:
    left, right = vectors(30, 0), vectors(40, 1)
    a, b, _ = Neighbours(left, right).nearest(2, reverse=True)
    back = Neighbours(right, left).nearest(2)
    assert (b.tolist(), a.tolist()) == (back[0].tolist(), back[1].tolist())


def test_one_set_twice_finds_no_vector_itself() -> None:
    both = vectors(20, 0)
    for exact in (True, False):
        a, b, _ = Neighbours(both, both, exact=exact).nearest(3)
        assert len(a) and np.all(a != b)


def test_more_neighbours_than_vectors_and_no_vectors() -> None:
    one, none = vectors(1, 0), np.zeros((0, 16), np.float32)
    a, _, _ = Neighbours(one, one.copy()).nearest(5)
    assert a.tolist() == [0]
    assert Neighbours(one, one).nearest(5)[0].tolist() == []
    for left, right in ((one, none), (none, one), (none, none)):
        assert Neighbours(left, right).nearest(3)[0].tolist() == []


def test_zero_vectors_have_no_neighbours() -> None:
    zero = np.zeros((3, 16), np.float32)
    assert Neighbours(zero, vectors(4, 0)).nearest(2)[0].tolist() == []


def test_clusters_find_nearly_all_and_the_same_with_other_threads() -> None:
    import faiss

    centres = vectors(40, 5)
    rng = np.random.default_rng(2)
    left, right = (
        centres[rng.integers(40, size=2000)] + 0.1 * vectors(2000, seed) for seed in (3, 4)
    )
    left, right = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (left, right)
    )
    exact = Neighbours(left, right, exact=True).nearest(5)
    threads = faiss.omp_get_max_threads()
    found = []
    try:
        for n in (1, 2):
            faiss.omp_set_num_threads(n)
            found.append(Neighbours(left, right, exact=False).nearest(5))
    finally:
        faiss.omp_set_num_threads(threads)
    assert all(np.array_equal(x, y) for x, y in zip(*found, strict=True))
    hits = np.isin(exact[0] * 2000 + exact[1], found[0][0] * 2000 + found[0][1])
    assert hits.mean() > 0.95
