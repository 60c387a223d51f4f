"""Metrics as ratios of sums over independent units, so that one bootstrap serves them all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 1_000
_BLOCK = 4_000_000
"""Drawn positions held at once."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric: the sum of ``numerator`` over the sum of ``denominator``, 0 where that is 0.

    Attributes:
        name: Its name.
        numerator: float64 [n], one per unit (a row, a tuple, a gold pair).
        denominator: float64 [n].
    """

    name: str
    numerator: FloatArray
    denominator: FloatArray

    @property
    def value(self) -> float:
        """The metric over all units, in [0, 1]."""
        below = float(self.denominator.sum())
        return float(self.numerator.sum()) / below if below else 0.0


def interval(measure: Measure, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval over the units; (value, value) without units."""
    n = len(measure.numerator)
    if not n:
        return measure.value, measure.value
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // n)
    values: list[FloatArray] = []
    for start in range(0, RESAMPLES, step):
        at = rng.integers(0, n, size=(min(step, RESAMPLES - start), n))
        above = measure.numerator[at].sum(axis=1)
        below = measure.denominator[at].sum(axis=1)
        values.append(np.divide(above, below, out=np.zeros_like(above), where=below > 0))
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def share(name: str, hits: Sequence[bool] | Sequence[float]) -> Measure:
    """Mean over units, for example accuracy or recall."""
    above = np.asarray(hits, dtype=np.float64)
    return Measure(name, above, np.ones_like(above))


def ratio(name: str, hits: Sequence[bool], of: Sequence[bool]) -> Measure:
    """Share of the units named by ``of`` that are hits, for example precision."""
    below = np.asarray(of, dtype=np.float64)
    return Measure(name, np.asarray(hits, dtype=np.float64) * below, below)


def binary_measures(
    truth: Sequence[bool], said: Sequence[bool], units: Sequence[Hashable] | None = None
) -> list[Measure]:
    """F1, precision and recall of the positive class.

    Args:
        truth: What holds.
        said: What was answered.
        units: What is drawn in the bootstrap, for example the row of a cell; the answers if None.
    """
    t, s = np.asarray(truth, dtype=bool), np.asarray(said, dtype=bool)
    return correction_measures(t & s, s, t, units)


def correction_measures(
    right: Sequence[bool] | npt.NDArray[np.bool_],
    said: Sequence[bool] | npt.NDArray[np.bool_],
    true: Sequence[bool] | npt.NDArray[np.bool_],
    units: Sequence[Hashable] | None = None,
) -> list[Measure]:
    """F1, precision and recall from what is right, what was said, and what should have been."""
    sums = [np.asarray(part, dtype=np.float64) for part in (right, said, true)]
    if units is not None:
        sums = _sum_by(units, sums)
    hits, answered, wanted = sums
    return [
        Measure("f1", 2 * hits, answered + wanted),
        Measure("precision", hits, answered),
        Measure("recall", hits, wanted),
    ]


def _sum_by(units: Sequence[Hashable], parts: Sequence[FloatArray]) -> list[FloatArray]:
    numbers: dict[Hashable, int] = {}
    at = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)
    return [
        np.bincount(at, weights=part, minlength=len(numbers)).astype(np.float64) for part in parts
    ]


def best_threshold(scores: Sequence[float] | FloatArray, labels: Sequence[bool]) -> float | None:
    """The threshold with the best F1 on labelled scores, halfway to the next score below.

    Returns:
        None where no label is positive: then nothing is said.
    """
    found = np.asarray(scores, dtype=np.float64)
    wanted = np.asarray(labels, dtype=np.float64)
    if not wanted.any():
        return None
    order = np.argsort(-found, kind="stable")
    found, wanted = found[order], wanted[order]
    f1 = 2 * np.cumsum(wanted) / (np.arange(1, len(found) + 1) + wanted.sum())
    last = np.append(found[1:] != found[:-1], True)
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = found[best + 1] if best + 1 < len(found) else found[best]
    return float((found[best] + below) / 2)
