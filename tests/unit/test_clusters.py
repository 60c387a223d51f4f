from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from meld_duckdb.features import sparse_top
from meld_duckdb.features.context import PairTables, TableIndex
from meld_duckdb.planner.clusters import (
    agreeing_groups,
    connected_groups,
    distinct_contents,
    in_order_of_nearness,
    mutual_pairs,
    number_clusters,
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
    a, b, c = (distinct.of_row[i] for i in (2, 0, 5))
    group = np.empty(3, dtype=np.int64)
    group[[a, b, c]] = [7, 5, 7]
    assert number_clusters(distinct, group).tolist() == [0, 1, 2, 0, 3, 2]
    assert number_clusters(distinct_contents([]), np.empty(0, dtype=np.int64)).tolist() == []


def groups(likely: dict[tuple[int, int], float], n: int, k: int = 10) -> list[set[int]]:
    pairs = np.array(list(likely), dtype=np.int64).reshape(-1, 2)
    found = agreeing_groups(n, pairs, np.array(list(likely.values())), 0.5, k)
    return sorted(({*np.flatnonzero(found == g).tolist()} for g in set(found.tolist())), key=min)


def test_a_chain_of_matches_is_cut_at_its_weakest() -> None:
    assert groups({(0, 1): 0.9, (1, 2): 0.6}, 3) == [{0, 1}, {2}]
    assert groups({(0, 1): 0.9, (1, 2): 0.6, (0, 2): 0.1}, 3) == [{0, 1}, {2}]
    assert groups({(0, 1): 0.9, (1, 2): 0.6, (0, 2): 0.7}, 3) == [{0, 1, 2}]
    assert groups({(0, 1): 0.4}, 2) == [{0}, {1}]
    assert groups({}, 2) == [{0}, {1}]


def test_many_copies_stay_together_though_none_has_all_others_as_candidates() -> None:
    near = {(i, j): 0.9 for i in range(30) for j in range(i + 1, min(i + 5, 30))}
    assert groups(near, 30, k=5) == [set(range(30))]


def test_a_pair_is_asked_once_and_only_if_both_sides_propose_it() -> None:
    left, right = np.array([0, 1, 1, 2, 3]), np.array([1, 0, 2, 1, 0])
    found = mutual_pairs(Candidates(left, right, np.ones(5, int), np.ones(5)))
    assert found.tolist() == [[0, 1], [1, 2]]
    assert sorted(in_order_of_nearness(found, 4).tolist()) == [0, 1]


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


def test_components_join_along_chains() -> None:
    pairs = np.array([[0, 1], [1, 2], [3, 4]])
    found = connected_groups(6, pairs, np.array([0.9, 0.6, 0.4]), 0.5)
    assert found[0] == found[1] == found[2]
    assert len(set(found.tolist())) == 4
    assert len(set(connected_groups(2, np.empty((0, 2), np.int64), np.empty(0), 0.5))) == 2
