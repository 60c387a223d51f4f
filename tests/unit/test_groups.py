from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.features import sparse_top
from meld_duckdb.records import make_record
from meld_duckdb.retrieval import blocking, groups, methods
from meld_duckdb.retrieval.blocking import METHODS, Candidates
from meld_duckdb.retrieval.groups import Groups, equal_groups, packed, parse_equal
from meld_duckdb.retrieval.methods import Blocking, Vectorisers, find
from meld_duckdb.retrieval.table_rows import TableRows
from tests.scripted import HashingEncoder


def rows(*values: object, column: str = "brand") -> TableRows:
    return TableRows(
        [make_record({column: value, "name": f"thing {i}"}) for i, value in enumerate(values)]
    )


class _Static:
    def encode_tables(
        self, left: list[str], right: list[str], dimension: int
    ) -> tuple[np.ndarray, np.ndarray]:
        first = HashingEncoder().encode(left)
        return first, first if right is left else HashingEncoder().encode(right)


MODELS = Vectorisers(lambda table: HashingEncoder().encode(table.texts), _Static)  # type: ignore[arg-type]


def pairs(found: Candidates) -> list[tuple[int, int]]:
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


def table(brands: list[str | None], word: str) -> TableRows:
    return TableRows(
        [
            make_record({"brand": brand, "name": f"{word} model {i % 4} of {i % 3} x{i // 2}"})
            for i, brand in enumerate(brands)
        ]
    )


def test_values_are_compared_by_their_text() -> None:
    left = rows(7, "7", 7.0, "Sony", "sony", " Sony", None, "", dt.date(2020, 1, 2), True)
    right = rows(Decimal("7.00"), "Sony", None, "", "2020-01-02", "true")
    found = equal_groups(left, right, parse_equal(["brand"]))
    equal = found.left[:, None] == found.right
    equal &= found.left[:, None] >= 0
    assert np.argwhere(equal).tolist() == [
        [0, 0], [1, 0], [2, 0], [3, 1], [7, 3], [8, 4], [9, 5],
    ]  # fmt: skip


def test_arrow_and_records_give_the_same_groups() -> None:
    struct = pa.array(
        [{"Brand": "a", "n": 1}, {"Brand": None, "n": 1}, None, {"Brand": "a", "n": None}]
    )
    in_arrow = TableRows(array=struct)
    as_records = TableRows(list(TableRows(array=struct).records))
    for side in (in_arrow, as_records):
        found = equal_groups(side, side, parse_equal(["brand"]))  # found in any case
        assert found.left.tolist() == [0, -1, -1, 0] and found.right is found.left
        assert equal_groups(side, side, parse_equal(["brand", "n"])).left.tolist() == [
            0,
            -1,
            -1,
            -1,
        ]


def test_columns_may_have_different_names() -> None:
    left, right = rows(1, 2, column="zip"), rows("2", "3", column="postcode")
    found = equal_groups(left, right, parse_equal(["zip = postcode"]))
    assert found.left[1] == found.right[0]
    assert len({*found.left.tolist(), *found.right.tolist()}) == 3


@pytest.mark.parametrize("term", ["", " ", "= b", "a ="])
def test_a_term_without_a_name_is_refused(term: str) -> None:
    with pytest.raises(ConfigError, match="expected the name of a column"):
        parse_equal([term])


def test_an_unknown_column_is_named_with_its_side() -> None:
    with pytest.raises(InputError, match=r"unknown column 'band' in the right table.*brand"):
        equal_groups(rows(1), rows(1), parse_equal(["brand=band"]))
    with pytest.raises(InputError, match="in the left table"):
        equal_groups(rows(1), rows(1), parse_equal(["band=brand"]))
    empty = TableRows([])
    assert equal_groups(empty, rows(1), parse_equal(["brand"])).left.tolist() == []


def test_candidates_are_counted_by_group() -> None:
    apart = Groups(np.array([0, 0, 1, -1, 5]), np.array([0, 0, 0, 1, -1]))
    assert apart.n_candidates(2, same=False) == 2 + 2 + 1
    numbers = np.array([0, 0, 0, 1, -1])
    assert Groups(numbers, numbers).n_candidates(10, same=True) == 3 * 2


def test_small_groups_are_packed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PACKED", 4)
    members = [(np.array([i]), np.array([2 * i, 2 * i + 1])) for i in range(5)]
    sizes = [(len(a), len(b)) for a, b in packed(members)]
    assert sizes == [(2, 4), (2, 4), (1, 2)]
    assert [len(b) for _, b in packed([(np.arange(1), np.arange(9))])] == [9]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=14),
    st.lists(st.sampled_from(["a", "b", "d", None]), min_size=1, max_size=14),
    st.sampled_from([m for m in METHODS if m != "union"]),
    st.booleans(),
)
def test_groups_give_what_filtering_all_pairs_gives(
    first: list[str | None], second: list[str | None], method: str, same: bool
) -> None:
    left = table(first, "apple")
    right = left if same else table(second, "apples")
    k = 20
    every = find(left, right, Blocking(k, method), MODELS, max_pairs=10_000)
    names = (first, first if same else second)
    wanted = {
        (i, j): score
        for (i, j), score in zip(pairs(every), every.score.tolist(), strict=True)
        if names[0][i] is not None and names[0][i] == names[1][j]
    }
    equal = parse_equal(["brand"])
    found = find(left, right, Blocking(k, method, equal), MODELS, max_pairs=10_000)
    assert set(pairs(found)) == set(wanted)
    assert found.score.tolist() == pytest.approx([wanted[p] for p in pairs(found)], abs=1e-6)
    assert found.left.tolist() == sorted(found.left.tolist())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("same", [True, False])
def test_large_groups_are_blocked_as_tables_of_their_own(
    monkeypatch: pytest.MonkeyPatch, method: str, same: bool
) -> None:
    brands: list[str | None] = ["big"] * 30 + ["small", None] * 5
    left = table(brands, "apple")
    right = left if same else table(brands[::-1], "apple")
    how = Blocking(3, method, parse_equal(["brand"]))
    monkeypatch.setattr(sparse_top, "EXACT_CELLS", 100)
    found = find(left, right, how, MODELS, max_pairs=10_000)
    again = find(left, right, how, MODELS, max_pairs=10_000)
    other = brands if same else brands[::-1]
    assert pairs(found) == pairs(again)
    assert all(brands[i] == other[j] and brands[i] is not None for i, j in pairs(found))
    assert not same or all(i != j for i, j in pairs(found))
    counts = np.bincount(found.left, minlength=40)
    assert counts.max() == 3 and (counts[:30] > 0).all() and counts[30::2].max() > 0
    rank = np.concatenate([np.arange(1, n + 1) for n in counts])
    assert found.rank.tolist() == rank.tolist()


def test_columns_that_cross_in_one_table_leave_the_row_itself_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    people = TableRows(
        [
            make_record({"name": f"anna {i}", "a": "x", "b": "x" if i < 15 else "y"})
            for i in range(20)
        ]
    )
    how = Blocking(2, "lexical", parse_equal(["a = b"]))
    exact = find(people, people, how, MODELS, max_pairs=1000)
    monkeypatch.setattr(sparse_top, "EXACT_CELLS", 10)
    large = find(people, people, how, MODELS, max_pairs=1000)
    for found in (exact, large):
        assert set(found.right.tolist()) <= set(range(15)) and len(found.left) == 40
        assert all(i != j for i, j in pairs(found))


def test_blocks_of_a_group_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    left = table(["a"] * 25 + ["b"] * 15, "apple")
    how = Blocking(3, "lexical", parse_equal(["brand"]))
    whole = find(left, left, how, MODELS, max_pairs=1000)
    monkeypatch.setattr(blocking, "_CELLS", 60)
    parts = find(left, left, how, MODELS, max_pairs=1000)
    assert pairs(whole) == pairs(parts) and whole.rank.tolist() == parts.rank.tolist()


def test_too_many_pairs_are_counted_within_groups() -> None:
    left = table([f"b{i // 2}" for i in range(40)], "apple")
    equal = parse_equal(["brand"])
    assert len(find(left, left, Blocking(10, "lexical", equal), MODELS, max_pairs=40).left) <= 40
    with pytest.raises(InputError, match=r"400 pairs, more than max_pairs = 40.*equal"):
        find(left, left, Blocking(10, "lexical"), MODELS, max_pairs=40)
    with pytest.raises(InputError, match=r"more than 20 x max_pairs = 20"):
        find(left, left, Blocking(10, "lexical", equal), MODELS, max_pairs=1, listed=True)


def test_huge_tables_are_compared_by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    left = table([f"b{i // 4}" for i in range(40)], "apple")
    monkeypatch.setattr(sparse_top, "EXACT_CELLS", 100)
    monkeypatch.setattr(methods, "MOST_GATHERED_ROWS", 10)
    found = find(left, left, Blocking(9, "lexical", parse_equal(["brand"])), MODELS, max_pairs=1000)
    assert {(i // 4, j // 4) for i, j in pairs(found)} == {(n, n) for n in range(10)}
    assert len(found.left) == 40 * 3
