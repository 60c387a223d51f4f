"""Which rows to ask the oracle about until a goal holds with a finite-sample guarantee.

The rows at risk stand in strata, those most likely to be hits first. As long as the goal is not
shown (`audit`), either the first stratum is asked about as a whole, which mends its errors, or rows
are drawn at random from all strata, which measures what is left and mends what is drawn. A plan
says which is expected to end sooner; it may be as wrong as it likes: only the number of rows asked
about depends on it, never the guarantee.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meld_duckdb.features.audit import Goal, Ledger, growth

Ask = Callable[[np.ndarray], Sequence[int]]
"""Answers for positions: `HIT`, `MISS`, or `FAILED` where the oracle has no answer."""

MISS, HIT, FAILED = 0, 1, 2

_FIRST = 0.003
_RATIO = 1.08
_LEAST_ROWS = 6
_BATCH = 16
_PILOT = 32
_PILOT_SHARE = 1 / 16
"""Rows drawn before the first plan: at most so many, and such a share of all."""

_PILOT_POWER = 0.5
_POWERS = (0.25, 0.0, 0.125, 0.375)
"""Rows are drawn with weights that are such powers of how likely they are hits."""

_LEAST_RATE = 1e-4
_AS_IS = np.array([0.0, 1.0])
_SPREAD = np.array([1.0, 0.5])
"""Shift and slope of the log-odds of a cheap answer, and variances of what they may really be."""

_NEWTON_STEPS = 6
_PRIOR = 4.0
"""Rows that the probability of the cheap answer counts for in the rate of a stratum."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """How it ended.

    Attributes:
        certified: Whether the goal is shown.
        asked: Positions asked about, in order.
        answers: What the oracle said to them.
        n_drawn: Those of them that were drawn at random; the others were asked for being doubtful.
        n_escalated: The others.
        bound: The best target that what was asked shows; at least the goal's where certified.
        floor: Rows at risk with a probability of a hit above this were all asked about; None where
            no stratum was.
    """

    certified: bool
    asked: np.ndarray
    answers: np.ndarray
    n_drawn: int
    n_escalated: int
    bound: float
    floor: float | None


@dataclass(slots=True, eq=False)
class _Stratum:
    """Rows that are alike to the cheap answer.

    Attributes:
        rows: Positions in random order; ``taken`` of them were asked about.
        expected: Mean probability of a hit, by the cheap answer.
        worth: What a hit is worth.
        highest: Largest probability of a hit among its rows.
    """

    rows: np.ndarray
    expected: float
    worth: float
    highest: float
    taken: int = 0
    hits: int = 0

    @property
    def left(self) -> int:
        return len(self.rows) - self.taken

    @property
    def at_risk(self) -> bool:
        return self.worth > 0


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What to do next: ask about ``n_whole`` strata as a whole, then draw ``n_draws`` rows."""

    n_whole: int
    n_draws: float
    weights: np.ndarray
    bet: float
    cost: float


def certify(
    goal: Goal,
    delta: float,
    at_risk: np.ndarray,
    ask: Ask,
    rng: np.random.Generator,
    *,
    returned: np.ndarray | None = None,
    most: int | None = None,
) -> Verdict:
    """Ask about rows until a goal is shown, or nothing more may be asked.

    With a probability of at least 1 - ``delta`` over ``rng``, a goal that is shown holds of the
    answers where every row asked about has what the oracle said and all others the cheap answer.

    Args:
        goal: What is to be shown.
        delta: How likely it may be that it is shown although it does not hold.
        at_risk: Probability, as the cheap answer sees it, that a row is a hit: its answer is wrong
            (accuracy), it is returned and wrong (precision), it is right and not returned (recall).
        ask: Answers for positions in ``at_risk``; those of ``returned`` come after them.
        rng: Draws the rows.
        returned: Recall: probability that a row that is returned is right.
        most: How many rows may be asked about; None for all.
    """
    run = _Run(goal, delta, at_risk, np.zeros(0) if returned is None else returned, ask, rng)
    limit = run.n_rows if most is None else min(most, run.n_rows)
    while not run.is_shown:
        room = limit - len(run.asked)
        if room <= 0:
            break
        plan = run.plan()
        if plan.n_whole:
            run.ask_whole(room)
        else:
            run.draw(plan, min(room, run.batch(plan)))
    return run.verdict()


class _Run:
    """One run of `certify`."""

    def __init__(
        self,
        goal: Goal,
        delta: float,
        at_risk: np.ndarray,
        returned: np.ndarray,
        ask: Ask,
        rng: np.random.Generator,
    ) -> None:
        self.ledger = Ledger(goal, delta)
        self.n_rows = len(at_risk) + len(returned)
        self._ask, self._rng = ask, rng
        self._strata = _strata(at_risk, 0, 1.0, rng)
        if goal.kind == "recall":
            self._strata += _strata(returned, len(at_risk), -goal.credit, rng)
        self.asked: list[int] = []
        self._answers: list[int] = []
        self._n_drawn = 0
        self._floor: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the goal is shown, or cannot be missed by the rows that are left."""
        return self._cannot_miss(self.ledger.goal) or self.ledger.missing == 0.0

    @property
    def bound(self) -> float:
        """The best target that is shown, in steps of a hundredth below the one that was wanted."""
        if not any(s.left for s in self._strata if s.at_risk):
            return 1.0
        goal = self.ledger.goal
        if self.is_shown:
            return goal.target
        lower = (np.arange(np.ceil(goal.target * 100) - 1, 0, -1) / 100).tolist()
        goals = (replace(goal, target=t) for t in lower)
        shown = (g.target for g in goals if self._cannot_miss(g) or self.ledger.shows(g))
        return next(shown, 0.0)

    def _cannot_miss(self, goal: Goal) -> bool:
        """Tell whether a goal holds whatever the rows are that are left."""
        left = sum(s.left for s in self._strata if s.at_risk)
        return left <= goal.least_left(self.ledger.hits, self.ledger.credited) - goal.step

    def plan(self) -> _Plan:
        """Find how many of the first strata to ask about, and how to draw from the others."""
        strata = [s for s in self._strata if s.left]
        rates, worth = self._rates(strata), np.array([s.worth for s in strata])
        counts = np.array([float(s.left) for s in strata])
        n_at_risk = sum(s.at_risk for s in strata)
        level, missing = self.ledger.level, self.ledger.missing
        enough = level - self.ledger.goal.step
        n_pilot = min(_PILOT, int(self.n_rows * _PILOT_SHARE)) - self._n_drawn
        if n_pilot > 0:
            weights = rates**_PILOT_POWER
            bet, _ = growth(counts, rates, worth, weights, level)
            return _Plan(0, float(n_pilot), weights, bet, float(n_pilot))

        def after(first: int, powers: Sequence[float]) -> _Plan:
            rest = slice(first, None)
            found = _draws(counts[rest], rates[rest], worth[rest], level, enough, missing, powers)
            return replace(found, n_whole=first, cost=found.cost + float(counts[:first].sum()))

        best = min(
            (after(first, _POWERS[:1]) for first in range(n_at_risk, -1, -1)), key=lambda p: p.cost
        )
        return after(best.n_whole, _POWERS)

    def batch(self, plan: _Plan) -> int:
        """How many rows to draw before planning anew."""
        most = max(_BATCH, len(self.asked) // 8)
        return max(1, min(most, int(np.ceil(min(plan.n_draws, float(most))))))

    def ask_whole(self, room: int) -> None:
        """Ask about all rows of the first stratum that has any left."""
        stratum = next(s for s in self._strata if s.left)
        rows = stratum.rows[stratum.taken :][:room]
        for position, said in zip(rows.tolist(), self._said(rows), strict=True):
            self._enter(stratum, position, said)
        if not stratum.left:
            later = [s.highest for s in self._strata if s.left and s.at_risk]
            self._floor = max(later, default=0.0)

    def draw(self, plan: _Plan, n: int) -> None:
        """Draw rows, bet on each, then enter what the oracle says."""
        strata = [s for s in self._strata if s.left]
        left = np.array([float(s.left) for s in strata])
        chosen, inverse, worst = [], [], []
        worth = np.array([s.worth for s in strata])
        for _ in range(min(n, int(left.sum()))):
            mass = left * plan.weights
            total = mass.sum()
            at = int(self._rng.choice(len(strata), p=mass / total))
            chosen.append(at)
            inverse.append(total / plan.weights[at])
            worst.append(float((worth * total / plan.weights)[left > 0].max(initial=0.0)))
            left[at] -= 1.0
        ahead = [0] * len(strata)
        rows = np.empty(len(chosen), dtype=np.int64)
        for i, at in enumerate(chosen):
            rows[i] = strata[at].rows[strata[at].taken + ahead[at]]
            ahead[at] += 1
        for i, (position, said) in enumerate(zip(rows.tolist(), self._said(rows), strict=True)):
            stratum = strata[chosen[i]]
            bet = min(plan.bet, self.ledger.largest_bet(worst[i]))
            is_hit = _counts(stratum, said)
            self.ledger.draw(bet, inverse[i], worst[i], at_risk=stratum.at_risk, is_hit=is_hit)
            self._enter(stratum, position, said)
        self._n_drawn += len(rows)

    def verdict(self) -> Verdict:
        """What has come of it."""
        return Verdict(
            self.is_shown,
            np.array(self.asked, dtype=np.int64),
            np.array(self._answers, dtype=np.int64),
            self._n_drawn,
            len(self.asked) - self._n_drawn,
            self.bound,
            self._floor,
        )

    def _said(self, rows: np.ndarray) -> Sequence[int]:
        return self._ask(rows) if len(rows) else []

    def _enter(self, stratum: _Stratum, position: int, said: int) -> None:
        is_hit = _counts(stratum, said)
        stratum.taken += 1
        stratum.hits += int(is_hit)
        self.ledger.enter(at_risk=stratum.at_risk, is_hit=is_hit, credited=said == HIT)
        self.asked.append(position)
        self._answers.append(said)

    def _rates(self, strata: Sequence[_Stratum]) -> np.ndarray:
        """Share of hits expected in each stratum: what was found there, and in all, so far."""
        rates = np.empty(len(strata))
        for at_risk in (True, False):
            own = [s for s in self._strata if s.at_risk is at_risk]
            expected = np.array([s.expected for s in own])
            taken, hits = np.array([[s.taken, s.hits] for s in own]).reshape(-1, 2).T
            prior = dict(zip(map(id, own), _corrected(expected, taken, hits), strict=True))
            for i, s in enumerate(strata):
                if s.at_risk is at_risk:
                    rates[i] = (_PRIOR * prior[id(s)] + s.hits) / (_PRIOR + s.taken)
        return np.clip(rates, _LEAST_RATE, 1.0 - _LEAST_RATE)


def _counts(stratum: _Stratum, said: int) -> bool:
    """Whether a row is a hit; one without an answer is where that is worse."""
    return said == HIT or (said == FAILED and stratum.at_risk)


def _corrected(expected: np.ndarray, taken: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Probabilities of hits, after their log-odds were fitted to what was found.

    Args:
        expected: Probability of a hit in each stratum, by the cheap answer.
        taken: Rows asked about.
        hits: Hits among them.
    """
    odds = np.clip(expected, _LEAST_RATE, 1.0 - _LEAST_RATE)
    odds = np.log(odds / (1.0 - odds))
    rows, fitted = np.stack([np.ones_like(odds), odds]), _AS_IS.copy()
    for _ in range(_NEWTON_STEPS):
        rate = 1.0 / (1.0 + np.exp(-(fitted @ rows)))
        gradient = rows @ (hits - taken * rate) - (fitted - _AS_IS) / _SPREAD
        curve = (rows * (taken * rate * (1.0 - rate))) @ rows.T + np.diag(1.0 / _SPREAD)
        fitted = fitted + np.clip(np.linalg.solve(curve, gradient), -1.0, 1.0)
    return np.asarray(1.0 / (1.0 + np.exp(-(fitted @ rows))))


def _draws(
    counts: np.ndarray,
    rates: np.ndarray,
    worth: np.ndarray,
    level: float,
    enough: float,
    missing: float,
    powers: Sequence[float],
) -> _Plan:
    """The weights with which the fewest draws from some strata are expected to be enough."""
    to_ask = max(0.0, float(counts[worth > 0].sum()) - enough)
    best = _Plan(0, to_ask, np.ones(len(counts)), 0.0, to_ask)
    if to_ask == 0.0:
        return best
    for power in powers:
        weights = rates**power
        bet, speed = growth(counts, rates, worth, weights, level)
        if speed > 0.0 and missing / speed < best.cost:
            n_draws = missing / speed
            best = _Plan(0, n_draws, weights, bet, n_draws)
    return best


def _strata(
    probability: np.ndarray, start: int, worth: float, rng: np.random.Generator
) -> list[_Stratum]:
    """Rows by falling probability, in strata that grow; the rows of a stratum in random order."""
    order = np.argsort(-probability, kind="stable")
    found: list[_Stratum] = []
    at, size = 0, max(_LEAST_ROWS, _FIRST * len(order))
    while at < len(order):
        end = len(order) if len(order) - at < 2 * size else at + int(size)
        rows = order[at:end]
        own = probability[rows]
        found.append(
            _Stratum(rng.permutation(rows) + start, float(own.mean()), worth, float(own.max()))
        )
        at, size = end, size * _RATIO
    return found
