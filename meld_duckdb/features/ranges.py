"""Ranges of the numbers in a value within which a rule holds, learned from labels.

``3/1/14`` is turned and ``3/1/96`` is not: the third number tells. A tree of two levels at most is
grown over the numbers of the values, their length and the number of their tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from meld_duckdb.features.programs import tokens

LEAST = 2
"""Labels on each side of a threshold."""

_DEPTH = 2
_NUMBERS = 6


@dataclass(frozen=True, slots=True)
class Split:
    """A threshold and what follows on either side.

    Attributes:
        feature: Which number: 0 the length, 1 the tokens, then the numbers in order.
        threshold: Values up to it are below.
        below: Next split; None at an end.
        above: Likewise.
    """

    feature: int
    threshold: float
    below: Split | None
    above: Split | None

    def leaf(self, text: str) -> tuple[bool, ...]:
        """The side taken at each split; a number that is not there counts as above."""
        is_below = _describe(text)[self.feature] <= self.threshold
        then = self.below if is_below else self.above
        return (is_below, *(then.leaf(text) if then is not None else ()))


def learn_split(texts: Sequence[str], agrees: Sequence[bool]) -> Split | None:
    """Grow a tree that parts the values where a rule holds from the others; None if none helps."""
    return _grow([_describe(t) for t in texts], list(agrees), _DEPTH)


def _grow(rows: list[list[float]], agrees: list[bool], depth: int) -> Split | None:
    total = sum(agrees)
    if depth == 0 or total in (0, len(agrees)):
        return None
    best: tuple[float, int, float] | None = None
    for feature in range(_NUMBERS + 2):
        order = sorted(range(len(rows)), key=lambda i: rows[i][feature])
        below = 0
        for n, i in enumerate(order[:-1], start=1):
            below += agrees[i]
            here, following = rows[i][feature], rows[order[n]][feature]
            if here == following or n < LEAST or len(rows) - n < LEAST:
                continue
            impurity = _gini(below, n) + _gini(total - below, len(rows) - n)
            cut = (here + following) / 2 if math.isfinite(following) else here + 1
            if best is None or impurity < best[0] - 1e-9:
                best = (impurity, feature, cut)
    if best is None or best[0] >= _gini(total, len(agrees)) * 0.8:
        return None
    _, feature, cut = best
    sides = [
        [i for i, row in enumerate(rows) if (row[feature] <= cut) is side] for side in (True, False)
    ]
    below_split, above_split = (
        _grow([rows[i] for i in side], [agrees[i] for i in side], depth - 1) for side in sides
    )
    return Split(feature, cut, below_split, above_split)


def _gini(positive: int, n: int) -> float:
    return 2 * positive * (n - positive) / n


def _describe(text: str) -> list[float]:
    parts = tokens(text)
    numbers = [float(t) for t in parts if t[0].isdecimal() and t.isascii()][:_NUMBERS]
    return [float(len(text)), float(len(parts)), *numbers] + [math.inf] * (_NUMBERS - len(numbers))
