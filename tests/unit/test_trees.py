"""Trees as plain data: equal to sklearn, safe to read, additive explanations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.trees import TreeEnsemble

NAMES = list("abcdef")


def _data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1500, 6)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    y = (np.nan_to_num(x[:, 0]) + np.isnan(x[:, 1]) + 0.3 * rng.normal(size=1500) > 0.3).astype(int)
    return x, y


def _model(**options: Any) -> HistGradientBoostingClassifier:
    x, y = _data()
    return HistGradientBoostingClassifier(max_iter=25, early_stopping=False, **options).fit(x, y)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_leaf_nodes": 4}, {"monotonic_cst": [1, 0, 0, 0, 0, -1]}, {"max_features": 0.5}],
)
def test_equal_to_sklearn(options: dict[str, Any]) -> None:
    model = _model(**options)
    trees = TreeEnsemble.from_sklearn(model, NAMES)
    x, _ = _data(1)
    x[0] = np.nan
    assert np.abs(trees.predict(x) - model.predict_proba(x)[:, 1]).max() < 1e-9
    read = TreeEnsemble.from_dict(json.loads(json.dumps(trees.to_dict(), allow_nan=False)))
    assert np.array_equal(read.predict(x), trees.predict(x))
    assert read.digest == trees.digest


def test_missing_where_training_had_none() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    model = HistGradientBoostingClassifier(max_iter=10).fit(x, x[:, 0] > 0.2)
    x[::2, 0] = np.nan
    trees = TreeEnsemble.from_sklearn(model, NAMES)
    assert np.abs(trees.predict(x) - model.predict_proba(x)[:, 1]).max() < 1e-9


def test_platt_layer_and_digest() -> None:
    trees = TreeEnsemble.from_sklearn(_model(), NAMES)
    x, _ = _data()
    layered = trees.scaled(0.5, -1.0)
    assert np.allclose(layered.log_odds(x), 0.5 * trees.log_odds(x) - 1.0, atol=1e-12)
    assert layered.digest != trees.digest


def test_average_of_log_odds() -> None:
    one = TreeEnsemble.from_sklearn(_model(), NAMES)
    two = TreeEnsemble.from_sklearn(_model(max_leaf_nodes=3), NAMES).scaled(0.7, 0.2)
    x, _ = _data()
    mean = (one.log_odds(x) + two.log_odds(x)) / 2
    assert np.allclose(TreeEnsemble.average([one, two]).log_odds(x), mean, atol=1e-10)


def test_explanation_adds_up() -> None:
    trees = TreeEnsemble.from_sklearn(_model(), NAMES).scaled(0.8, 0.1)
    x, _ = _data()
    for row, parts in zip(x[:20], trees.explain(x[:20], len(NAMES)), strict=True):
        total = trees.bias + sum(value for _, value in parts)
        assert total == pytest.approx(trees.log_odds(row[None])[0], abs=1e-9)
        sizes = [abs(value) for _, value in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert parts[:2] == trees.explain(row[None], 2)[0]
    assert trees.explain(np.array([[3.0, 0, 0, 0, 0, 0]]), 3)[0][0][0] == "a"


def test_explanation_of_one_split() -> None:
    nodes = {
        "feature": [1, -1, -1],
        "threshold": [0.5, 0.0, 0.0],
        "missing_left": [1, 0, 0],
        "left": [1, 0, 0],
        "right": [2, 0, 0],
        "value": [0.1, -0.4, 0.9],
    }
    data = {"kind": "trees", "features": ["x", "y"], "baseline": -1.0, "slope": 1, "offset": 0}
    trees = TreeEnsemble.from_dict({**data, "trees": [nodes]})
    assert trees.log_odds(np.array([[0, 0.5], [0, 0.6], [0, np.nan]])).tolist() == pytest.approx(
        [-1.4, -0.1, -1.4]
    )
    assert trees.explain(np.array([[0.0, 1.0]]), 3) == [[("y", pytest.approx(0.8))]]
    assert trees.bias == pytest.approx(-0.9)


def _broken(change: str) -> object:
    data: Any = TreeEnsemble.from_sklearn(_model(max_leaf_nodes=3), NAMES).to_dict()
    tree = data["trees"][0]
    match change:
        case "not a mapping":
            return [1]
        case "kind":
            data["kind"] = "forest"
        case "features":
            data["features"] = [1]
        case "baseline":
            data["baseline"] = float("nan")
        case "length":
            tree["value"] = tree["value"][:-1]
        case "empty":
            data["trees"][0] = {name: [] for name in tree}
        case "loop":
            tree["left"][0] = 0
        case "outside":
            tree["right"][0] = 99
        case "feature":
            tree["feature"][0] = 6
        case "text":
            tree["threshold"][0] = "x"
        case "column":
            del tree["missing_left"]
        case "value":
            tree["value"][0] = float("inf")
    return data


@pytest.mark.parametrize(
    "change",
    [
        *("not a mapping", "kind", "features", "baseline", "length", "empty", "loop", "outside"),
        *("feature", "text", "column", "value"),
    ],
)
def test_corrupt_is_refused(change: str) -> None:
    with pytest.raises(ArtefactCorrupt):
        TreeEnsemble.from_dict(_broken(change))


def test_other_models_are_refused() -> None:
    x, y = _data()
    with pytest.raises(TypeError, match="RandomForestClassifier"):
        TreeEnsemble.from_sklearn(RandomForestClassifier(n_estimators=2).fit(x, y), NAMES)


def test_wrong_width_is_refused() -> None:
    trees = TreeEnsemble.from_sklearn(_model(), NAMES)
    with pytest.raises(ValueError, match="expected rows"):
        trees.predict(np.zeros((2, 5)))
    assert trees.predict(np.zeros((0, 6))).shape == (0,)
