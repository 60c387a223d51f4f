"""Schema-matching features on hand-made columns, and on odd ones."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from meld_duckdb.features.schema_match import (
    ALIASES,
    FEATURES,
    MAX_VALUES,
    SchemaContext,
    encoder_text,
    read_column,
    schema_features,
    split_name,
)
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record, make_record
from tests.unit.shipped import shipped

PAIR = FEATURES["pair"]


def column(name: str, **fields: object) -> Record:
    return make_record({"column": name, **fields})


def features(a: Record, b: Record, context: SchemaContext | None = None) -> dict[str, float]:
    names = FEATURES["pair" if context is None else "context"]
    return dict(zip(names, schema_features([(a, b)], context)[0].tolist(), strict=True))


def schemas() -> tuple[list[Record], list[Record]]:
    left = [
        column("cust_id", table="orders", description="identifier of the customer"),
        column("orderDate", table="orders", description="day the order was placed"),
        column("amt", table="orders", description="amount to pay"),
    ]
    right = [
        column("customer_identifier", table="sales", description="customer reference"),
        column("order_date", table="sales", description="date of the order"),
        column("note", table="sales", description="free remark"),
    ]
    return left, right


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orderDate", ["order", "date"]),
        ("CUST_NBR", ["customer", "number"]),
        ("HTTPServerID", ["http", "server", "identifier"]),
        ("dob", ["birth", "date"]),
        ("addr2", ["address", "2"]),
        ("", []),
    ],
)
def test_names_are_split_and_written_out(name: str, expected: list[str]) -> None:
    assert split_name(name) == expected


def test_equal_names_in_other_spelling() -> None:
    found = features(column("orderDate"), column("order_dt"))
    assert found["name_weighted"] == 1
    assert found["name_grams"] == 1
    assert found["name_equal"] == 0
    assert found["kind_equal"] == 1
    assert features(column("orderDate"), column("order_date"))["name_equal"] == 1
    other = features(column("orderDate"), column("note"))
    assert other["name_weighted"] == 0
    assert other["kind_equal"] == 0


def test_missing_is_nan_not_a_difference() -> None:
    found = features(column("a"), column("b"))
    for name in ("description_jaccard", "type_equal", "value_overlap", "encoder_cosine"):
        assert math.isnan(found[name]), name
    nothing = make_record({"column": None})
    assert math.isnan(features(nothing, column("b"))["name_equal"])
    assert math.isnan(features(nothing, nothing)["name_weighted"])


@pytest.mark.parametrize("alias", ALIASES["column"])
def test_every_alias_of_the_name_is_read(alias: str) -> None:
    assert read_column(make_record({alias.upper(): "cust_id"})).name == ("customer", "identifier")


def test_descriptions_types_and_values() -> None:
    a = column("x", comment="the date of birth", data_type="DATE", values='["a","b","c"]')
    b = column("birth_date", description="birth", type="timestamp", values=["B", "c", "d", "e"])
    found = features(a, b)
    assert found["type_equal"] == 1
    assert found["value_overlap"] == pytest.approx(2 / 3)
    # "birth" of {"date", "birth"}
    assert found["description_jaccard"] == pytest.approx(1 / 2)
    assert found["name_in_description"] == 1
    assert features(a, column("y", type="VARCHAR"))["type_equal"] == 0


def test_swapping_changes_nothing() -> None:
    left, right = schemas()
    context = SchemaContext(left, right, {r.digest: _vector(i) for i, r in enumerate(left + right)})
    pairs = [(a, b) for a in left for b in right]
    swapped = [(b, a) for a, b in pairs]
    np.testing.assert_array_equal(schema_features(pairs), schema_features(swapped))
    np.testing.assert_array_equal(
        schema_features(pairs, context), schema_features(swapped, context)
    )
    turned = SchemaContext(right, left, {r.digest: _vector(i) for i, r in enumerate(left + right)})
    np.testing.assert_allclose(
        schema_features(pairs, context), schema_features(pairs, turned), rtol=1e-6
    )


def _vector(i: int) -> np.ndarray:
    return np.eye(6, dtype=np.float32)[i] * 0.6 + np.eye(6, dtype=np.float32)[i % 3] * 0.8


def test_gap_is_the_distance_to_the_best_other_partner() -> None:
    left, right = schemas()
    context = SchemaContext(left, right)
    scores = np.array(
        [[features(a, b, context)["all_cosine"] for b in right] for a in left], dtype=np.float64
    )
    found = features(left[1], right[1], context)
    by_left = scores[1, 1] - max(scores[1, 0], scores[1, 2])
    by_right = scores[1, 1] - max(scores[0, 1], scores[2, 1])
    assert found["all_gap_min"] == pytest.approx(min(by_left, by_right), abs=1e-6)
    assert found["all_gap_max"] == pytest.approx(max(by_left, by_right), abs=1e-6)
    assert found["all_gap_min"] > 0
    assert features(left[1], right[2], context)["all_gap_min"] < 0
    assert math.isnan(found["encoder_gap_min"])


def test_encoder_cosine_comes_from_vectors_or_from_the_caller() -> None:
    left, right = schemas()
    vectors = {r.digest: _vector(i) for i, r in enumerate(left + right)}
    found = features(left[0], right[0], SchemaContext(left, right, vectors))
    assert found["encoder_cosine"] == pytest.approx(float(_vector(0) @ _vector(3)))
    given = schema_features([(left[0], right[0])], None, np.array([0.25], dtype=np.float32))
    assert given[0, PAIR.index("encoder_cosine")] == 0.25
    assert encoder_text(left[1]) == "orders order date: day the order was placed"


def test_columns_outside_the_call_have_no_context() -> None:
    left, right = schemas()
    found = features(column("stranger"), right[0], SchemaContext(left, right))
    assert math.isnan(found["all_gap_min"])
    assert not math.isnan(found["name_grams"])


def test_empty_and_single_column_schemas() -> None:
    left, right = schemas()
    assert schema_features([], SchemaContext([], [])).shape == (0, len(FEATURES["context"]))
    assert math.isnan(features(left[0], right[0], SchemaContext([], []))["all_gap_min"])
    alone = features(left[0], right[0], SchemaContext(left[:1], right[:1]))
    assert alone["all_gap_min"] == alone["all_gap_max"] == pytest.approx(alone["all_cosine"])


@pytest.mark.parametrize("text", ["x" * 1_000_000, "a_" * 500_000, "\0\x07", "😀", "\ud800", "["])
def test_odd_columns_are_described(text: str) -> None:
    odd = column(text, description=text, values=text, table=text, type=text)
    start = time.perf_counter()
    matrix = schema_features([(odd, column("b")), (odd, odd)], SchemaContext([odd], [odd]))
    assert time.perf_counter() - start < 3
    assert not np.isinf(matrix).any()
    assert len(read_column(odd).values) <= MAX_VALUES


def test_deep_json_values_do_not_overflow() -> None:
    assert len(read_column(column("a", values="[" * 100_000)).values) <= 1


def test_ten_thousand_columns_on_one_side() -> None:
    left = [column(f"field_{i}") for i in range(10_000)]
    right = [column("field_77"), column("other")]
    start = time.perf_counter()
    context = SchemaContext(left, right)
    found = features(left[77], right[0], context)
    assert time.perf_counter() - start < 10
    assert found["name_equal"] == 1
    assert found["all_gap_min"] > 0


def test_shipped_models_rank_the_right_partner_first() -> None:
    content = shipped("schema_match")
    left, right = schemas()
    pairs = [(left[1], other) for other in right]
    for variant in ("pair", "context"):
        model = TreeEnsemble.from_dict(content["variants"][variant]["model"])
        assert model.features == FEATURES[variant]
        context = SchemaContext(left, right) if variant == "context" else None
        scores = model.predict(schema_features(pairs, context))
        assert scores.argmax() == 1, variant
