from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from meld_duckdb.features import sparse_top
from meld_duckdb.features.context import PairTables, TableIndex
from meld_duckdb.planner.clusters import (
    connect,
    distinct_contents,
    each_pair_once,
    in_order_of_nearness,
)
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.blocking import Candidates

ROWS = [
    make_record({"id": 1, "t": "b"}),
    make_record({"id": 2, "t": None}),
    make_record({"id": 3, "t": "a"}),
    make_record({"id": 4, "t": "b"}),
    make_record({"id": 5, "t": ""}),
    make_record({"id": 6, "t": "c"}),
]


def test_equal_contents_are_one_and_rows_without_a_value_are_none() -> None:
    distinct = distinct_contents(ROWS)
    assert len(distinct.records) == 3
    assert distinct.of_row[0] == distinct.of_row[3]
    assert {r.fields["t"] for r in distinct.records} == {"a", "b", "c"}


def test_the_order_of_the_rows_has_no_part_in_the_contents() -> None:
    turned = distinct_contents(ROWS[::-1])
    assert [r.digest for r in turned.records] == [r.digest for r in distinct_contents(ROWS).records]


def test_clusters_are_numbered_by_first_row_and_empty_rows_stay_alone() -> None:
    distinct = distinct_contents(ROWS)
    a, c = distinct.of_row[2], distinct.of_row[5]
    found = connect(distinct, np.array([[min(a, c), max(a, c)]]))
    assert found.tolist() == [0, 1, 2, 0, 3, 2]
    nothing = connect(distinct_contents([]), np.empty((0, 2), dtype=np.int64))
    assert nothing.tolist() == []


def test_a_pair_found_from_both_sides_is_asked_once() -> None:
    left, right = np.array([0, 1, 2]), np.array([1, 0, 1])
    found = each_pair_once(Candidates(left, right, np.ones(3, int), np.ones(3)))
    assert found.tolist() == [[0, 1], [1, 2]]
    assert sorted(in_order_of_nearness(found, 3).tolist()) == [0, 1]


@pytest.mark.parametrize("own", [False, True])
def test_search_by_rare_terms_finds_what_full_search_finds(own: bool) -> None:
    rng = np.random.default_rng(0)
    rows = sparse.random(60, 400, density=0.05, format="csr", dtype=np.float32, random_state=rng)
    skipped = np.arange(60) if own else np.full(60, -1)
    left, right, score = sparse_top.RareTerms(rows).best(rows, 3, skipped, lambda: None)
    dense = (rows @ rows.T).toarray()
    if own:
        np.fill_diagonal(dense, 0.0)
    for row in range(60):
        expected = np.sort(dense[row][dense[row] > 0])[::-1][:3]
        assert score[left == row] == pytest.approx(expected)
        assert dense[row, right[left == row]] == pytest.approx(expected)


def test_context_of_a_large_table_is_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [make_record({"t": " ".join(map(str, rng.integers(100, 160, 9)))}) for _ in range(40)]
    pairs = [(i, (i * 7 + 1) % 40) for i in range(40)]
    table = TableIndex(rows)
    whole = PairTables(table, table).context_features(pairs)
    monkeypatch.setattr(sparse_top, "EXACT_CELLS", 100)
    table = TableIndex(rows)
    assert PairTables(table, table).context_features(pairs) == pytest.approx(
        whole, abs=2e-5, nan_ok=True
    )
