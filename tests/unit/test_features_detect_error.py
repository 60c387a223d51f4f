"""Error-detection features on hand-made tables, and on tables nobody should have."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.columns import (
    MAX_DETERMINANTS,
    TableProfile,
    collapsed,
    find_dependency,
    gram_codes,
    pattern,
)
from meld_duckdb.features.detect_error import (
    FEATURES,
    Language,
    context_features,
    record_features,
)
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record, make_record
from tests.unit.shipped import shipped

CONTEXT = FEATURES["context"]


def table(n: int = 40) -> list[Record]:
    """Zip settles city; row 0 has a typo, row 1 the wrong city, row 2 a stand-in, row 3 a unit."""
    rows = [
        {"id": f"k{i}", "zip": f"1000{i % 2}", "city": ("boston", "dallas")[i % 2], "size": "12"}
        for i in range(n)
    ]
    rows[0]["city"] = "bosxon"
    rows[1]["city"] = "boston"
    rows[2]["city"] = "N/A"
    rows[3]["size"] = "12.0 oz"
    return [make_record(r) for r in rows]


def cell(records: list[Record], row: int, column: str) -> dict[str, float]:
    features = context_features(TableProfile(records), [records[row]], [column])
    return dict(zip(CONTEXT, features[0].tolist(), strict=True))


def test_shapes_fold_digits_and_letters() -> None:
    assert pattern("Ab-12") == b"Aa-99"
    assert collapsed(pattern("abc 123")) == b"a 9"


def test_gram_codes_has_one_code_per_character() -> None:
    codes, starts = gram_codes(["ab", "", "xyz"])
    assert starts.tolist() == [0, 2, 3]
    assert len(codes) == 6
    assert gram_codes(["xyz"])[0].tolist() == codes[3:].tolist()


def test_typo_is_a_near_duplicate_of_a_frequent_value() -> None:
    found = cell(table(), 0, "city")
    assert found["duplicate_distance"] == 1
    # 18 rows of "boston" by the even rows and one by row 1, against one of "bosxon"
    assert found["duplicate_ratio"] == pytest.approx(math.log(19), rel=1e-5)
    assert found["log_count"] == 0
    clean = cell(table(), 4, "city")
    assert clean["duplicate_ratio"] == 0
    assert math.isnan(clean["duplicate_distance"])


def test_wrong_city_breaks_the_dependency_on_zip() -> None:
    records = table()
    profile = TableProfile(records)
    assert [d.determinant for d in profile.dependencies("city")] == ["zip"]
    strength = profile.dependencies("city")[0].strength
    wrong, clean = cell(records, 1, "city"), cell(records, 5, "city")
    # 19 other rows share the zip, all of them "dallas"
    assert wrong["violation_max"] == pytest.approx(strength * 19 / 20, rel=1e-5)
    assert wrong["agreement_max"] == 0
    assert wrong["majority_similarity"] < 0.5
    assert clean["violation_max"] == 0
    assert clean["agreement_max"] == pytest.approx(strength * 19 / 20 * 18 / 19, rel=1e-5)


def test_own_row_is_no_evidence_but_a_foreign_row_sees_all() -> None:
    records = [make_record({"a": "x", "b": "1"}), make_record({"a": "y", "b": "2"})] * 3
    profile = TableProfile(records)
    own = dict(zip(CONTEXT, context_features(profile, records[:1], ["b"])[0], strict=True))
    other = make_record({"a": "x", "b": "1", "new": "z"})
    foreign = dict(zip(CONTEXT, context_features(profile, [other], ["b"])[0], strict=True))
    # two other rows against three: n / (n + 1)
    assert own["agreement_max"] == pytest.approx(2 / 3)
    assert foreign["agreement_max"] == pytest.approx(3 / 4)


def test_stand_in_missing_and_unit() -> None:
    records = table()
    assert cell(records, 2, "city")["is_marker"] == 1
    assert cell(records, 3, "size")["has_unit"] == 1
    assert cell(records, 4, "size")["has_unit"] == 0
    assert cell(records, 3, "size")["pattern_share"] == 0
    assert cell(records, 4, "size")["pattern_share"] == pytest.approx(38 / 40)
    empty = cell([*records, make_record({"id": "z", "zip": "10000"})], 40, "city")
    assert empty["is_missing"] == 1
    assert empty["column_missing"] == pytest.approx(1 / 41)
    assert math.isnan(empty["log_count"])


def test_value_of_another_column_and_numeric_outlier() -> None:
    rows = [{"a": "red", "b": "ten", "n": str(10 + i % 3)} for i in range(20)]
    rows[7] = {"a": "ten", "b": "ten", "n": "900000"}
    records = [make_record(r) for r in rows]
    assert cell(records, 7, "a")["elsewhere"] == pytest.approx(math.log1p(20))
    assert cell(records, 7, "a")["equals_other_field"] == 1
    assert cell(records, 0, "a")["elsewhere"] == 0
    assert cell(records, 7, "n")["numeric_z"] > 5 > cell(records, 0, "n")["numeric_z"]


def test_batches_equal_single_cells() -> None:
    records = table()
    cells = [(r, c) for c in ("city", "size", "zip") for r in records]
    whole = context_features(TableProfile(records), [r for r, _ in cells], [c for _, c in cells])
    for i in (0, 1, 41, 83, 119):
        one = context_features(TableProfile(records), [cells[i][0]], [cells[i][1]])
        np.testing.assert_array_equal(whole[i], one[0])


def test_language_finds_letters_that_do_not_follow() -> None:
    language = Language.fit(["boston dallas austin houston"] * 50)
    again = Language.from_text(language.to_text())
    np.testing.assert_array_equal(again.table, language.table)
    odd, usual = again.surprise(["bosxqn", "boston"])
    assert odd[0] > usual[0] + 3
    records = [make_record({"c": "bosxqn"}), make_record({"c": "boston"})]
    features = record_features(records, ["c", "c"], again)
    at = FEATURES["record"].index("language_mean")
    assert features[0, at] > features[1, at]


@pytest.mark.parametrize("text", ["", "!!", "AAAA"])
def test_language_rejects_other_tables(text: str) -> None:
    with pytest.raises(ArtefactCorrupt):
        Language.from_text(text)


@pytest.mark.parametrize(
    "value", ["\0\x07\x1b", "😀" * 50, "\ud800", "e\u0301" * 300, "ﷺ", "x" * 1_000_000, "%s{}\\"]
)
def test_odd_values_are_described(value: str) -> None:
    records = [make_record({"a": v, "b": "1"}) for v in ("plain", "plain", "plain", value)]
    start = time.perf_counter()
    features = context_features(TableProfile(records), records, ["a"] * 4, Language.fit(["plain"]))
    assert time.perf_counter() - start < 2
    assert not np.isinf(features).any()
    by_name = dict(zip(CONTEXT, features[3].tolist(), strict=True))
    # control characters are stripped to nothing or counted once, never as the other rows
    assert by_name["log_count"] == 0 or by_name["is_missing"] == 1
    assert features[0, CONTEXT.index("log_count")] == pytest.approx(math.log(3))


def test_all_null_empty_table_and_unknown_column() -> None:
    nulls = [make_record({"a": None, "b": None})] * 3
    features = context_features(TableProfile(nulls), nulls, ["a"] * 3)
    assert features[:, CONTEXT.index("is_missing")].tolist() == [1, 1, 1]
    assert features[:, CONTEXT.index("column_missing")].tolist() == [1, 1, 1]
    alone = make_record({"a": "x"})
    on_empty = context_features(TableProfile([]), [alone], ["a"])
    assert math.isnan(on_empty[0, CONTEXT.index("log_count")])
    assert context_features(TableProfile([]), [], []).shape == (0, len(CONTEXT))
    lacking = context_features(TableProfile([alone]), [alone], ["zz"])
    assert lacking[0, 0] == 1


def test_ten_thousand_columns_look_at_few_others() -> None:
    names = [f"c{i}" for i in range(10_000)]
    records = [make_record({n: f"v{(i * k) % 3}" for i, n in enumerate(names)}) for k in range(4)]
    profile = TableProfile(records)
    start = time.perf_counter()
    features = context_features(profile, records, ["c5000"] * 4)
    assert time.perf_counter() - start < 5
    assert features.shape == (4, len(CONTEXT))
    assert len(profile.neighbours("c5000")) == MAX_DETERMINANTS
    assert {"c4999", "c5001"} <= set(profile.neighbours("c5000"))


def test_no_dependency_where_nothing_repeats() -> None:
    records = [make_record({"a": f"a{i}", "b": f"b{i % 2}"}) for i in range(30)]
    profile = TableProfile(records)
    assert find_dependency(profile.column("a"), profile.column("b")) is None


def test_shipped_model_ranks_errors_above_clean_cells() -> None:
    content = shipped("detect_error")
    for variant, names in FEATURES.items():
        assert TreeEnsemble.from_dict(content["variants"][variant]["model"]).features == names
    records = table()
    cells = [(0, "city"), (1, "city"), (2, "city"), (3, "size"), (8, "city"), (9, "size")]
    features = context_features(
        TableProfile(records),
        [records[i] for i, _ in cells],
        [c for _, c in cells],
        Language.from_text(content["language"]),
    )
    scores = TreeEnsemble.from_dict(content["variants"]["context"]["model"]).predict(features)
    assert scores[:4].min() > scores[4:].max()
    assert scores[0] > 0.5
