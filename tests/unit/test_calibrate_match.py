"""The cut of tier 0 of matching is chosen on data sets that the trees have not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from meld_duckdb.features.stack import log_odds
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.calibrate_match import (
    DataSet,
    Split,
    best_cut,
    held_out_sets,
    leave_one_out,
    left_out_odds,
)


def a_set(name: str, labels: Sequence[int]) -> DataSet:
    split = Split({"pair": np.zeros((len(labels), 1))}, np.array(labels))
    return DataSet(name, split, split)


def odds(*probabilities: float) -> np.ndarray:
    return log_odds(np.array(probabilities))


A, B = a_set("amazon_google", [1, 1, 0, 0]), a_set("abt_buy", [1, 0, 0])
ODDS = {"amazon_google": odds(0.9, 0.41, 0.39, 0.1), "abt_buy": odds(0.9, 0.3, 0.2)}


def test_the_cut_is_best_on_the_mean_of_the_sets() -> None:
    assert best_cut(ODDS, [A, B]) == 0.4


def test_a_set_beside_has_no_part_in_the_cut() -> None:
    assert best_cut(ODDS, [A, B], beside="amazon_google") == 0.32
    assert leave_one_out(ODDS, [A, B])["amazon_google"] == {
        "f1": 0.8,  # at .32: both matches and one mismatch
        "f1_half": 0.6667,
        "f1_best_cut": 1.0,
        "auc": 1.0,
    }


def test_relatives_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def log_odds(self, rows: np.ndarray) -> np.ndarray:
            return np.zeros(len(rows))

    seen: list[set[str]] = []

    def fit(variant: str, sets: Sequence[DataSet]) -> Constant:
        seen.append({one.name for one in sets})
        return Constant()

    monkeypatch.setattr(calibrate_match, "fit", fit)
    sets = [a_set(name, [1, 0]) for name in ("semi_text_watch", "wdc_all", "abt_buy")]
    left_out_odds("pair", sets)
    assert seen == [{"abt_buy"}, {"abt_buy"}, {"semi_text_watch", "wdc_all"}]
    assert held_out_sets(["dblp_acm"]) == {"dblp_acm", "dblp_scholar", "rel_text"}
