"""Gradient-boosted trees as plain data: exported from sklearn, predicted with numpy.

A `TreeEnsemble` is read from JSON and needs no sklearn, whose import costs seconds. It gives the
same probabilities as the `HistGradientBoostingClassifier` it came from, missing values included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.records import digest

_COLUMNS = ("feature", "threshold", "missing_left", "left", "right", "value")
_LEAF = -1


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    """Nodes as columns; node 0 is the root, ``feature`` is -1 at a leaf, children come later."""

    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    def path(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the nodes each row passes, root first; a row that is done repeats its leaf."""
        at = np.zeros(len(rows), dtype=np.int64)
        every = np.arange(len(rows))
        steps = [at]
        while True:
            feature = self.feature[at]
            inner = feature != _LEAF
            if not inner.any():
                return steps
            x = rows[every, np.where(inner, feature, 0)]
            goes_left = np.where(np.isnan(x), self.missing_left[at], x <= self.threshold[at])
            at = np.where(inner, np.where(goes_left, self.left[at], self.right[at]), at)
            steps.append(at)


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """A binary classifier: a sum of trees, a logistic link, and a linear (Platt) layer before it.

    Attributes:
        features: Names of the input columns, in order.
        baseline: Log-odds before the first tree.
        trees: The trees.
        slope: Factor on the log-odds; 1 for none.
        offset: Added after ``slope``; 0 for none.
    """

    features: tuple[str, ...]
    baseline: float
    trees: tuple[_Tree, ...]
    slope: float = 1.0
    offset: float = 0.0

    def log_odds(self, rows: np.ndarray) -> np.ndarray:
        """Return the log-odds of the positive class.

        Args:
            rows: float [n, len(features)], NaN where missing.

        Returns:
            float64 [n].
        """
        x = self._checked(rows)
        total = np.full(len(x), self.baseline, dtype=np.float64)
        for tree in self.trees:
            total += tree.value[tree.path(x)[-1]]
        return self.slope * total + self.offset

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the probability of the positive class, float64 [n]; ``rows`` as in `log_odds`."""
        odds = np.clip(self.log_odds(rows), -700, 700)
        return np.asarray(1.0 / (1.0 + np.exp(-odds)))

    def contributions(self, rows: np.ndarray) -> np.ndarray:
        """Say what each feature added to the log-odds of each row (Saabas path contributions).

        Args:
            rows: float [n, len(features)].

        Returns:
            float64 [n, len(features)]; with `bias` a row's sum is its log-odds.
        """
        x = self._checked(rows)
        added = np.zeros((len(x), len(self.features)))
        every = np.arange(len(x))
        for tree in self.trees:
            for nodes, children in pairwise(tree.path(x)):
                # A row that is done repeats its leaf, and adds nothing to whatever feature.
                added[every, tree.feature[nodes]] += tree.value[children] - tree.value[nodes]
        return added * self.slope

    def explain(self, rows: np.ndarray, most: int) -> list[list[tuple[str, float]]]:
        """Name the features that moved each row most.

        Args:
            rows: float [n, len(features)].
            most: How many per row.

        Returns:
            Per row (feature, contribution), largest magnitude first, ties by the order of the
            features; features that moved nothing are left out.
        """
        added = self.contributions(rows)
        order = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :most]
        return [
            [(self.features[i], float(line[i])) for i in best if line[i]]
            for line, best in zip(added, order, strict=True)
        ]

    @property
    def bias(self) -> float:
        """Log-odds of the average training row, from which contributions are counted."""
        roots = math.fsum(float(tree.value[0]) for tree in self.trees)
        return self.slope * (self.baseline + roots) + self.offset

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the content."""
        return digest(json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")))

    def scaled(self, slope: float, offset: float) -> TreeEnsemble:
        """Return the ensemble with another Platt layer."""
        return TreeEnsemble(self.features, self.baseline, self.trees, slope, offset)

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON; floats keep all their digits.

        A threshold of infinity (present against missing) is null.
        """
        return {
            "kind": "trees",
            "features": list(self.features),
            "baseline": self.baseline,
            "slope": self.slope,
            "offset": self.offset,
            "trees": [_tree_dict(tree) for tree in self.trees],
        }

    @staticmethod
    def from_dict(data: object) -> TreeEnsemble:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactCorrupt: If the shape is another one, a node points backwards or outside, or a
                number is not finite.
        """
        if not isinstance(data, Mapping) or data.get("kind") != "trees":
            raise ArtefactCorrupt("the model is not a tree ensemble")
        features, trees = data.get("features"), data.get("trees")
        if not isinstance(features, list) or not all(isinstance(x, str) for x in features):
            raise ArtefactCorrupt("the tree ensemble has no list of feature names")
        if not isinstance(trees, list):
            raise ArtefactCorrupt("the tree ensemble has no list of trees")
        return TreeEnsemble(
            tuple(features),
            _finite(data, "baseline"),
            tuple(_read_tree(tree, len(features)) for tree in trees),
            _finite(data, "slope"),
            _finite(data, "offset"),
        )

    @staticmethod
    def from_sklearn(model: Any, features: Sequence[str]) -> TreeEnsemble:
        """Export a fitted binary `HistGradientBoostingClassifier` without categorical features.

        Raises:
            TypeError: If the model is another one.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        if not isinstance(model, HistGradientBoostingClassifier):
            raise TypeError(f"expected HistGradientBoostingClassifier, got {type(model).__name__}")
        if len(model.classes_) != 2 or model.is_categorical_ is not None:
            raise TypeError("expected two classes and no categorical features")
        trees = tuple(_export_tree(stage[0].nodes) for stage in model._predictors)
        return TreeEnsemble(tuple(features), float(model._baseline_prediction.ravel()[0]), trees)

    @staticmethod
    def average(ensembles: Sequence[TreeEnsemble]) -> TreeEnsemble:
        """Return one ensemble whose log-odds are the mean of several over the same features."""
        first, n = ensembles[0], len(ensembles)
        trees = tuple(
            _Tree(t.feature, t.threshold, t.missing_left, t.left, t.right, t.value * (e.slope / n))
            for e in ensembles
            for t in e.trees
        )
        base = math.fsum(e.slope * e.baseline + e.offset for e in ensembles) / n
        return TreeEnsemble(first.features, base, trees)

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        x = np.asarray(rows, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise ValueError(f"expected rows [n, {len(self.features)}], got {list(x.shape)}")
        return x


def _export_tree(nodes: np.ndarray) -> _Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return _Tree(
        np.where(leaf, _LEAF, nodes["feature_idx"]).astype(np.int64),
        np.where(leaf, 0.0, nodes["num_threshold"]).astype(np.float64),
        np.where(leaf, False, nodes["missing_go_to_left"].astype(bool)),
        np.where(leaf, 0, nodes["left"]).astype(np.int64),
        np.where(leaf, 0, nodes["right"]).astype(np.int64),
        nodes["value"].astype(np.float64),
    )


def _tree_dict(tree: _Tree) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: getattr(tree, name).tolist() for name in _COLUMNS}
    columns["threshold"] = [None if math.isinf(x) else x for x in columns["threshold"]]
    columns["missing_left"] = [int(x) for x in columns["missing_left"]]
    return columns


def _finite(data: Mapping[str, object], name: str) -> float:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArtefactCorrupt(f"the tree ensemble has no finite number {name!r}")
    return float(value)


def _read_tree(data: object, n_features: int) -> _Tree:
    if not isinstance(data, Mapping) or not all(isinstance(data.get(n), list) for n in _COLUMNS):
        raise ArtefactCorrupt(f"a tree does not have the lists {', '.join(_COLUMNS)}")
    try:
        tree = _Tree(
            np.asarray(data["feature"], dtype=np.int64),
            np.asarray([math.inf if x is None else x for x in data["threshold"]], np.float64),
            np.asarray(data["missing_left"], dtype=bool),
            np.asarray(data["left"], dtype=np.int64),
            np.asarray(data["right"], dtype=np.int64),
            np.asarray(data["value"], dtype=np.float64),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ArtefactCorrupt("a tree holds something that is not a number") from error
    columns = [getattr(tree, name) for name in _COLUMNS]
    n = len(tree.feature)
    if n == 0 or any(column.shape != (n,) for column in columns):
        raise ArtefactCorrupt("the lists of a tree differ in length")
    inner = np.flatnonzero(tree.feature != _LEAF)
    children = np.concatenate((tree.left[inner], tree.right[inner]))
    forward = (children > np.concatenate((inner, inner))) & (children < n)
    if not forward.all() or (tree.feature < _LEAF).any() or (tree.feature >= n_features).any():
        raise ArtefactCorrupt("a node of a tree points outside the tree or its features")
    if np.isnan(tree.threshold).any() or not np.isfinite(tree.value).all():
        raise ArtefactCorrupt("a tree holds a number that is not finite")
    return tree
