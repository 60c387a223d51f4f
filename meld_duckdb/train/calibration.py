"""What the calibration commands of the zero-label tier have in common.

Reads published tables (never a test split), fits small boosted trees with the same total weight
for every data set, measures by leaving one data set out, and writes the JSON that ships.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from meld_duckdb.errors import ArtefactMissing, TrainingError
from meld_duckdb.features.trees import TreeEnsemble

VERSION = 1
SEED = 42

Row = dict[str, str]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """Feature rows of one data set.

    Attributes:
        dataset: Name of the data set; it is left out as a whole.
        features: float32 [n, d].
        labels: int64 [n], 0 or 1.
        groups: Number of the question a row belongs to, int64 [n]; the row number where every
            row is its own question.
    """

    dataset: str
    features: Matrix
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class TreeSettings:
    """Settings of the boosted trees; ``rising``: no feature's rise may lower the probability."""

    n_trees: int = 80
    learning_rate: float = 0.1
    max_leaves: int = 10
    min_leaf: int = 40
    l2: float = 5.0
    rising: bool = False


def read_rows(path: Path, **wanted: str) -> list[Row]:
    """Read a parquet table as rows of text.

    Args:
        path: The file.
        wanted: Column values to keep, applied while reading: ``split="train"`` never sees others.

    Raises:
        ArtefactMissing: If there is no such file.
        TrainingError: If the file is a test split.
    """
    if path.stem == "test" or wanted.get("split") == "test":
        raise TrainingError(f"calibration never opens a test split, asked for {path.name}")
    if not path.is_file():
        raise ArtefactMissing(f"no such table: {path}", hint="see --data")
    filters = [(name, "==", value) for name, value in wanted.items()] or None
    rows: list[Row] = pq.read_table(path, filters=filters).to_pylist()
    return rows


def equal_weights(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Weights of the rows of all samples so that every data set weighs the same; mean 1."""
    totals: dict[str, int] = {}
    for sample in samples:
        totals[sample.dataset] = totals.get(sample.dataset, 0) + len(sample.labels)
    weights = np.concatenate([np.full(len(s.labels), 1.0 / totals[s.dataset]) for s in samples])
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def fit_trees(samples: Sequence[Sample], settings: TreeSettings) -> Any:
    """Fit boosted trees; returns the scikit-learn classifier.

    Raises:
        TrainingError: If only one class occurs.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    labels = np.concatenate([s.labels for s in samples])
    if len(np.unique(labels)) < 2:
        raise TrainingError("the calibration rows have one class only")
    model = HistGradientBoostingClassifier(
        max_iter=settings.n_trees,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.max_leaves,
        min_samples_leaf=settings.min_leaf,
        l2_regularization=settings.l2,
        early_stopping=False,
        monotonic_cst=[int(settings.rising)] * samples[0].features.shape[1],
        random_state=SEED,
    )
    features = np.concatenate([s.features for s in samples])
    # scikit-learn 1.9 cannot bin a column of NaN only; a constant one is never split on
    features[:, np.isnan(features).all(axis=0)] = 0.0
    return model.fit(features, labels, sample_weight=equal_weights(samples))


def probabilities(model: Any, features: Matrix) -> NDArray[np.float64]:
    """Probability of label 1 under a scikit-learn classifier."""
    result: NDArray[np.float64] = model.predict_proba(features)[:, 1]
    return result


def leave_one_out(
    samples: Sequence[Sample], settings: TreeSettings
) -> dict[str, list[NDArray[np.float64]]]:
    """Score each data set's samples with trees fitted on the other data sets.

    Returns:
        Data set to the probabilities of its samples, in order.
    """
    result: dict[str, list[NDArray[np.float64]]] = {}
    for dataset in dict.fromkeys(s.dataset for s in samples):
        model = fit_trees([s for s in samples if s.dataset != dataset], settings)
        result[dataset] = [
            probabilities(model, s.features) for s in samples if s.dataset == dataset
        ]
    return result


def binary_metrics(
    labels: NDArray[np.int64], scores: NDArray[np.float64], cut: float = 0.5
) -> dict[str, float]:
    """F1, precision and recall at a cut, average precision, area under the curve, best F1."""
    from sklearn.metrics import (
        average_precision_score,
        precision_recall_curve,
        roc_auc_score,
    )

    said = scores >= cut
    hits = float((said & (labels == 1)).sum())
    precision = hits / max(1.0, float(said.sum()))
    recall = hits / max(1.0, float(labels.sum()))
    curve_p, curve_r, _ = precision_recall_curve(labels, scores)
    best = float(np.max(2 * curve_p * curve_r / np.maximum(curve_p + curve_r, 1e-12)))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {
        "n": float(len(labels)),
        "positives": float(labels.sum()),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "average_precision": float(average_precision_score(labels, scores)),
        "auc": float(roc_auc_score(labels, scores)),
        "best_f1": best,
    }


def best_cut(labels: Sequence[NDArray[np.int64]], scores: Sequence[NDArray[np.float64]]) -> float:
    """The cut with the best mean F1 over data sets, of 0.02 to 0.98; ties go to 0.5's side."""
    cuts = sorted((round(0.02 * k, 2) for k in range(1, 50)), key=lambda c: (abs(c - 0.5), c))
    means = [
        float(np.mean([_f1(y, s >= cut) for y, s in zip(labels, scores, strict=True)]))
        for cut in cuts
    ]
    return cuts[int(np.argmax(means))]


def _f1(labels: NDArray[np.int64], said: NDArray[np.bool_]) -> float:
    return 2 * float((said & (labels == 1)).sum()) / max(1.0, float(said.sum() + labels.sum()))


def ensemble(model: Any, names: Sequence[str]) -> dict[str, Any]:
    """A scikit-learn classifier in the form that ships, numbers cut to six digits."""
    result: dict[str, Any] = TreeEnsemble.from_sklearn(model, tuple(names)).to_dict()
    for tree in result["trees"]:
        for part in ("threshold", "value"):
            tree[part] = [None if x is None else float(f"{x:.6g}") for x in tree[part]]
    return result


def calibrate(
    task: str,
    samples: Mapping[str, Sequence[Sample]],
    names: Mapping[str, Sequence[str]],
    settings: TreeSettings,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit every variant of a binary task.

    Args:
        task: Its name, for messages.
        samples: Rows of each variant.
        names: Feature names of each variant.
        settings: Of the trees.

    Returns:
        ``(variants, metrics)``; metrics are those of leaving one data set out.
    """
    variants: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for variant, found in samples.items():
        scores = leave_one_out(found, settings)
        joined = {d: np.concatenate(s) for d, s in scores.items()}
        labels = {d: np.concatenate([s.labels for s in found if s.dataset == d]) for d in joined}
        cut = best_cut(list(labels.values()), list(joined.values()))
        metrics[variant] = {d: rounded(binary_metrics(labels[d], joined[d])) for d in joined}
        model = ensemble(fit_trees(found, settings), names[variant])
        variants[variant] = {"features": list(names[variant]), "model": model, "threshold": cut}
    return variants, metrics


def rounded(metrics: Mapping[str, float], digits: int = 4) -> dict[str, float]:
    """Round metrics for a file that is compared between runs."""
    return {name: round(value, digits) for name, value in metrics.items()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys through a temporary file, so that it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def arguments(task: str, description: str) -> argparse.Namespace:
    """Read ``--data DIR [--out FILE]`` of a calibration command."""
    parser = argparse.ArgumentParser(
        prog=f"python -m meld_duckdb.train.calibrate_{task}", description=description
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the benchmark data")
    default = Path(__file__).parent.parent / "calibration" / f"{task}.json"
    parser.add_argument("--out", type=Path, default=default, help="file to write")
    return parser.parse_args()
