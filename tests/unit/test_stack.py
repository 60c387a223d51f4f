"""Adding tier 1 to tier 0, and deciding whether it is worth asking."""

from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.features.stack import Stack, sigmoid
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Demonstration, Query
from meld_duckdb.train.folds import draw_folds, groups_of, without
from meld_duckdb.train.stack import auc, best_expected_f1, fit_option_stack, fit_stack

RNG = np.random.default_rng(5)
N = 240
YES = np.arange(N) % 6 == 0
FOLDS = np.arange(N) // 6 % 5
TIER0 = sigmoid(np.where(YES, 1.0, -2.0) + RNG.normal(0, 1.5, N))


def test_tier_1_that_knows_more_is_used() -> None:
    tier1 = np.where(YES, 3.0, -1.0) + RNG.normal(0, 1.0, N)
    verdict = fit_stack(TIER0, tier1, YES, FOLDS, 0.4)
    assert verdict.use and verdict.reason.startswith("tier 1 adds: log-loss falls by 0.")
    metrics = verdict.metrics
    assert metrics["log_loss_both"] < metrics["log_loss_tier0"]
    assert metrics["auc_both"] > metrics["auc_tier0"] and metrics["f1_both"] > metrics["f1_tier0"]
    assert verdict.stack.added > 0.5 and verdict.stack.own > 0.3
    assert verdict.low <= 0.02 and verdict.high >= 0.98
    assert verdict.low < verdict.stack.threshold < verdict.high
    assert "240 labels" in verdict.reason


@pytest.mark.parametrize("seed", range(8))
def test_tier_1_that_knows_nothing_is_not_used(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 2.0, N)
    verdict = fit_stack(TIER0, noise, YES, FOLDS, 0.4)
    assert not verdict.use and "no more than chance" in verdict.reason
    assert abs(verdict.stack.added) < 0.4


def test_tier_1_that_repeats_tier_0_is_not_used() -> None:
    again = np.log(TIER0 / (1 - TIER0))
    assert not fit_stack(TIER0, again, YES, FOLDS, 0.4).use


def test_both_tiers_are_compared_after_the_same_cross_fitting() -> None:
    uneven = sigmoid(np.log(TIER0 / (1 - TIER0)) + np.where(FOLDS == 0, 3.0, 0.0))
    silent = fit_stack(uneven, np.zeros(N), YES, FOLDS, 0.4).metrics
    assert silent["auc_both"] == silent["auc_tier0"] != round(auc(uneven, YES), 4)
    assert silent["log_loss_both"] == silent["log_loss_tier0"]


def test_a_gain_from_recalibration_is_not_tier_1s() -> None:
    shy = sigmoid(0.2 * np.log(TIER0 / (1 - TIER0)) + 2.0)
    assert not fit_stack(shy, RNG.normal(0, 1.0, N), YES, FOLDS, 0.4).use


def test_too_few_labels_tell_nothing() -> None:
    yes = YES[:18]
    verdict = fit_stack(TIER0[:18], np.where(yes, 9.0, -9.0), yes, FOLDS[:18] % 2, 0.4)
    assert not verdict.use and "18 labels are too few" in verdict.reason
    yes = YES[:24]
    verdict = fit_stack(TIER0[:24], np.where(yes, 9.0, -9.0), yes, FOLDS[:24], 0.4)
    assert not verdict.use and "4 labels of the rarer answer are too few" in verdict.reason


def test_among_few_labels_chance_seldom_passes_for_knowledge() -> None:
    used = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        yes, no = (rng.choice(np.flatnonzero(YES == y), n, False) for y, n in ((1, 6), (0, 14)))
        at = np.concatenate([yes, no])
        noise = rng.normal(0, 2.0, 20)
        used += fit_stack(TIER0[at], noise, YES[at], rng.permutation(20) % 5, 0.4).use
    assert used <= 4  # nine by one standard error


def test_options_are_ranked_anew_where_tier_1_knows_more() -> None:
    right = [int(i) for i in RNG.integers(0, 4, 80)]
    tier0 = [np.full(4, 0.25) + 0.05 * RNG.normal(0, 0.3, 4) for _ in right]
    good = [np.where(np.arange(4) == r, 2.0, 0.0) + RNG.normal(0, 0.7, 4) for r in right]
    folds = np.arange(80) % 5
    verdict = fit_option_stack(tier0, good, right, folds)
    assert verdict.use and verdict.metrics["accuracy_both"] > 0.8
    assert verdict.metrics["accuracy_tier0"] < 0.5 and verdict.low < 0 < verdict.high < 1
    noise = [RNG.normal(0, 1.0, 4) for _ in right]
    assert not fit_option_stack(tier0, noise, right, folds).use


def test_a_stack_keeps_what_tier_0_gave_the_options_together() -> None:
    stack = Stack(own=1.0, added=1.0, scale=2.0)
    shares = stack.shares([0.4, 0.2, 0.2], [1.0, 5.0, 3.0])
    weights = np.array([0.4 * np.exp(-1.0), 0.2 * np.exp(1.0), 0.2])
    assert shares == pytest.approx(0.8 * weights / weights.sum(), abs=1e-6)
    plain = Stack().yes(np.array([-3.0, 0.0, 50.0]), np.array([9.0, 9.0, 9.0]))
    assert plain == pytest.approx(sigmoid(np.array([-3.0, 0.0, 12.0])), abs=1e-6)


def test_a_stack_is_read_as_it_was_written() -> None:
    stack = Stack(0.9, 1.5, -0.2, 0.3, 2.0, 0.4)
    assert Stack.from_dict(stack.to_dict()) == stack
    for wrong in ({"scale": 0.0}, {"own": float("nan")}, {"more": 1.0}):
        with pytest.raises(ValueError):
            Stack.from_dict({**stack.to_dict(), **wrong})


def test_auc_and_f1_by_hand() -> None:
    yes = np.array([True, True, False, False])
    assert auc(np.array([0.9, 0.4, 0.4, 0.1]), yes) == pytest.approx(3.5 / 4)
    assert auc(np.array([0.9, 0.4]), np.array([True, True])) == 0.5
    assert best_expected_f1(np.array([0.9, 0.8, 0.1, 0.1]), yes) == 1.0


def question(*names: str) -> Query:
    return Query(tuple(make_record({"n": name}) for name in names))


def test_questions_that_share_a_record_are_one_group() -> None:
    queries = [question("a", "b"), question("c", "d"), question("b", "e"), question("f", "g")]
    queries += [question("h", "i"), question("j", "k"), question("l", "m"), question("e", "x")]
    assert groups_of(queries).tolist() == [0, 1, 0, 2, 3, 4, 5, 0]
    star = [question("hub", str(i)) for i in range(10)]
    assert groups_of(star).tolist() == list(range(10))
    assert groups_of([]).tolist() == []


def test_folds_keep_groups_together_and_spread_the_rare_answer() -> None:
    groups = np.repeat(np.arange(50), 2)
    answers = ["match" if i < 20 else "mismatch" for i in range(100)]
    folds = draw_folds(groups, answers, 5, 0)
    assert all(len(set(folds[groups == g])) == 1 for g in range(50))
    for fold in range(5):
        own = [answers[i] for i in np.flatnonzero(folds == fold)]
        assert own.count("match") == 4 and own.count("mismatch") == 16
    assert draw_folds(groups, answers, 5, 0).tolist() == folds.tolist()
    assert set(draw_folds(np.arange(3), None, 5, 0).tolist()) == {0, 1, 2}


def test_labels_of_hidden_records_are_left_out() -> None:
    labels = [Demonstration(question("a", "b"), "match"), Demonstration(question("c"), "x")]
    assert without(labels, {make_record({"n": "b"}).digest}) == labels[1:]
