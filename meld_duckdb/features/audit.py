"""A sequential test of how many wrong answers are left, by betting: valid whenever it is stopped.

Some rows of a population are *hits*: what the cheap answer gets wrong, which the oracle finds when
it is asked. Of interest is what is left among the rows not asked about: every row ``i`` there is
worth ``v_i`` if it is a hit, else 0, and ``G_t`` is the sum of what is left after ``t`` rows.

    a row drawn with probability q from those left, worth v:   Z = v / q,   E[Z] = G_{t-1}
    wealth against "the total is m":   W_t(m) = product of 1 + bet_s * (m - found_s - Z_s)

``found_s`` is what the rows asked before ``s`` were worth, so ``m - found_s`` is what is left under
that hypothesis. Bets are chosen before the row is seen and so small that no factor is negative,
so W(G_0) is a non-negative martingale that starts at 1: it ever reaches 1 / delta with probability
delta at most (Ville). Rows may be asked about without a bet, in any order that the past decides;
they are found and leave the population, and the wealth stays.

Paper: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024);
    weighted draws without replacement as Shekhar, Xu, Lipton, Liang and Ramdas, "Risk-limiting
    financial audits via weighted sampling without replacement" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["accuracy", "precision", "recall"]

_ROUNDING = 1e-9
_SAFE = 0.99
"""Share of the largest bet allowed that is ever made: a hit never takes all the wealth."""

_SHARES = (0.03, 0.06, 0.125, 0.25, 0.5, 0.99)
"""Shares of the largest bet, for goals that the bets were not chosen for."""

_BETS = _SAFE * np.linspace(0.0, 1.0, 17)[1:] ** 2


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to hold of the answers that are given.

    Attributes:
        kind: ``"accuracy"``: the share of right answers. ``"precision"``: the share of right ones
            among those returned. ``"recall"``: the share of the right ones that is returned.
        target: The least share, above 0 and below 1.
        n: Accuracy: all rows; precision: rows returned before any is refuted; recall: right ones
            known to be returned.
    """

    kind: Kind
    target: float
    n: int

    @property
    def credit(self) -> float:
        """Recall: how many right rows may be missing for one that is returned; else 0."""
        return (1.0 - self.target) / self.target if self.kind == "recall" else 0.0

    @property
    def step(self) -> float:
        """How far below `least_left` the sum of what is left must lie: it is whole, or real."""
        return 0.0 if self.kind == "recall" else 1.0

    def least_left(self, hits: int, credited: int) -> float:
        """The least sum of what is left with which the goal would be missed.

        Args:
            hits: Hits found among the rows at risk.
            credited: Right rows found and returned; for recall.
        """
        if self.kind == "recall":
            return self.credit * (self.n + credited)
        rest = self.n - (hits if self.kind == "precision" else 0)
        return float(np.floor((1.0 - self.target) * rest + _ROUNDING)) + 1.0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A row that was drawn.

    Attributes:
        bet: What was bet.
        payoff: Hits at risk, and right rows returned, found before it, each with 1 / q of it.
        worst: The largest ``v / q`` that might have come.
        before: Hits and credited rows found before it.
    """

    bet: float
    payoff: tuple[float, float]
    worst: float
    before: tuple[int, int]


@dataclass(slots=True)
class Ledger:
    """What was asked, in order, and the wealth that came of it.

    A hit among the rows at risk is worth 1. For recall a right row that is returned is worth
    minus `Goal.credit`; these are counted apart, so that the wealth can be told for other targets.

    Attributes:
        goal: What is to be shown.
        delta: How likely it may be that it is shown although it is not so.
        hits: Hits found among the rows at risk.
        returned: Right rows found among those returned.
        credited: Right rows found anywhere.
    """

    goal: Goal
    delta: float
    hits: int = 0
    returned: int = 0
    credited: int = 0
    _drawn: list[_Drawn] = field(default_factory=list)

    @property
    def level(self) -> float:
        """The least sum of what is left with which the goal would be missed, as of now."""
        return self.goal.least_left(self.hits, self.credited)

    def largest_bet(self, worst: float) -> float:
        """The largest bet that cannot make the wealth negative.

        Args:
            worst: The largest ``v / q`` of a row that may be drawn.
        """
        return float(_largest(np.array(worst), np.array(self.level)))

    def draw(
        self, bet: float, inverse: float, worst: float, *, at_risk: bool, is_hit: bool
    ) -> None:
        """Enter a bet and the row that was drawn; `enter` has to follow.

        Args:
            bet: How much was bet; chosen before the row was seen.
            inverse: 1 / q.
            worst: The largest ``v / q`` of a row that might have been drawn.
            at_risk: Whether the row is one of those at risk.
            is_hit: Whether it counts, as wrong or right.
        """
        hit = inverse if is_hit else 0.0
        payoff = (self.hits + hit * at_risk, self.returned + hit * (not at_risk))
        self._drawn.append(_Drawn(bet, payoff, worst, (self.hits, self.credited)))

    def enter(self, *, at_risk: bool, is_hit: bool, credited: bool) -> None:
        """Enter a row that was asked about.

        Args:
            at_risk: Whether a hit of it would be missing or wrong, had it not been found.
            is_hit: Whether it counts, as wrong or right.
            credited: Whether it is a right row that is returned from now on.
        """
        self.hits += int(at_risk and is_hit)
        self.returned += int(is_hit and not at_risk)
        self.credited += int(credited)

    @property
    def missing(self) -> float:
        """How much the logarithm of the wealth has still to grow; 0 once the goal is shown."""
        worth = np.array([1.0, -self.goal.credit])
        payoffs = np.array([d.payoff for d in self._drawn]).reshape(-1, 2) @ worth
        gains = self._total(self.goal) - payoffs
        return self._short_of(_log_wealth(np.array([d.bet for d in self._drawn]), gains))

    def shows(self, goal: Goal) -> bool:
        """Tell whether what was drawn shows another goal of the same kind.

        The bets were chosen for the own goal. Here the wealth is shared among bets that are fixed
        shares of the largest ones allowed, and their mean counts.
        """
        worth = np.array([1.0, -goal.credit])
        payoffs = np.array([d.payoff for d in self._drawn]).reshape(-1, 2) @ worth
        gains = self._total(goal) - payoffs
        levels = np.array([goal.least_left(*d.before) for d in self._drawn])
        largest = _largest(np.array([d.worst for d in self._drawn]), levels)
        logs = [_log_wealth(share * largest, gains) for share in _SHARES]
        return self._short_of(float(np.logaddexp.reduce(logs)) - np.log(len(logs))) == 0.0

    def _total(self, goal: Goal) -> float:
        """The least total with which a goal would be missed, as of now."""
        left = goal.least_left(self.hits, self.credited)
        return left + self.hits - goal.credit * self.returned

    def _short_of(self, wealth: float) -> float:
        return max(0.0, float(np.log(1.0 / self.delta)) - wealth)


def _largest(worst: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The largest bets that cannot make the wealth negative; see `Ledger.largest_bet`."""
    room = worst - level
    return np.asarray(_SAFE / np.where(room > 0, room, np.maximum(worst, 1.0)))


def _log_wealth(bets: np.ndarray, gains: np.ndarray) -> float:
    return float(np.log1p(np.maximum(bets * gains, -1.0 + _ROUNDING)).sum())


def growth(
    counts: np.ndarray, rates: np.ndarray, worth: np.ndarray, weights: np.ndarray, level: float
) -> tuple[float, float]:
    """The bet under which the wealth is expected to grow fastest, and how fast.

    Args:
        counts: Rows left in each stratum, float [n].
        rates: Share of hits expected among them.
        worth: ``v`` of a hit.
        weights: Weight with which one row is drawn; positive.
        level: What is left under the hypothesis that is bet against.

    Returns:
        The bet, and the growth of the logarithm of the wealth a draw; (0, 0) where none grows.
    """
    total = float(counts @ weights)
    payoffs = worth * total / weights
    worst = float(payoffs[counts > 0].max(initial=0.0))
    room = worst - level
    bets = _BETS / room if room > 0 else _BETS / max(worst, 1.0)
    share = counts * weights / total
    hit = np.log1p(np.maximum(bets[:, None] * (level - payoffs[None, :]), -1.0 + _ROUNDING))
    missed = np.log1p(bets * level)
    speed = hit @ (share * rates) + missed * float(share @ (1.0 - rates))
    best = int(np.argmax(speed))
    return (float(bets[best]), float(speed[best])) if speed[best] > 0 else (0.0, 0.0)
