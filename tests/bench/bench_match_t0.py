"""Zero-label test F1 of tier T0 for matching, straight over the features.

    python tests/bench/bench_match_t0.py --data DIR [--calibration FILE] [--set NAME ...]

DIR is the benchmark data. Prints one JSON line a data set and variant.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from pyarrow import parquet

from meld_duckdb.features.load import Calibration, load_calibration, read_calibration
from meld_duckdb.features.match import PairTables, TableIndex, pair_features, select_features
from meld_duckdb.train.calibrate_match import auc, f1, read_table


def interval(labels: np.ndarray, positive: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of F1 over pairs."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(labels), size=(draws, len(labels)))
    drawn = [f1(labels[row], positive[row]) for row in rows]
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def measure(folder: Path, calibration: Calibration) -> list[dict[str, object]]:
    """Evaluate both variants on the test pairs of one data set."""
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    test = parquet.read_table(folder / "test.parquet").to_pydict()
    at = [
        (at_left[a], at_right[b]) for a, b in zip(test["ltable_id"], test["rtable_id"], strict=True)
    ]
    labels = np.asarray(test["label"])
    pairs = [(left[a], right[b]) for a, b in at]
    found = []
    for variant, fitted in calibration.variants.items():
        model = fitted.model
        start = time.perf_counter()
        if variant == "pair":
            rows = select_features(model.features, pair_features(pairs, None, calibration.words))
        else:
            tables = PairTables(TableIndex(left), TableIndex(right))
            context = tables.context_features(at)
            rows = select_features(
                model.features, pair_features(pairs, None, tables.weights), context
            )
        probability = model.predict(rows)
        seconds = time.perf_counter() - start
        found.append(
            {"set": folder.name, "variant": variant, "seen": folder.name in calibration.trained_on}
            | scores(labels, probability)
            | {"ms_per_pair": round(seconds / len(at) * 1000, 3)}
        )
    return found


def scores(labels: np.ndarray, probability: np.ndarray) -> dict[str, object]:
    """F1, precision and recall at 0.5, and what surrounds them."""
    positive = probability >= 0.5
    hits = int((positive & (labels == 1)).sum())
    low, high = interval(labels, positive)
    return {
        "f1": round(f1(labels, positive), 4),
        "ci_low": round(low, 4),
        "ci_high": round(high, 4),
        "precision": round(hits / max(1, int(positive.sum())), 4),
        "recall": round(hits / int(labels.sum()), 4),
        "auc": round(auc(labels, probability), 4),
        "n": len(labels),
        "positives": int(labels.sum()),
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--set", action="append", metavar="NAME")
    options = parser.parse_args()
    calibration = (
        read_calibration("match", options.calibration.read_text("utf-8"))
        if options.calibration
        else load_calibration("match")
    )
    for name in options.set or calibration.held_out:
        for line in measure(options.data / "EM" / name, calibration):
            print(json.dumps(line), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
