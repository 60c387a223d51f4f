"""Imputation candidates and features on hand-made tables, and on odd ones."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.errors import TrainingError
from meld_duckdb.features.impute import (
    FEATURES,
    MAX_CANDIDATES,
    Candidates,
    ImputeIndex,
    impute_features,
    rank,
)
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record, make_record
from meld_duckdb.train.calibration import read_rows
from tests.unit.shipped import shipped

NAMES = FEATURES["context"]


def restaurants() -> list[Record]:
    """The area code settles the city."""
    cities = {"310": "los angeles", "415": "san francisco", "212": "new york"}
    return [
        make_record({"name": f"cafe {i}", "phone": f"{code}-555-{1000 + i}", "city": city})
        for i in range(10)
        for code, city in cities.items()
    ]


def products() -> list[Record]:
    """The brand leads the title."""
    return [
        make_record({"title": f"{brand} item {i} black", "price": str(i), "brand": brand})
        for i in range(8)
        for brand in ("sony", "acme corp", "canon")
    ]


def by_value(found: Candidates) -> dict[str, dict[str, float]]:
    return {
        v: dict(zip(NAMES, line.tolist(), strict=True))
        for v, line in zip(found.values, found.features, strict=True)
    }


def ask(records: list[Record], column: str, **fields: str | None) -> dict[str, dict[str, float]]:
    found = impute_features(ImputeIndex(records, column), [make_record(fields)], column)
    return by_value(found[0])


def test_area_code_points_to_the_city() -> None:
    found = ask(restaurants(), "city", name="bistro", phone="415-777-9999", city=None)
    best = max(found, key=lambda v: found[v]["confidence"])
    assert best == "san francisco"
    # ten rows with the code, all of the city, smoothed by one
    assert found[best]["confidence"] == pytest.approx(10 / 11)
    assert found[best]["bayes"] > 0.9
    assert found[best]["vote_share"] == pytest.approx(1.0)
    assert found[best]["vote_gap"] == pytest.approx(1.0)
    assert found["new york"]["vote_gap"] == pytest.approx(-1.0)
    assert found["new york"]["confidence"] == 0
    assert found[best]["share"] == pytest.approx(1 / 3)


def test_brand_is_found_in_the_text() -> None:
    index = ImputeIndex(products(), "brand")
    assert index.extractive == 1.0
    assert index.at_start == 1.0
    found = ask(products(), "brand", title="acme corp gadget 77", price="3")
    assert found["acme corp"]["in_text"] == 1
    assert found["acme corp"]["at_start"] == 1
    assert found["acme corp"]["longest_in_text"] == 1
    assert found["acme corp"]["value_words"] == 2
    assert found["sony"]["in_text"] == 0
    assert math.isnan(found["sony"]["position"])


def test_unseen_brand_is_offered_where_brands_stand() -> None:
    found = ask(products(), "brand", title="zenith radio 5", price="3")
    assert found["zenith"]["is_new"] == 1
    assert found["zenith radio"]["is_new"] == 1
    assert found["sony"]["is_new"] == 0
    assert all(
        v == "san francisco" or not c["is_new"]
        for v, c in ask(restaurants(), "city", name="zenith", phone="415-1", city=None).items()
    )


def test_options_are_the_only_candidates() -> None:
    index = ImputeIndex(restaurants(), "city")
    row = make_record({"phone": "310-1", "city": None})
    found = impute_features(index, [row], "city", [["oslo", "los angeles", "oslo", "N/A", ""]])[0]
    assert found.values == ("oslo", "los angeles")
    described = by_value(found)
    assert described["oslo"]["is_new"] == 1
    assert described["los angeles"]["confidence"] == pytest.approx(10 / 11)
    assert found.neighbours[0] is None
    assert found.neighbours[1] is not None


def test_a_value_in_the_target_column_is_not_used() -> None:
    index = ImputeIndex(restaurants(), "city")
    base = {"name": "bistro", "phone": "212-777-9999"}
    rows = [make_record({**base, "city": c}) for c in (None, "san francisco")]
    first, second = impute_features(index, rows, "city")
    assert first.values == second.values
    np.testing.assert_array_equal(first.features, second.features)


def test_batches_equal_single_rows() -> None:
    index = ImputeIndex(products(), "brand")
    rows = [make_record({"title": f"canon thing {i}", "price": str(i)}) for i in range(130)]
    whole = impute_features(index, rows, "brand")
    for i in (0, 63, 64, 129):
        one = impute_features(index, [rows[i]], "brand")[0]
        assert whole[i].values == one.values
        np.testing.assert_allclose(whole[i].features, one.features, rtol=1e-5)


def test_rank_brings_the_sum_to_one() -> None:
    index = ImputeIndex(restaurants(), "city")
    row = make_record({"name": "bistro", "phone": "415-777-9999", "city": None})
    found = impute_features(index, [row], "city")[0]
    scores = [0.9 if v == "san francisco" else 0.6 for v in found.values]
    ranked = rank(found, scores)
    assert ranked[0].value == "san francisco"
    assert sum(r.probability for r in ranked) == pytest.approx(1.0)
    assert ranked[0].evidence[0][0].startswith("neighbour: ")
    low = rank(found, [0.1] * len(found.values))
    assert low[0].probability == pytest.approx(0.1)


def test_without_a_table_only_options() -> None:
    row = make_record({"title": "sony radio", "brand": None})
    nothing, given = impute_features(None, [row, row], "brand", [None, ["philips", "sony"]])
    assert nothing.values == ()
    assert given.features.shape == (2, len(FEATURES["record"]))
    at = FEATURES["record"].index("in_text")
    assert given.features[:, at].tolist() == [0, 1]


@pytest.mark.parametrize("records", [[], [make_record({"a": "x", "b": None})] * 3])
def test_no_row_with_a_value_gives_no_candidate(records: list[Record]) -> None:
    found = impute_features(ImputeIndex(records, "b"), [make_record({"a": "x"})], "b")
    assert found[0].values == ()


def test_all_null_row_still_has_the_common_values() -> None:
    rows = [*restaurants(), make_record({"name": "z", "city": "new york"})]
    found = ask(rows, "city", name=None, phone=None)
    assert found["new york"]["bayes"] == max(c["bayes"] for c in found.values())
    assert all(c["vote_share"] == 0 for c in found.values())


@pytest.mark.parametrize("value", ["x" * 1_000_000, "a " * 500_000, "\0\x07", "😀 😀", "\ud800 b"])
def test_odd_rows_are_described(value: str) -> None:
    rows = [*products(), make_record({"title": value, "brand": value})]
    start = time.perf_counter()
    found = impute_features(ImputeIndex(rows, "brand"), [make_record({"title": value})], "brand")
    assert time.perf_counter() - start < 3
    assert 0 < len(found[0].values) <= MAX_CANDIDATES + 2
    assert not np.isinf(found[0].features).any()


def test_ten_thousand_columns() -> None:
    wide = [make_record({f"c{i}": f"w{i}" for i in range(10_000)} | {"b": "v"})] * 5
    start = time.perf_counter()
    found = impute_features(ImputeIndex(wide, "b"), wide[:1], "b")
    assert time.perf_counter() - start < 5
    assert "v" in found[0].values


def test_shipped_model_names_the_city_of_the_area_code() -> None:
    content = shipped("impute")
    models = {v: TreeEnsemble.from_dict(content["variants"][v]["model"]) for v in FEATURES}
    assert {v: m.features for v, m in models.items()} == FEATURES
    index = ImputeIndex(restaurants(), "city")
    row = make_record({"name": "bistro", "phone": "415-777-9999", "city": None})
    found = impute_features(index, [row], "city")[0]
    ranked = rank(found, models["context"].predict(found.features).tolist())
    minimum = content["variants"]["context"]["minimum"]
    assert 0 < minimum < ranked[0].probability
    assert ranked[0].value == "san francisco"
    options = impute_features(None, [make_record({"t": "sony tv"})], "b", [["lg", "sony"]])[0]
    scores = models["record"].predict(options.features)
    assert scores[1] > scores[0]


def test_calibration_refuses_a_test_split(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        read_rows(tmp_path / "test.parquet")
    with pytest.raises(TrainingError):
        read_rows(tmp_path / "pairs.parquet", split="test")


def test_a_row_does_not_answer_for_itself() -> None:
    rows = [make_record({"name": f"place {i}", "code": f"x{i * 7919 % 1000}"}) for i in range(60)]
    index = ImputeIndex(rows, "code")
    for row, found in zip(rows, impute_features(index, rows, "code"), strict=True):
        assert row.fields["code"] not in found.values
    two = [make_record({"name": "a", "city": "x"}), make_record({"name": "a b", "city": "x"})]
    [found] = impute_features(ImputeIndex(two, "city"), two[:1], "city")
    outside = impute_features(ImputeIndex(two[1:], "city"), two[:1], "city")[0]
    assert found.values == outside.values == ("x",)
    at = FEATURES["context"].index("confidence")
    assert found.features[0, at] == outside.features[0, at]
