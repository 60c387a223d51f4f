from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.planner.schema_pairs import nearest_pairs, one_to_one


def test_the_nearest_of_either_side_are_kept() -> None:
    likely = np.array([[0.9, 0.1, 0.2], [0.8, 0.0, 0.1]])
    assert nearest_pairs(likely, 1) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len(nearest_pairs(likely, 5)) == 6
    assert nearest_pairs(np.zeros((0, 3)), 2) == []
    assert nearest_pairs(np.zeros((1, 2)), 1) == [(0, 0), (0, 1)]


def test_the_best_sum_wins_over_the_best_pair() -> None:
    likely = np.array([[0.9, 0.8], [0.8, 0.1]])
    matches = np.array([[True, True], [True, False]])
    assert one_to_one(likely, matches).tolist() == [[False, True], [True, False]]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_no_column_has_two_partners_and_none_is_made_up(n: int, m: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    likely, matches = draw.random((n, m)), draw.random((n, m)) < 0.5
    kept = one_to_one(likely, matches)
    assert (kept.sum(axis=0) <= 1).all()
    assert (kept.sum(axis=1) <= 1).all()
    assert not (kept & ~matches).any()
    # Nothing that could be added is left out.
    free = ~kept.any(axis=1)[:, None] & ~kept.any(axis=0)[None, :]
    assert not (matches & free).any()
