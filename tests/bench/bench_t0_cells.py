"""Measure tier T0 of error detection, imputation and schema matching on the test data.

    python tests/bench/bench_t0_cells.py --data DIR [--json FILE] [--task ed|di|sm]

Nothing is tuned here. Error detection and gdc use the shipped calibration. Imputation and the other
schema sets use trees fitted without the data set that is measured.
"""

from __future__ import annotations

import argparse
import html
import json
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb.features.columns import TableProfile
from meld_duckdb.features.detect_error import Language, context_features, record_features
from meld_duckdb.features.impute import FEATURES as IMPUTE_FEATURES
from meld_duckdb.features.impute import ImputeIndex, impute_features, rank
from meld_duckdb.features.schema_match import FEATURES as SCHEMA_FEATURES
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record, make_record
from meld_duckdb.train import calibrate_impute as di
from meld_duckdb.train import calibrate_schema_match as sm
from meld_duckdb.train.calibration import binary_metrics, fit_trees, probabilities, read_rows

SKIPPED = {"hospital": 0, "beers": 2, "rayyan": 1}
RESAMPLES = 300


def shipped(task: str) -> dict[str, Any]:
    path = resources.files("meld_duckdb.calibration") / f"{task}.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean."""
    rng = np.random.default_rng(42)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def f1_interval(labels: np.ndarray, said: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(42)
    found = []
    for _ in range(RESAMPLES):
        at = rng.integers(0, len(labels), len(labels))
        y, s = labels[at] == 1, said[at]
        found.append(2 * (y & s).sum() / max(1, y.sum() + s.sum()))
    low, high = np.percentile(found, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def normal(text: str) -> str:
    return " ".join(html.unescape(text).split())


def error_detection(data: Path) -> list[dict[str, Any]]:
    calibration = shipped("detect_error")
    language = Language.from_text(calibration["language"])
    lines = []
    for dataset, skipped in SKIPPED.items():
        dirty, clean = (
            pq.read_table(data / "ED_DC" / dataset / f"{part}.parquet").to_pylist()
            for part in ("dirty", "clean")
        )
        columns = list(dirty[0])[skipped:]
        records = [make_record({k: r[k] for k in columns}) for r in dirty]
        cells = [(i, c) for c in columns for i in range(len(records))]
        labels = np.array([int(normal(dirty[i][c]) != normal(clean[i][c])) for i, c in cells])
        owners, names = [records[i] for i, _ in cells], [c for _, c in cells]
        for variant, shape in calibration["variants"].items():
            start = time.perf_counter()
            if variant == "record":
                features = record_features(owners, names, language)
            else:
                features = context_features(TableProfile(records), owners, names, language)
            scores = TreeEnsemble.from_dict(shape["model"]).predict(features)
            seconds = time.perf_counter() - start
            line = {"task": "detect_error", "dataset": dataset, "variant": variant}
            line |= binary_metrics(labels, scores)
            line["f1_shipped_cut"] = binary_metrics(labels, scores, shape["threshold"])["f1"]
            line["ci_low"], line["ci_high"] = f1_interval(labels, scores >= 0.5)
            line["recall_by_column"] = {
                c: round(float((scores[hit] >= 0.5).mean()), 2)
                for c in columns
                for hit in [np.array([n == c for n in names]) & (labels == 1)]
                if hit.any()
            }
            lines.append(line | {"us_per_cell": 1e6 * seconds / len(labels)})
    return lines


def masked_records(rows: list[dict[str, str]]) -> list[Record]:
    """Test rows with every masked cell blank."""
    blank = [
        {k: "" if str(r.get(f"{k}_masked")) == "True" else v for k, v in r.items()} for r in rows
    ]
    return di.as_records(blank)


def imputation(data: Path) -> list[dict[str, Any]]:
    asked = [
        di.ask_by_folds(dataset, column, di.as_records(rows), "context")
        for dataset, columns in di.TARGETS.items()
        for rows in [read_rows(data / "DI" / dataset / "train.parquet")]
        for column in columns
    ] + di.dependent_tables(data)
    minimum = shipped("impute")["variants"]["context"]["minimum"]
    lines = []
    for dataset, columns in di.TARGETS.items():
        model = fit_trees([a.sample() for a in asked if a.dataset != dataset], di.SETTINGS)
        trees = TreeEnsemble.from_sklearn(model, IMPUTE_FEATURES["context"])
        train = di.as_records(read_rows(data / "DI" / dataset / "train.parquet"))
        test = pq.read_table(data / "DI" / dataset / "test.parquet").to_pylist()
        results = []
        for column in columns:
            found = impute_column(trees, train, test, column)
            results.append(found)
            lines += impute_lines(dataset, column, found, minimum)
        if len(results) > 1:
            both = {k: np.concatenate([r[k] for r in results]) for k in results[0]}
            lines += impute_lines(dataset, "all", both, minimum)
    return lines


def impute_column(
    trees: TreeEnsemble, train: list[Record], test: list[dict[str, str]], column: str
) -> dict[str, np.ndarray]:
    start = time.perf_counter()
    index = ImputeIndex(train, column)
    built = time.perf_counter() - start
    records = masked_records(test)
    start = time.perf_counter()
    found = impute_features(index, records, column)
    scores = trees.predict(np.concatenate([c.features for c in found]))
    ends = np.cumsum([len(c.values) for c in found])[:-1]
    ranked = [rank(c, s.tolist()) for c, s in zip(found, np.split(scores, ends), strict=True)]
    per_row = (time.perf_counter() - start) / len(test)
    print(f"  {column}: index {built:.1f} s, {1e3 * per_row:.2f} ms a row")
    truth = [r[column].strip() for r in test]
    alias = [r.get(f"{column}_alias", "").strip() for r in test]
    common = Counter(index.value_of.tolist()).most_common(1)[0][0]
    views = [c.neighbours for c in found]
    nearest = [
        max((n[1], v) for n, v in zip(ns, c.values, strict=True) if n) if any(ns) else (0, None)
        for ns, c in zip(views, found, strict=True)
    ]
    return {
        "right": np.array(
            [bool(r) and r[0].value == t for r, t in zip(ranked, truth, strict=True)]
        ),
        "lenient": np.array(
            [bool(r) and r[0].value in (t, a) for r, t, a in zip(ranked, truth, alias, strict=True)]
        ),
        "probability": np.array([r[0].probability if r else 0.0 for r in ranked]),
        "recall": np.array([t in c.values for c, t in zip(found, truth, strict=True)]),
        "common": np.array([index.values[common] == t for t in truth]),
        "nearest": np.array([n[1] == t for n, t in zip(nearest, truth, strict=True)]),
        "masked": np.array([str(r[f"{column}_masked"]) == "True" for r in test]),
    }


def impute_lines(
    dataset: str, column: str, found: dict[str, np.ndarray], minimum: float
) -> list[dict[str, Any]]:
    lines = []
    for rows, kept in (("masked", found["masked"]), ("all", np.ones(len(found["masked"]), bool))):
        right, sure = found["right"][kept], found["probability"][kept] >= minimum
        low, high = interval(right.astype(float))
        line = {
            "task": "impute",
            "dataset": dataset,
            "column": column,
            "rows": rows,
            "n": len(right),
            "accuracy": right.mean(),
            "ci_low": low,
            "ci_high": high,
            "candidate_recall": found["recall"][kept].mean(),
            "accuracy_with_alias": found["lenient"][kept].mean(),
            "most_frequent": found["common"][kept].mean(),
            "nearest_row": found["nearest"][kept].mean(),
            "coverage": sure.mean(),
            "accuracy_when_answered": right[sure].mean() if sure.any() else float("nan"),
        }
        lines.append(line)
    return lines


def schema_matching(data: Path) -> list[dict[str, Any]]:
    calibration = shipped("schema_match")
    samples = sm.read_samples(data)
    lines = []
    for dataset in (*sm.DATASETS, *sm.HELD_OUT):
        rows = pq.read_table(data / "SM" / dataset / "pairs.parquet").to_pylist()
        pairs = sm.pairs_of(rows)
        labels = np.array([int(r["label"]) for r in rows])
        test = np.array([r["split"] == "test" for r in rows])
        vectors = sm.embed([r for pair in pairs for r in pair])
        for variant in SCHEMA_FEATURES:
            start = time.perf_counter()
            features = sm.features_of(pairs, variant, vectors)
            seconds = time.perf_counter() - start
            shape = calibration["variants"][variant]
            if dataset in sm.DATASETS:
                others = [s for s in samples[variant] if s.dataset != dataset]
                scores = probabilities(fit_trees(others, sm.SETTINGS), features)
            else:
                scores = TreeEnsemble.from_dict(shape["model"]).predict(features)
            line = {"task": "schema_match", "dataset": dataset, "variant": variant}
            line |= binary_metrics(labels[test], scores[test])
            line["f1_shipped_cut"] = binary_metrics(labels[test], scores[test], shape["threshold"])[
                "f1"
            ]
            line["ci_low"], line["ci_high"] = f1_interval(labels[test], scores[test] >= 0.5)
            line["mrr_all_gold"], line["recall5_all_gold"], line["gold"] = ranking(
                pairs, labels, scores
            )
            lines.append(line | {"us_per_pair": 1e6 * seconds / len(pairs)})
    return lines


def ranking(
    pairs: list[tuple[Record, Record]], labels: np.ndarray, scores: np.ndarray
) -> tuple[float, float, int]:
    """Mean reciprocal rank and recall at 5 of every gold target among its source's non-matches."""
    groups: dict[str, list[int]] = {}
    for i, (a, _) in enumerate(pairs):
        groups.setdefault(a.digest, []).append(i)
    ranks = []
    for at in groups.values():
        s, y = scores[at], labels[at]
        # a tie counts against us
        ranks += [1 + int(((s >= s[i]) & (y == 0)).sum()) for i in np.flatnonzero(y)]
    found = np.array(ranks)
    return float((1 / found).mean()), float((found <= 5).mean()), len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", choices=("ed", "di", "sm"), action="append")
    options = parser.parse_args()
    tasks = {"ed": error_detection, "di": imputation, "sm": schema_matching}
    lines = [x for t in options.task or tasks for x in tasks[t](options.data)]
    for line in lines:
        shown = {
            k: round(float(v), 3) if isinstance(v, (float, np.floating)) else v
            for k, v in line.items()
        }
        print("  ".join(f"{k}={v}" for k, v in shown.items()))
    if options.json:
        options.json.write_text(json.dumps(lines, default=float, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
