"""Decide whether a cross-encoder adds to tier 0, and how both are added up.

Everything is judged by held-out opinions: what tiers 0 and 1 say of a label was said by models
that had not seen it (`train.expert`), and the weights that add them up are cross-fitted too. Tier 1
is used only where the labels become more likely than under tier 0 alone, recalibrated on the same
labels, by more than `ERRORS` standard errors of that difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.fit_blend import best_expected_threshold
from meld_duckdb.features.stack import (
    DECIMALS,
    FloatArray,
    Stack,
    limited,
    log_odds,
    option_odds,
)

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

UNSURE = (0.02, 0.98)
"""Tier-0 probabilities between these are scored by tier 1, or a wider range: see `Verdict`."""

_SPREAD = (0.5, 1.0, 1.0)
"""How far weights are expected from tier 0 alone: its own weight, tier 1's, the shift."""

LEAST_GAIN = 0.005
"""Mean gain in log-likelihood of a label below which tier 1 is not worth its time."""

ERRORS = 1.645
"""Standard errors that a gain has to exceed: by chance it does one time in twenty."""

_LEAST_LABELS = 20
_LEAST_OF_AN_ANSWER = 5
_SURE = 1e-4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the labels say.

    Attributes:
        use: Whether tier 1 is asked.
        reason: Why, with the numbers behind it.
        stack: The weights, fitted to all labels.
        low: Rows with a tier-0 probability above this ...
        high: ... and below this are scored by tier 1. For options the probability is that of the
            best one, and ``low`` is below 0.
        metrics: Held-out figures of tier 0, of tier 1 and of both.
        opinions: Held-out probability of yes of each label by both; empty for questions with
            options.
    """

    use: bool
    reason: str
    stack: Stack
    low: float
    high: float
    metrics: dict[str, float]
    opinions: tuple[float, ...] = ()


def fit_stack(
    tier0: FloatArray, tier1: FloatArray, answers: BoolArray, folds: IntArray, own_cut: float
) -> Verdict:
    """Judge and fit for a question with two answers.

    Args:
        tier0: Held-out probabilities of yes by tier 0, [n].
        tier1: Held-out log-odds by tier 1, [n].
        answers: What holds, [n].
        folds: Fold of each label, [n]; labels of a fold are judged by weights of the others.
        own_cut: Threshold of tier 0.
    """
    odds = log_odds(tier0)
    alone, both = (_cross_fit(odds, t, answers, folds) for t in (np.zeros_like(tier1), tier1))
    stack = _fit_yes(odds, tier1, answers)
    stack = replace(stack, threshold=best_expected_threshold(stack.yes(odds, tier1)))
    low = min(UNSURE[0], own_cut / 4, stack.threshold / 4)
    high = max(UNSURE[1], 1 - (1 - own_cut) / 4, 1 - (1 - stack.threshold) / 4)
    asked = (tier0 > low) & (tier0 < high)
    both = np.where(asked, both, alone)
    metrics = {
        "labels": float(len(answers)),
        "log_loss_tier0": float(_losses(alone, answers).mean()),
        "log_loss_both": float(_losses(both, answers).mean()),
        # Of what was cross-fitted, like that of both: weights that differ from fold to fold cost
        # some order among the labels, which is not tier 1's doing.
        "auc_tier0": auc(alone, answers),
        "auc_tier1": auc(tier1, answers),
        "auc_both": auc(both, answers),
        "f1_tier0": best_expected_f1(alone, answers),
        "f1_both": best_expected_f1(both, answers),
        "asked_share": float(asked.mean()),
    }
    gains = _losses(alone, answers) - _losses(both, answers)
    fine = metrics["f1_both"] >= metrics["f1_tier0"]
    rarer = int(min(answers.sum(), (~answers).sum()))
    scores = metrics["f1_tier0"], metrics["f1_both"]
    use, reason = _judge(gains, "F1", *scores, fine, rarer)
    opinions = tuple(both.round(DECIMALS).tolist())
    return Verdict(use, reason, stack, low, high, _rounded(metrics), opinions)


def fit_option_stack(
    tier0: Sequence[FloatArray],
    tier1: Sequence[FloatArray],
    right: Sequence[int],
    folds: IntArray,
) -> Verdict:
    """Judge and fit for a question with options.

    Args:
        tier0: Held-out probabilities of each question's options by tier 0.
        tier1: Held-out log-odds of the same options by tier 1.
        right: Number of the right option.
        folds: Fold of each question.
    """
    pairs = [option_odds(p, t) for p, t in zip(tier0, tier1, strict=True)]
    silent = [(own, np.zeros_like(other)) for own, other in pairs]
    alone, both = (_cross_fit_options(given, right, folds) for given in (silent, pairs))
    stack = _fit_shares(pairs, right)
    hits = [
        np.array([int(np.argmax(p)) == r for p, r in zip(ps, right, strict=True)])
        for ps in (tier0, both)
    ]
    gains = np.array(
        [
            np.log(max(b[r], _SURE)) - np.log(max(a[r], _SURE))
            for a, b, r in zip(alone, both, right, strict=True)
        ]
    )
    metrics = {
        "labels": float(len(right)),
        "log_loss_tier0": float(
            -np.mean([np.log(max(a[r], _SURE)) for a, r in zip(alone, right, strict=True)])
        ),
        "accuracy_tier0": float(hits[0].mean()) if right else 0.0,
        "accuracy_both": float(hits[1].mean()) if right else 0.0,
        "accuracy_tier1": float(
            np.mean([int(np.argmax(t)) == r for t, r in zip(tier1, right, strict=True)])
        ),
    }
    metrics["log_loss_both"] = metrics["log_loss_tier0"] - float(gains.mean())
    fine = metrics["accuracy_both"] >= metrics["accuracy_tier0"]
    use, reason = _judge(
        gains, "accuracy", metrics["accuracy_tier0"], metrics["accuracy_both"], fine
    )
    return Verdict(use, reason, stack, -1.0, UNSURE[1], _rounded(metrics))


def _judge(
    gains: FloatArray,
    name: str,
    before: float,
    after: float,
    fine: bool,
    rarer: int = _LEAST_OF_AN_ANSWER,
) -> tuple[bool, str]:
    """Decide by the gain in log-likelihood of each label, [n], ``rarer`` of the rarer answer."""
    n = len(gains)
    gain = float(gains.mean())
    error = float(gains.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf")
    figures = (
        f"log-loss falls by {gain:.4f} +- {error:.4f}, {name} {before:.3f} to {after:.3f}, "
        f"on {n} labels scored by models that had not seen them"
    )
    if n < _LEAST_LABELS:
        return False, f"{n} labels are too few to tell, at least {_LEAST_LABELS} are needed"
    if rarer < _LEAST_OF_AN_ANSWER:
        least = _LEAST_OF_AN_ANSWER
        return False, f"{rarer} labels of the rarer answer are too few to tell, {least} are needed"
    if gain <= max(ERRORS * error, LEAST_GAIN):
        return False, f"tier 1 adds no more than chance could: {figures}"
    if not fine:
        return False, f"tier 1 makes more mistakes: {figures}"
    return True, f"tier 1 adds: {figures}"


def _cross_fit(
    odds: FloatArray, tier1: FloatArray, answers: BoolArray, folds: IntArray
) -> FloatArray:
    found = np.zeros(len(odds))
    for fold in np.unique(folds):
        own = folds == fold
        found[own] = _fit_yes(odds[~own], tier1[~own], answers[~own]).yes(odds[own], tier1[own])
    return found


def _cross_fit_options(
    pairs: Sequence[tuple[FloatArray, FloatArray]], right: Sequence[int], folds: IntArray
) -> list[FloatArray]:
    found: list[FloatArray] = [np.zeros(0)] * len(pairs)
    for fold in np.unique(folds):
        known = np.flatnonzero(folds != fold).tolist()
        stack = _fit_shares([pairs[i] for i in known], [right[i] for i in known])
        for i in np.flatnonzero(folds == fold).tolist():
            own, other = pairs[i]
            found[i] = stack.shares(np.exp(own) / np.exp(own).sum(), other)
    return found


def _fit_yes(odds: FloatArray, tier1: FloatArray, answers: BoolArray) -> Stack:
    """The most likely weights given the labels and that they are near those of tier 0 alone."""
    other = limited(tier1)
    centre, scale = float(other.mean()), max(float(other.std()), 1e-6)
    own, added = limited(odds), (other - centre) / scale
    sign = np.where(answers, 1.0, -1.0)

    def cost(w: FloatArray) -> float:
        return float(np.logaddexp(0.0, -sign * (w[2] + w[0] * own + w[1] * added)).sum()) + _far(w)

    w = _least(cost, 3)
    return Stack(float(w[0]), float(w[1]), float(w[2]), centre, scale)


def _fit_shares(pairs: Sequence[tuple[FloatArray, FloatArray]], right: Sequence[int]) -> Stack:
    spread = np.concatenate([other for _, other in pairs]) if pairs else np.zeros(1)
    scale = max(float(spread.std()), 1e-6)

    def cost(w: FloatArray) -> float:
        total = 0.0
        for (own, other), r in zip(pairs, right, strict=True):
            odds = w[0] * own + w[1] * other / scale
            total += float(np.logaddexp.reduce(odds) - odds[r])
        return total + _far(w)

    w = _least(cost, 2)
    return Stack(float(w[0]), float(w[1]), 0.0, 0.0, scale)


def _far(weights: FloatArray) -> float:
    away = [
        (w - start) / spread
        for w, start, spread in zip(weights, (1.0, 0.0, 0.0), _SPREAD, strict=False)
    ]
    return 0.5 * float(np.square(away).sum())


def _least(cost: Any, n: int) -> FloatArray:
    """Minimise over ``n`` weights; both tiers' are not negative."""
    from scipy.optimize import minimize

    bounds = [(0.0, None), (0.0, None), (None, None)][:n]
    start = np.array([1.0, 0.0, 0.0][:n])
    return np.asarray(minimize(cost, start, method="L-BFGS-B", bounds=bounds).x).round(6)


def auc(scores: FloatArray, answers: BoolArray) -> float:
    """Area under the ROC curve, ties counting half; 0.5 where one answer is missing."""
    yes, no = scores[answers], scores[~answers]
    if not len(yes) or not len(no):
        return 0.5
    ordered = np.sort(no)
    below = np.searchsorted(ordered, yes, side="left")
    upto = np.searchsorted(ordered, yes, side="right")
    return float((below + upto).sum() / 2 / (len(yes) * len(no)))


def best_expected_f1(probabilities: FloatArray, answers: BoolArray) -> float:
    """F1 at the threshold that the probabilities themselves suggest."""
    said = probabilities >= best_expected_threshold(probabilities)
    hits = int((said & answers).sum())
    return 2 * hits / max(1, int(said.sum() + answers.sum()))


def _losses(probabilities: FloatArray, answers: BoolArray) -> FloatArray:
    p = np.clip(probabilities, _SURE, 1 - _SURE)
    return np.asarray(-np.where(answers, np.log(p), np.log(1 - p)))


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}
