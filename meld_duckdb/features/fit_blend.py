"""A yes-or-no model fitted to labels: several plain models, blended by how well they predict.

Each member is cross-validated on the labels, its log-odds are calibrated (Platt) and averaged. A
member weighs less the worse it predicts labels it has not seen; with few labels the difference is
noise and all weigh about the same, with thousands the best one decides. The threshold is the one
with the best expected F1 if the blended probabilities are right: the labels themselves, ten
positive ones among a hundred, say less about it than the probabilities do.

scikit-learn is imported when something is fitted: it costs seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_LABELS = 10
LEAST_OF_EACH = 3
"""Labels of either answer without which nothing is fitted."""

DECIMALS = 6
"""Decimals of the log-odds that count."""

_TEMPER = 10.0
_FOLDS = 5
_FOLDS_OF_MANY = 3
_MANY = 2_000
_CLIP = 3.0
_SURE = 1e-4


class Model(Protocol):
    """Something fitted to feature rows."""

    def log_odds(self, rows: FloatArray) -> FloatArray:
        """Log-odds of yes, [n]; a row's do not depend on the other rows."""
        ...

    def terms(self, rows: FloatArray) -> FloatArray:
        """What each column added to the log-odds, [n, d]; zeros where it is not a sum."""
        ...

    @property
    def slope_of_last(self) -> float:
        """What one unit of the last column adds to the log-odds; 0 where it is not a sum."""
        ...


Fit = Callable[[FloatArray, BoolArray], Model]


def enough(answers: Sequence[bool] | BoolArray) -> bool:
    """Tell whether labels suffice to fit anything."""
    yes = int(np.count_nonzero(answers))
    return len(answers) >= LEAST_LABELS and min(yes, len(answers) - yes) >= LEAST_OF_EACH


@dataclass(frozen=True, slots=True)
class _Member:
    model: Model
    slope: float
    offset: float
    weight: float


class Blend:
    """Members fitted to labelled rows, and the threshold that goes with their probability.

    Args:
        rows: float [n, d] without NaN.
        answers: What holds, bool [n]; see `enough`.
        fits: How to fit each member.
    """

    def __init__(self, rows: FloatArray, answers: BoolArray, fits: Sequence[Fit]) -> None:
        held_out = [_cross_validate(rows, answers, fit) for fit in fits]
        scales = [_platt(odds, answers) for odds in held_out]
        calibrated = [
            slope * odds + offset for odds, (slope, offset) in zip(held_out, scales, strict=True)
        ]
        losses = np.array([_loss(odds, answers) for odds in calibrated])
        weights = np.exp(-len(answers) * (losses - losses.min()) / _TEMPER)
        weights /= weights.sum()
        blended = np.tensordot(weights, np.stack(calibrated), axes=1)
        slope, offset = _platt(blended, answers)
        self._members = [
            _Member(fit(rows, answers), s * slope, o * slope, float(w))
            for fit, (s, o), w in zip(fits, scales, weights, strict=True)
        ]
        self._offset = offset
        self.weights = tuple(float(w) for w in weights)
        self.threshold = best_expected_threshold(_sigmoid(slope * blended + offset))

    def predict(self, rows: FloatArray) -> FloatArray:
        """Probability of yes, [n]."""
        total = np.full(len(rows), self._offset)
        for m in self._members:
            total += m.weight * (m.slope * m.model.log_odds(rows) + m.offset)
        return _sigmoid(total.round(DECIMALS))

    def terms(self, rows: FloatArray) -> FloatArray:
        """What each column added to the log-odds through the members that are sums, [n, d]."""
        found = np.zeros(rows.shape)
        for m in self._members:
            found += m.weight * m.slope * m.model.terms(rows)
        return found

    @property
    def slope_of_last(self) -> float:
        """What one unit of the last column adds through the members that are sums."""
        return sum(m.weight * m.slope * m.model.slope_of_last for m in self._members)


class Linear:
    """Logistic regression on standardised columns; ``boosted`` multiplies the last one.

    Columns shrink towards 0 alike; a boosted one shrinks less, being worth more from the start.
    """

    def __init__(
        self, rows: FloatArray, answers: BoolArray, strength: float, boosted: float = 1.0
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        self._mean = rows.mean(axis=0)
        spread = rows.std(axis=0)
        self._scale = np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0)
        self._factor = np.ones(rows.shape[1])
        self._factor[-1] = boosted
        model = LogisticRegression(C=strength, max_iter=1_000)
        model.fit(self._standardised(rows), answers)
        self._weights = np.asarray(model.coef_[0], dtype=np.float64)
        self._bias = float(model.intercept_[0])

    def _standardised(self, rows: FloatArray) -> FloatArray:
        scaled = np.clip((rows - self._mean) * self._scale, -_CLIP, _CLIP)
        return np.asarray(scaled * self._factor, dtype=np.float64)

    def log_odds(self, rows: FloatArray) -> FloatArray:
        """See `Model.log_odds`; summed row by row, a product of matrices is not."""
        return np.asarray(self.terms(rows).sum(axis=1) + self._bias, dtype=np.float64)

    def terms(self, rows: FloatArray) -> FloatArray:
        """See `Model.terms`."""
        return np.ascontiguousarray(self._standardised(rows) * self._weights)

    @property
    def slope_of_last(self) -> float:
        """See `Model.slope_of_last`; within the range that is not clipped."""
        return float(self._weights[-1] * self._factor[-1] * self._scale[-1])


class Forest:
    """Extremely randomised trees: few labels and many correlated columns suit them.

    Args:
        rows: float [n, d].
        answers: bool [n].
        trees: Number of trees.
        leaf: Fewest labels in a leaf.
        share: Share of the columns tried at a split.
        columns: How many columns are used, the first ones; None for all.
    """

    def __init__(
        self,
        rows: FloatArray,
        answers: BoolArray,
        trees: int,
        leaf: int,
        share: float,
        columns: int | None = None,
    ) -> None:
        from sklearn.ensemble import ExtraTreesClassifier

        self._columns = columns
        self._model: Any = ExtraTreesClassifier(
            trees, min_samples_leaf=leaf, max_features=share, random_state=0
        ).fit(rows[:, :columns], answers)

    def log_odds(self, rows: FloatArray) -> FloatArray:
        """See `Model.log_odds`; a share of 0 or 1 counts as half a vote in a hundred."""
        if not len(rows):
            return np.zeros(0)
        p = (100 * self._model.predict_proba(rows[:, : self._columns])[:, 1] + 0.5) / 101
        return np.asarray(np.log(p / (1 - p)), dtype=np.float64)

    def terms(self, rows: FloatArray) -> FloatArray:
        """A forest is not a sum of columns."""
        return np.zeros(rows.shape)

    @property
    def slope_of_last(self) -> float:
        """A forest is not a sum of columns."""
        return 0.0


class LastColumn:
    """The last column as it is: the log-odds of a model fitted elsewhere."""

    def log_odds(self, rows: FloatArray) -> FloatArray:
        """See `Model.log_odds`."""
        return rows[:, -1]

    def terms(self, rows: FloatArray) -> FloatArray:
        """See `Model.terms`."""
        found = np.zeros(rows.shape)
        found[:, -1] = rows[:, -1]
        return found

    @property
    def slope_of_last(self) -> float:
        """See `Model.slope_of_last`."""
        return 1.0


class Filler:
    """Replaces NaN by the median of a column among the labelled rows; 0 where there is none."""

    def __init__(self, rows: NDArray[Any]) -> None:
        known = ~np.isnan(rows).all(axis=0)
        self._median = np.zeros(rows.shape[1])
        self._median[known] = np.nanmedian(rows[:, known].astype(np.float64), axis=0)

    def __call__(self, rows: NDArray[Any]) -> FloatArray:
        """Fill rows [n, d]."""
        return np.where(np.isnan(rows), self._median, rows).astype(np.float64)


def best_expected_threshold(probabilities: FloatArray) -> float:
    """The threshold of the largest expected F1, halfway to the next probability below."""
    found = -np.sort(-probabilities)
    f1 = 2 * np.cumsum(found) / (np.arange(1, len(found) + 1) + found.sum())
    best = int(np.argmax(f1))
    below = found[min(best + 1, len(found) - 1)]
    return float((found[best] + below) / 2)


def _cross_validate(rows: FloatArray, answers: BoolArray, fit: Fit) -> FloatArray:
    """Log-odds of each label by a model that has not seen it, [n]."""
    from sklearn.model_selection import StratifiedKFold

    fewest = int(min(answers.sum(), (~answers).sum()))
    folds = min(_FOLDS if len(answers) <= _MANY else _FOLDS_OF_MANY, fewest)
    found = np.zeros(len(answers))
    for known, asked in StratifiedKFold(folds, shuffle=True, random_state=0).split(rows, answers):
        found[asked] = fit(rows[known], answers[known]).log_odds(rows[asked])
    return found


def _platt(odds: FloatArray, answers: BoolArray) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0).fit(odds.reshape(-1, 1), answers)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _loss(odds: FloatArray, answers: BoolArray) -> float:
    p = np.clip(_sigmoid(odds), _SURE, 1 - _SURE)
    return float(-np.where(answers, np.log(p), np.log(1 - p)).mean())


def _sigmoid(odds: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0))), dtype=np.float64)
