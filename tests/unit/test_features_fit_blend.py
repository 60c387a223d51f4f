from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.features.fit_blend import (
    Blend,
    Filler,
    Forest,
    LastColumn,
    Linear,
    best_expected_threshold,
    enough,
)


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose first column decides, and whose last one points the wrong way."""
    rows = np.random.default_rng(seed).normal(size=(n, 4))
    answers = rows[:, 0] + 0.3 * rows[:, 1] > 0.8
    rows[:, 3] = np.where(answers, -1.0, 1.0) + 0.5 * rows[:, 2]
    return rows, answers


def linear(rows: np.ndarray, answers: np.ndarray) -> Linear:
    return Linear(rows, answers, 0.1, 2.0)


def test_the_threshold_of_the_best_expected_f1() -> None:
    # saying yes once gives 2 * 0.9 / (1 + 1.5), twice 2 * 1.5 / (2 + 1.5): the best; thrice less
    assert best_expected_threshold(np.array([0.0, 0.6, 0.9, 0.0])) == pytest.approx(0.3)
    assert best_expected_threshold(np.array([1.0, 0.1, 0.1])) == pytest.approx(0.55)
    assert best_expected_threshold(np.array([0.2])) == pytest.approx(0.2)


def test_too_few_labels_of_either_answer() -> None:
    assert enough([True] * 3 + [False] * 7)
    assert not enough([True] * 3 + [False] * 6)
    assert not enough([True] * 2 + [False] * 50)
    assert not enough([True] * 50)


def test_a_member_that_knows_nothing_loses_its_say_as_labels_grow() -> None:
    def noise(rows: np.ndarray, answers: np.ndarray) -> LastColumn:
        return LastColumn()

    shares = []
    for n in (40, 1_000):
        rows, answers = sample(n)
        rows[:, 3] = np.random.default_rng(1).normal(size=n)
        shares.append(Blend(rows, answers, (linear, noise)).weights[1])
    assert 0.1 < shares[0] < 0.5
    assert shares[1] < 0.001


def test_a_member_that_is_always_wrong_is_turned_round() -> None:
    rows, answers = sample(200)
    model = Blend(rows, answers, (lambda rows, answers: LastColumn(),))
    said = model.predict(rows) >= model.threshold
    assert (said == answers).mean() > 0.9


def test_predictions_are_right_calibrated_and_the_same_row_by_row() -> None:
    rows, answers = sample(300)
    asked, truth = sample(2_000, seed=7)
    model = Blend(rows, answers, (linear, lambda r, a: Forest(r, a, 50, 2, 0.5)))
    found = model.predict(asked)
    assert ((found >= model.threshold) == truth).mean() > 0.95
    assert found.mean() == pytest.approx(truth.mean(), abs=0.03)
    assert [float(model.predict(asked[i : i + 1])[0]) for i in range(20)] == found[:20].tolist()
    again = Blend(rows, answers, (linear, lambda r, a: Forest(r, a, 50, 2, 0.5)))
    assert again.predict(asked).tolist() == found.tolist()


def test_terms_add_up_to_the_log_odds_of_a_regression() -> None:
    rows, answers = sample(100)
    model = linear(rows, answers)
    bias = model.log_odds(rows) - model.terms(rows).sum(axis=1)
    assert np.allclose(bias, bias[0])
    assert model.terms(rows[:5])[:, 0].tolist() == pytest.approx(
        [float(x) for x in model.terms(rows)[:5, 0]]
    )
    assert model.slope_of_last < 0  # it points the wrong way


def test_a_forest_may_leave_the_last_column_out() -> None:
    rows, answers = sample(100)
    model = Forest(rows, answers, 20, 1, 0.5, columns=-1)
    other = rows.copy()
    other[:, -1] = 99.0
    assert model.log_odds(rows).tolist() == model.log_odds(other).tolist()
    assert model.log_odds(rows[:0]).tolist() == []


def test_nan_becomes_the_median_of_the_labelled_rows() -> None:
    nan = float("nan")
    fill = Filler(np.array([[1.0, nan], [3.0, nan], [nan, nan], [4.0, nan]], dtype=np.float32))
    assert fill(np.array([[nan, nan], [2.0, 5.0]])).tolist() == [[3.0, 0.0], [2.0, 5.0]]
