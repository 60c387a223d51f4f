from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate import baselines, cell_baselines
from meld_duckdb.evaluate.labels import ALL, Request, draw_plain, draw_stratified, positions_of
from meld_duckdb.evaluate.metrics import (
    best_threshold,
    binary_measures,
    correction_measures,
    interval,
    ratio,
    share,
)


def test_binary_measures_count_the_positive_class() -> None:
    f1, precision, recall = binary_measures([True, True, False, False], [True, False, True, False])
    assert (f1.value, precision.value, recall.value) == (0.5, 0.5, 0.5)
    assert [m.value for m in binary_measures([False], [False])] == [0.0, 0.0, 0.0]


def test_units_are_summed_before_they_are_drawn() -> None:
    f1 = binary_measures([True, True, False], [True, True, True], units=["a", "a", "b"])[0]
    assert f1.numerator.tolist() == [4.0, 0.0]
    assert f1.value == pytest.approx(0.8)


def test_correction_measures_divide_by_changes_and_by_errors() -> None:
    f1, precision, recall = correction_measures([True, False], [True, True], [True, True])
    assert precision.value == recall.value == f1.value == 0.5


def test_shares_and_ratios() -> None:
    assert share("mrr", [1.0, 0.5]).value == 0.75
    assert ratio("precision", [True, True], [True, False]).value == 1.0
    assert ratio("precision", [True], [False]).value == 0.0


def test_the_interval_holds_the_value_and_repeats() -> None:
    measure = share("accuracy", [True] * 70 + [False] * 30)
    low, high = interval(measure, 42)
    assert 0.55 < low < 0.7 < high < 0.82
    assert interval(measure, 42) == (low, high)
    assert interval(share("accuracy", []), 42) == (0.0, 0.0)


def test_the_best_threshold_parts_the_labels() -> None:
    assert best_threshold([0.9, 0.8, 0.2], [True, True, False]) == pytest.approx(0.5)
    assert best_threshold([0.9], [False]) is None


def test_stratified_draws_keep_shares_and_order() -> None:
    groups = ["yes"] * 10 + ["no"] * 90
    drawn = draw_stratified(groups, 10, 42)
    assert drawn == sorted(drawn) == draw_stratified(groups, 10, 42)
    assert [groups[i] for i in drawn].count("yes") == 1
    assert draw_stratified(groups, 0, 42) == []
    assert draw_stratified(groups, 1_000, 42) == list(range(100))
    assert 0 in draw_stratified(["rare", *["often"] * 99], 2, 1)


def test_label_requests() -> None:
    assert Request().count(100, 50) == 50
    assert Request(labels=ALL).count(100, 500) == 500
    assert Request(labels=0).count(100, 500) == 0
    assert not Request(labels=100).shipped and not Request(seed=1).shipped
    assert draw_plain(3, 9, 1) == [0, 1, 2]


def test_a_few_shot_file_may_name_training_rows_only() -> None:
    assert positions_of(["b"], ["a", "b"], "toy") == [1]
    with pytest.raises(InputError, match="no training row"):
        positions_of(["test row"], ["a", "b"], "toy")


def test_pair_baselines_learn_from_the_labels() -> None:
    taught = [("red car", "red car"), ("blue boat", "green tree"), ("a b c", "a b c")] * 5
    found = baselines.pair_baselines(
        taught, [True, False, True] * 5, [("old lamp", "old lamp"), ("old lamp", "new roof")]
    )
    for name in ("TF-IDF cosine, threshold", "similarities, logistic"):
        assert [r.value for r in found[name]()] == ["true", "false"], name
    assert [r.value for r in found["majority"]()] == ["true", "true"]


def test_pair_baselines_without_labels_say_no() -> None:
    found = baselines.pair_baselines([], [], [("a", "a"), ("", "")])
    assert {r.value for make in found.values() for r in make()} == {"false"}


def test_choice_baselines_stay_among_the_options() -> None:
    found = baselines.choice_baselines(
        ["berlin rome paris", "apple pear plum"],
        ["city", "fruit"],
        ["london paris rome", "the fruit plum"],
        [["city", "fruit"], ["fruit", "animal"]],
        None,
    )
    assert [r.value for r in found["nearest label, TF-IDF"]()] == ["city", "fruit"]
    assert [r.value for r in found["name similarity"]()][1] == "fruit"
    assert [r.value for r in found["majority"]()] == ["city", "fruit"]


def test_value_baselines_know_only_their_own_group() -> None:
    found = baselines.value_baselines(
        [("brand", "sony tv"), ("brand", "sony radio"), ("colour", "red tv")],
        ["sony", "sony", "red"],
        [("brand", "a sony phone"), ("colour", "a sony phone"), ("size", "a sony phone")],
    )
    assert [r.value for r in found["known value in the text"]()] == ["sony", None, None]
    assert [r.value for r in found["most frequent value"]()] == ["sony", "red", None]
    assert [r.value for r in found["nearest label, TF-IDF"]()] == ["sony", "red", None]


def test_cell_baselines_repair_by_the_column_that_determines() -> None:
    rows = [{"zip": str(i % 3), "city": "abc"[i % 3] * 4} for i in range(30)]
    rows[4] = {"zip": "1", "city": "bbxb"}
    asked = [(4, "city"), (5, "city")]
    repairs = cell_baselines.repair_baselines(
        rows, [(4, "city"), (3, "city")], [True, False], asked
    )
    assert [[r.value for r in make()] for make in repairs.values()] == [["bbbb", None]] * 2
    errors = cell_baselines.error_baselines(rows, [(4, "city"), (3, "city")], [True, False], asked)
    assert [r.value for r in errors["rare value"]()] == ["true", "false"]
    assert [r.value for r in errors["all correct"]()] == ["false", "false"]


def test_nearest_gives_ties_to_the_lower_position() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert baselines.nearest(np.array([[1.0, 0.0]]), rows, 2).tolist() == [[0, 1]]
    found = baselines.nearest_ids(["abc", ""], ["xyz", "abc"], ["x", "a"], 1)
    assert found[0].ranking == ("a",)
    assert baselines.nearest_ids(["abc"], [], [], 1)[0].ranking == ()
