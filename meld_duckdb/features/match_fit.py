"""Entity matching that has learned from labelled pairs: the shipped model, corrected by them.

Three members (`features.fit_blend`): the shipped model as it is, a strongly regularised regression
and a forest over the same features, both of which see the shipped log-odds too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.fit_blend import Blend, BoolArray, Filler, Fit, Forest, LastColumn, Linear
from meld_duckdb.features.trees import TreeEnsemble

_STRENGTH = 0.01
_SHIPPED = 3.0  # standard deviations that one of the shipped log-odds counts for
_TREES = 100
_LEAF = 2
_SHARE = 0.3

MEMBERS: tuple[Fit, ...] = (
    lambda rows, answers: LastColumn(),
    lambda rows, answers: Linear(rows, answers, _STRENGTH, _SHIPPED),
    lambda rows, answers: Forest(rows, answers, _TREES, _LEAF, _SHARE),
)


class FittedMatcher:
    """Fitted to the feature rows of labelled pairs.

    Args:
        rows: The features the shipped model was fitted on, [n, len(shipped.features)].
        matches: Whether each pair matches, bool [n]; see `fit_blend.enough`.
        shipped: The shipped model.
    """

    def __init__(
        self, rows: NDArray[np.float32], matches: BoolArray, shipped: TreeEnsemble
    ) -> None:
        self._shipped = shipped
        self._fill = Filler(rows)
        self._blend = Blend(self._extended(rows), matches, MEMBERS)
        self.threshold = self._blend.threshold

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features in a row."""
        return self._shipped.features

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of a match, [n]; each row's does not depend on the others."""
        return self._blend.predict(self._extended(rows))

    def explain(self, rows: NDArray[np.float32], most: int) -> list[list[tuple[str, float]]]:
        """Name the features that moved each row most; see `TreeEnsemble.explain`.

        What the shipped log-odds added is shared out among the features behind them. The forest
        gives no reasons.
        """
        behind = self._shipped.contributions(rows)
        own = self._blend.terms(self._extended(rows))[:, :-1]
        added = own + behind * self._blend.slope_of_last
        order = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :most]
        return [
            [(self._shipped.features[i], float(line[i])) for i in best if line[i]]
            for line, best in zip(added, order, strict=True)
        ]

    def _extended(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        odds = self._shipped.log_odds(rows)
        return np.column_stack((self._fill(rows), odds))
