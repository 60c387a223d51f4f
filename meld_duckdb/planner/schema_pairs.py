"""Which pairs of columns of two schemas are looked at closely, and which are matched one to one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ASSIGNMENTS = ("many_to_many", "one_to_one")


def nearest_pairs(likely: FloatArray, k: int) -> list[tuple[int, int]]:
    """The pairs that are among the ``k`` likeliest of either of their columns.

    Args:
        likely: Probability of every pair, [left, right].
        k: Partners of a column; ties go to the earlier column.

    Returns:
        Positions (left, right) in order.
    """
    near = np.zeros(likely.shape, dtype=bool)
    if likely.size:
        right = np.argsort(-likely, axis=1, kind="stable")[:, :k]
        np.put_along_axis(near, right, True, axis=1)
        left = np.argsort(-likely, axis=0, kind="stable")[:k]
        np.put_along_axis(near, left, True, axis=0)
    return [(int(i), int(j)) for i, j in np.argwhere(near)]


def one_to_one(likely: FloatArray, matches: BoolArray) -> BoolArray:
    """The matches that are kept where a column has one partner at most.

    Of all such choices among the matching pairs it is the one with the largest sum of
    probabilities (Jonker-Volgenant, by scipy).

    Args:
        likely: Probability of every pair, [left, right].
        matches: Whether it was answered that a pair matches, [left, right].
    """
    from scipy.optimize import linear_sum_assignment  # half a second to import

    kept = np.zeros(matches.shape, dtype=bool)
    if matches.any():
        # A pair that does not match adds nothing, so it is only chosen where nothing is left.
        rows, columns = linear_sum_assignment(np.where(matches, likely + 1e-9, 0.0), maximize=True)
        kept[rows, columns] = matches[rows, columns]
    return kept
