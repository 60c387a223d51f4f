"""Guarantees by simulation: how often they fail, and how much has to be asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from meld_duckdb.features.audit import Goal, Ledger, growth
from meld_duckdb.features.certify import FAILED, HIT, MISS, Verdict, certify

DELTA = 0.2
RUNS = 60
MOST_FAILURES = DELTA * RUNS + 3 * np.sqrt(DELTA * (1 - DELTA) * RUNS)

Truth = np.ndarray
Doubt = Callable[[Truth, np.random.Generator], np.ndarray]


def constant(hits: Truth, rng: np.random.Generator) -> np.ndarray:
    return np.full(len(hits), 0.1)


def overconfident(hits: Truth, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.0, 1e-6, len(hits))


def reversed_order(hits: Truth, rng: np.random.Generator) -> np.ndarray:
    return np.where(hits, 0.01, rng.uniform(0.2, 0.5, len(hits)))


def informative(hits: Truth, rng: np.random.Generator) -> np.ndarray:
    return np.where(hits, rng.beta(4, 4, len(hits)), rng.beta(1, 12, len(hits)))


def partly_hidden(hits: Truth, rng: np.random.Generator) -> np.ndarray:
    """Half of the hits look doubtful, the others as safe as can be."""
    seen = hits & (np.arange(len(hits)) % 2 == 0)
    return np.where(seen, 0.45, 0.02)


DOUBTS: tuple[Doubt, ...] = (
    constant,
    overconfident,
    reversed_order,
    informative,
    partly_hidden,
)


def hits_among(n: int, n_hits: int) -> Truth:
    hits = np.zeros(n, dtype=bool)
    hits[np.random.default_rng(7).permutation(n)[:n_hits]] = True
    return hits


def asking(hits: Truth) -> Callable[[np.ndarray], list[int]]:
    return lambda rows: [HIT if hit else MISS for hit in hits[rows]]


def accuracy_run(hits: Truth, doubt: Doubt, target: float, seed: int) -> tuple[Verdict, float]:
    """One run, and the share that is right in the end."""
    rng = np.random.default_rng(seed)
    goal = Goal("accuracy", target, len(hits))
    verdict = certify(goal, DELTA, doubt(hits, rng), asking(hits), rng)
    left = hits.sum() - hits[verdict.asked].sum()
    return verdict, 1.0 - left / len(hits)


@pytest.mark.parametrize("doubt", DOUBTS, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("n", "n_hits"), [(200, 24), (200, 40), (30, 5)])
def test_accuracy_fails_no_more_often_than_it_may(doubt: Doubt, n: int, n_hits: int) -> None:
    hits = hits_among(n, n_hits)
    right = [accuracy_run(hits, doubt, 0.9, seed)[1] for seed in range(RUNS)]
    assert sum(share < 0.9 for share in right) <= MOST_FAILURES


def test_a_plain_estimate_would_fail_on_these_populations() -> None:
    """What stops where a sample of 30 looks good enough is wrong far more often."""
    hits = hits_among(200, 24)
    failures = 0
    for seed in range(RUNS):
        found = hits[np.random.default_rng(seed).permutation(200)[:30]].sum()
        failures += found <= 3 and (hits.sum() - found) / 200 > 0.1
    assert failures > MOST_FAILURES


@pytest.mark.parametrize("doubt", [constant, reversed_order, partly_hidden])
def test_precision_fails_no_more_often_than_it_may(doubt: Doubt) -> None:
    hits = hits_among(150, 40)
    failures = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        goal = Goal("precision", 0.8, len(hits))
        verdict = certify(goal, DELTA, doubt(hits, rng), asking(hits), rng)
        found = hits[verdict.asked].sum()
        failures += 1.0 - (hits.sum() - found) / (len(hits) - found) < 0.8
    assert failures <= MOST_FAILURES


@pytest.mark.parametrize("doubt", [constant, overconfident, reversed_order, partly_hidden])
@pytest.mark.parametrize(("n_missing", "n_returned"), [(12, 30), (8, 12), (2, 3)])
def test_recall_fails_no_more_often_than_it_may(
    doubt: Doubt, n_missing: int, n_returned: int
) -> None:
    missing = hits_among(200, n_missing)
    returned = np.arange(40) < n_returned
    everything = np.concatenate([missing, returned])
    failures = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        verdict = certify(
            Goal("recall", 0.8, 0),
            DELTA,
            doubt(missing, rng),
            asking(everything),
            rng,
            returned=np.full(40, 0.7),
        )
        left = missing.sum() - missing[verdict.asked[verdict.asked < 200]].sum()
        failures += 1.0 - left / everything.sum() < 0.8
    assert failures <= MOST_FAILURES


def test_a_good_cheap_answer_costs_few_questions_and_a_bad_one_all_it_must() -> None:
    rng = np.random.default_rng(0)
    good = hits_among(3000, 30)
    verdict = certify(Goal("accuracy", 0.95, 3000), 0.05, informative(good, rng), asking(good), rng)
    assert verdict.certified
    assert len(verdict.asked) < 180
    bad = hits_among(3000, 1500)
    verdict = certify(Goal("accuracy", 0.95, 3000), 0.05, constant(bad, rng), asking(bad), rng)
    assert bad.sum() - bad[verdict.asked].sum() <= 150


def test_the_same_seed_asks_the_same_rows_and_each_once() -> None:
    hits = hits_among(500, 60)
    first, second = (accuracy_run(hits, informative, 0.9, 3)[0] for _ in range(2))
    assert first.asked.tolist() == second.asked.tolist()
    assert len(set(first.asked.tolist())) == len(first.asked)
    assert first.n_drawn + first.n_escalated == len(first.asked)


def test_a_budget_ends_it_and_says_what_could_be_shown() -> None:
    hits, rng = hits_among(2000, 200), np.random.default_rng(0)
    verdict = certify(
        Goal("accuracy", 0.95, 2000), 0.05, constant(hits, rng), asking(hits), rng, most=300
    )
    assert not verdict.certified
    assert len(verdict.asked) == 300
    assert 0.7 <= verdict.bound < 0.95
    left = hits.sum() - hits[verdict.asked].sum()
    assert 1 - left / 2000 >= verdict.bound


def test_rows_below_the_floor_were_all_asked_about() -> None:
    hits, rng = hits_among(800, 160), np.random.default_rng(1)
    doubt = informative(hits, rng)
    verdict = certify(Goal("accuracy", 0.95, 800), 0.05, doubt, asking(hits), rng)
    assert verdict.floor is not None
    assert set(np.flatnonzero(doubt > verdict.floor).tolist()) <= set(verdict.asked.tolist())


def test_a_row_without_an_answer_counts_as_a_hit() -> None:
    rng = np.random.default_rng(0)
    doubt = constant(np.zeros(100, dtype=bool), rng)
    goal = Goal("accuracy", 0.9, 100)
    verdict = certify(goal, 0.05, doubt, lambda rows: [FAILED] * len(rows), rng)
    assert len(verdict.asked) == 90
    missing = certify(Goal("recall", 0.9, 0), 0.05, doubt, lambda rows: [FAILED] * len(rows), rng)
    assert len(missing.asked) == 100


def test_nothing_to_ask_is_nothing_to_miss() -> None:
    none, rng = np.zeros(0), np.random.default_rng(0)
    for goal in (Goal("accuracy", 0.9, 0), Goal("precision", 0.9, 0), Goal("recall", 0.9, 0)):
        verdict = certify(goal, 0.05, none, asking(none.astype(bool)), rng)
        assert (verdict.certified, len(verdict.asked)) == (True, 0)


def test_clean_draws_need_what_the_binomial_needs() -> None:
    """Of many rows without a hit, ln(20) / -ln(.95) = 59 draws show 95 %; bets are a little less."""
    ledger = Ledger(Goal("accuracy", 0.95, 100_000), 0.05)
    counts, level = np.array([1e5]), ledger.level
    bet, speed = growth(counts, np.array([1e-4]), np.ones(1), np.ones(1), level)
    assert bet <= 1.0 / (1e5 - level)
    assert 58.4 <= np.log(20) / speed < 64
    n = 0
    while ledger.missing > 0:
        ledger.draw(bet, 1e5, 1e5, at_risk=True, is_hit=False)
        ledger.enter(at_risk=True, is_hit=False, credited=False)
        n += 1
    assert 59 <= n < 64


def test_a_fair_game_is_not_won_on_average() -> None:
    """The wealth against the true total is a martingale: its mean stays 1."""
    hits = hits_among(60, 9)
    mean = []
    for seed in range(4000):
        order = np.random.default_rng(seed).permutation(60)
        ledger = Ledger(Goal("accuracy", 0.85, 60), 0.05)
        total, wealth = 9.0, 1.0
        for at, row in enumerate(order[:30]):
            bet = ledger.largest_bet(60.0 - at)
            hit = bool(hits[row])
            wealth *= 1 + 0.5 * bet * (total - ledger.hits - (60.0 - at) * hit)
            ledger.enter(at_risk=True, is_hit=hit, credited=False)
        mean.append(wealth)
    assert np.mean(mean) == pytest.approx(1.0, abs=4 * np.std(mean) / np.sqrt(len(mean)))
