from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.arrow import detail_array, distinct_rows, to_record
from meld_duckdb.records import Record
from meld_duckdb.tasks.base import Answer, Evidence, RowError

VALUE = st.none() | st.sampled_from(["", "a", "b", "é"])
ROW = st.fixed_dictionaries({"x": VALUE, "y": st.none() | st.lists(VALUE, max_size=2)})
KIND = pa.struct([("x", pa.string()), ("y", pa.list_(pa.string()))])


@given(st.lists(st.tuples(st.none() | ROW, VALUE), max_size=30))
def test_distinct_rows_scatter_back_to_the_input(
    rows: list[tuple[dict[str, object] | None, str | None]],
) -> None:
    columns = [pa.array([r[0] for r in rows], KIND), pa.array([r[1] for r in rows], pa.string())]
    found = distinct_rows(columns)
    assert [found.rows[i] for i in found.inverse] == rows
    assert len({repr(r) for r in found.rows}) == len(found.rows)


def test_distinct_rows_keep_first_occurrence_order() -> None:
    found = distinct_rows([pa.array(["b", "a", "b", None, "a"])])
    assert found.rows == [("b",), ("a",), (None,)]
    assert found.inverse.tolist() == [0, 1, 0, 2, 1]


def test_a_null_struct_is_not_a_struct_of_nulls() -> None:
    found = distinct_rows([pa.array([None, {"a": None}], pa.struct([("a", pa.string())]))])
    assert found.rows == [(None,), ({"a": None},)]


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ({"a": 1, "b": None}, {"a": "1", "b": None}),
        ([("k", "v"), ("n", 2)], {"k": "v", "n": "2"}),
        ('{"a": {"b": [1, 2]}}', {"a": '{"b":["1","2"]}'}),
        ('{"a": NaN}', {"a": None}),
        ('{"broken', {"text": '{"broken'}),
        ("[1, 2]", {"text": "[1, 2]"}),
        ("plain", {"text": "plain"}),
        (7, {"text": "7"}),
        (decimal.Decimal("1.10"), {"text": "1.1"}),
        (dt.date(2024, 1, 2), {"text": "2024-01-02"}),
        ([], {"text": "[]"}),
    ],
)
def test_every_form_of_input_becomes_a_record(value: object, fields: dict[str, str]) -> None:
    record = to_record(value)
    assert isinstance(record, Record)
    assert dict(record.fields) == fields


def test_null_and_unreadable_pass_through() -> None:
    assert to_record(None) is None
    error = RowError("unreadable_value", "x")
    assert to_record(error) is error
    assert to_record({"a": error}) is error


def test_deeply_nested_json_is_text_not_a_crash() -> None:
    record = to_record('{"a":' * 100_000)
    assert isinstance(record, Record)
    assert list(record.fields) == ["text"]


def test_a_date_python_cannot_hold_keeps_its_row() -> None:
    days = pa.array([0, 2**31 - 2], pa.int32()).cast(pa.date32())
    column = pa.StructArray.from_arrays([days, pa.array(["a", "b"])], ["d", "n"])
    rows = distinct_rows([column]).rows
    assert rows[0] == ({"d": dt.date(1970, 1, 1), "n": "a"},)
    assert rows[1][0]["n"] == "b"  # type: ignore[index]


def test_detail_array_scatters_and_keeps_null_rows_null() -> None:
    answers = [Answer("match", 0.75, 0, (Evidence("feature", "f", 1.5),), ("e",)), None]
    array = detail_array(answers, np.array([1, 0, 0]))
    assert array.to_pylist() == [
        None,
        *[
            {
                "answer": "match",
                "probability": 0.75,
                "tier": 0,
                "experts": ["e"],
                "evidence": [{"kind": "feature", "text": "f", "weight": 1.5}],
                "raw": None,
                "error": None,
                "changed": None,
                "ranking": [],
            }
        ]
        * 2,
    ]
