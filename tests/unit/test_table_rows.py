from __future__ import annotations

import datetime as dt
import decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.arrow import python_values, to_record
from meld_duckdb.features.context import MAX_COLUMNS, comparable_text
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.table_rows import TableRows

TEXT = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["N/A", " ", "Ⅷ  Ab", "null"]))


def by_records(array: pa.Array) -> list[str]:
    found = [to_record(value) for value in python_values(array)]
    return [comparable_text(r if isinstance(r, Record) else make_record({})) for r in found]


@given(
    st.lists(
        st.tuples(TEXT, TEXT, st.one_of(st.none(), st.floats(), st.integers(-9, 9))), max_size=9
    )
)
def test_texts_by_column_are_those_of_the_records(rows: list[tuple[object, ...]]) -> None:
    names = ("Name", " name", "price")
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = (pa.string(), pa.large_string(), pa.float64())
    array = pa.StructArray.from_arrays(
        [
            pa.array([None if v is None else float(v) if k == kinds[2] else v for v in c], k)  # type: ignore[arg-type]
            for c, k in zip(columns, kinds, strict=True)
        ],
        names=names,
    )
    assert TableRows(array=array).texts == by_records(array)


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": 1, "a": "X", "d": dt.date(2020, 1, 2), "t": dt.datetime(2020, 1, 2, 3, 4)}, None],
        [{"a": decimal.Decimal("1.50"), "b": [1, None], "c": {"x": "y"}, "e": True, "f": b"q"}],
        [{f"c{i}": f"v{i}" if i % 3 else None for i in range(3 * MAX_COLUMNS)}],
        [{"a": "x" * 5000, "b": "y"}],
        ["plain text", '{"a": "json"}', None],
        [3, None],
        [],
    ],
)
def test_texts_of_odd_tables_are_those_of_the_records(rows: list[object]) -> None:
    array = pa.array(rows)
    assert TableRows(array=array).texts == by_records(array)


def test_a_row_that_cannot_be_read_has_no_text() -> None:
    kind = pa.struct([("n", pa.string()), ("t", pa.timestamp("us"))])
    days = pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us"))
    array = pa.StructArray.from_arrays([pa.array(["a", "b"]), days], fields=list(kind))
    assert TableRows(array=array).texts == by_records(array)


def test_some_records_are_in_the_order_asked_for() -> None:
    import numpy as np

    rows = [{"n": name} for name in "abc"]
    for table in (TableRows([make_record(r) for r in rows]), TableRows(array=pa.array(rows))):
        assert [r.text for r in table.records_at(np.array([2, 0]))] == ["c", "a"]
        assert len(table) == 3
