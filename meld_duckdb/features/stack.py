"""How a cross-encoder's log-odds are added to tier 0's: three numbers, fitted to labels.

    yes or no:   log-odds = shift + w0 x tier 0's + w1 x tier 1's (standardised)
    an option:   log-odds = w0 x log of tier 0's share + w1 x tier 1's (centred, scaled)

What is fitted is drawn towards tier 0 alone (w0 = 1, the others 0): with few labels the second
opinion moves little, and where it says nothing the weights stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

DECIMALS = 6
"""Decimals of probabilities that count."""

SUREST = 12.0
"""Log-odds of either tier count up to this."""

_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Stack:
    """Weights of both tiers.

    Attributes:
        own: Weight of tier 0's log-odds.
        added: Weight of tier 1's, in standard deviations of them among the labels.
        shift: Added to the log-odds of yes.
        centre: Mean of tier 1's log-odds among the labels; 0 for options, centred one by one.
        scale: Their standard deviation.
        threshold: Probability from which yes is answered.
    """

    own: float = 1.0
    added: float = 0.0
    shift: float = 0.0
    centre: float = 0.0
    scale: float = 1.0
    threshold: float = 0.5

    def yes(self, tier0: FloatArray, tier1: FloatArray) -> FloatArray:
        """Probability of yes from the log-odds of both tiers, each [n]; gives [n]."""
        odds = self.shift + self.own * limited(tier0) + self.added * self._standard(tier1)
        return sigmoid(odds).round(DECIMALS)

    def shares(
        self, tier0: Sequence[float] | FloatArray, tier1: Sequence[float] | FloatArray
    ) -> FloatArray:
        """Probabilities of the options of one question, [k], which sum to what tier 0's do.

        Args:
            tier0: Tier 0's probabilities of the options.
            tier1: Tier 1's log-odds of the same options.
        """
        before = np.asarray(tier0, dtype=np.float64)
        own, other = option_odds(before, np.asarray(tier1, dtype=np.float64))
        odds = self.own * own + self.added * other / self.scale
        found = np.exp(odds - odds.max())
        return np.asarray(before.sum() * found / found.sum()).round(DECIMALS)

    def _standard(self, tier1: FloatArray) -> FloatArray:
        return (limited(tier1) - self.centre) / self.scale

    def to_dict(self) -> dict[str, float]:
        """What `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, float]) -> Stack:
        """Read weights.

        Raises:
            ValueError: A weight is missing, unknown or no finite number.
        """
        if set(found) != set(cls.__slots__):
            raise ValueError(f"expected {', '.join(cls.__slots__)}, got {', '.join(found)}")
        values = {name: float(value) for name, value in found.items()}
        if not all(np.isfinite(list(values.values()))) or values["scale"] <= 0:
            raise ValueError(f"weights out of range: {values}")
        return cls(**values)


def option_odds(tier0: FloatArray, tier1: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Logarithms of tier 0's shares, and tier 1's log-odds centred over the options."""
    own = np.log(np.maximum(tier0, _LEAST_SHARE))
    other = limited(tier1)
    return np.asarray(own), np.asarray(other - other.mean())


def log_odds(probabilities: FloatArray) -> FloatArray:
    """Log-odds of probabilities, within `SUREST`."""
    p = np.clip(probabilities, _LEAST_SHARE, 1 - _LEAST_SHARE)
    return limited(np.log(p / (1 - p)))


def limited(odds: FloatArray) -> FloatArray:
    """Log-odds within `SUREST`."""
    return np.asarray(np.clip(odds, -SUREST, SUREST), dtype=np.float64)


def sigmoid(odds: FloatArray) -> FloatArray:
    """Probabilities of log-odds."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0))), dtype=np.float64)
