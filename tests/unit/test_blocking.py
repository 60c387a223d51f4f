from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.records import make_record
from meld_duckdb.retrieval import blocking
from meld_duckdb.retrieval.blocking import find_candidates


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=5, max_size=5), min_size=1),
    st.integers(1, 7),
)
def test_best_are_by_score_then_position(scores: list[list[float]], k: int) -> None:
    found = blocking._best(np.array(scores, dtype=np.float32), 10, k)
    expected = [
        (10 + i, j, rank, line[j])
        for i, line in enumerate(scores)
        for rank, j in enumerate(sorted(range(5), key=lambda j: (-line[j], j))[:k], 1)
        if line[j] > 0
    ]
    assert [tuple(row) for row in found.tolist()] == expected


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [make_record({"t": f"thing {i % 7} {i % 3} x{i}"}) for i in range(40)]
    whole = find_candidates(rows, rows, 3, vectors=None, lexical=True, same=True)
    monkeypatch.setattr(blocking, "_CELLS", 90)
    parts = find_candidates(rows, rows, 3, vectors=None, lexical=True, same=True)
    for name in ("left", "right", "rank"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert np.all(whole.left != whole.right)


def test_dense_scores_are_cosines() -> None:
    rows = [make_record({"t": name}) for name in "ab"]
    left = np.array([[1, 0], [0.6, 0.8]], np.float32)
    right = np.array([[0, 1], [1, 0]], np.float32)
    found = find_candidates(rows, rows, 1, vectors=(left, right), lexical=False, same=False)
    assert found.left.tolist() == [0, 1]
    assert found.right.tolist() == [1, 0]
    assert found.score.tolist() == pytest.approx([1.0, 0.8])
