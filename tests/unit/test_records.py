from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.records import digest, is_missing, make_record, plain_text, value_text

FIELDS = st.dictionaries(st.text(max_size=8), st.none() | st.text(max_size=20), max_size=6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", ""),
        (True, "true"),
        (3, "3"),
        (3.0, "3"),
        (0.1, "0.1"),
        (float("nan"), None),
        (float("inf"), "inf"),
        (1e300, "1e+300"),
        (Decimal("12.50"), "12.5"),
        (Decimal("100"), "100"),
        (dt.date(2020, 2, 29), "2020-02-29"),
        (dt.datetime(2020, 2, 29, 1, 2), "2020-02-29T01:02:00"),
        (b"\x00\xff", "00ff"),
        ([1, None, "a"], '["1",null,"a"]'),
        ({"k": [1.0]}, '{"k":["1"]}'),
    ],
)
def test_every_sql_value_has_one_text(value: object, text: str | None) -> None:
    assert value_text(value) == text


@given(FIELDS)
def test_canonical_is_json_of_the_values_in_order(fields: dict[str, str | None]) -> None:
    record = make_record(fields)
    decoded = json.loads(record.canonical)
    assert list(decoded.items()) == [(k, v) for k, v in fields.items() if v is not None]
    assert make_record(fields).digest == record.digest


@given(FIELDS, FIELDS)
def test_digests_are_equal_only_for_equal_content(
    first: dict[str, str | None], second: dict[str, str | None]
) -> None:
    a, b = make_record(first), make_record(second)
    assert (a.digest == b.digest) == (a.canonical == b.canonical)


def test_digest_parts_cannot_run_together() -> None:
    assert digest("ab", "c") != digest("a", "bc")


@pytest.mark.parametrize("text", [None, "", " ", "NaN", "N/A", "none", "NULL"])
def test_missing(text: str | None) -> None:
    assert is_missing(text)


@pytest.mark.parametrize("text", ["0", "no", "empty", "nano", "x" * 1_000_000])
def test_not_missing(text: str) -> None:
    assert not is_missing(text)


def test_plain_text_folds_controls_and_cuts() -> None:
    assert plain_text("a\x00\tb \n c\u00a0d") == "a b c d"
    assert plain_text("x" * 10, limit=3) == "xxx"
    assert plain_text("１２", None) == "12"


def test_without_leaves_a_column_out() -> None:
    record = make_record({"a": 1, "b": None, "c": "x"})
    assert record.without("c").fields == {"a": "1", "b": None}
    assert record.present == {"a": "1", "c": "x"}
    assert record.text == "1 x"
