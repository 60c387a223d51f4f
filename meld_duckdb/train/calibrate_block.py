"""Fit the order of blocking candidates on public data sets, and measure it on sets left out.

    python -m meld_duckdb.train.calibrate_block --data DIR [--hold-out NAME ...] [--out FILE]

Of each left record with a match among the training pairs, the candidate that matches is to stand
before the others: a logistic regression on the differences of their features. Test files are never
opened; a candidate that the valid pairs give as a match is left out of the others. The same input
gives the same file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.errors import TrainingError
from meld_duckdb.features.load import VERSION
from meld_duckdb.features.match import PairTables
from meld_duckdb.features.rank import Ranker, TableIndex, rank_features
from meld_duckdb.retrieval.blocking import Candidates, find_candidates
from meld_duckdb.retrieval.ranking import DEPTH
from meld_duckdb.train.calibrate_match import read_columns, read_table
from meld_duckdb.train.calibration import write_json

logger = logging.getLogger(__name__)

DATA_SETS = ("abt_buy", "amazon_google", "dblp_scholar", "walmart_amazon")
"""Sets that may be fitted on."""

HELD_OUT = ("amazon_google", "dblp_acm", "rel_text")
"""Sets that the shipped order never sees, unless ``--hold-out`` names others."""

_STRENGTH = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Candidates of one data set, their features, and which of them match.

    Attributes:
        name: Name of the data set.
        found: Candidates, by left record.
        features: float32 [n, d].
        train: Whether a candidate matches by the training pairs, bool [n].
        valid: The same by the valid pairs.
        mismatch: Whether a candidate is a labelled mismatch of the training pairs: others may be
            test pairs, and have no part in a fit.
        n_gold: Matching pairs of both files, found or not.
    """

    name: str
    found: Candidates
    features: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    mismatch: np.ndarray
    n_gold: int


def load_set(folder: Path) -> DataSet:
    """Find the candidates of a data set and compute their features."""
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    found = find_candidates(left, right, DEPTH, vectors=None, lexical=True, same=False)
    pairs: dict[str, list[int]] = {}
    for file in ("train", "valid"):
        columns = read_columns(folder, file)
        lines = zip(columns["ltable_id"], columns["rtable_id"], columns["label"], strict=True)
        for a, b, label in lines:
            pairs.setdefault(f"{file} {label}", []).append(at_left[a] * len(right) + at_right[b])
    number = found.left * len(right) + found.right
    tables = PairTables(TableIndex(left), TableIndex(right))
    features = rank_features(tables, found.left, found.right, found.score)
    logger.info("%s: %d candidates", folder.name, len(number))
    names = ("train 1", "valid 1", "train 0")
    train, valid, mismatch = (np.isin(number, pairs[name]) for name in names)
    n_gold = len({*pairs["train 1"], *pairs["valid 1"]})
    return DataSet(folder.name, found, features, train, valid, mismatch, n_gold)


def differences(one: DataSet) -> np.ndarray:
    """Features of each training match less those of the labelled mismatches of its left record."""
    rows = []
    for at in np.flatnonzero(one.train):
        first, last = np.searchsorted(one.found.left, [one.found.left[at], one.found.left[at] + 1])
        rest = one.features[first:last][one.mismatch[first:last]]
        rows.append(one.features[at] - rest)
    return np.concatenate(rows).astype(np.float64)


def fit(sets: Sequence[DataSet]) -> Ranker:
    """Fit an order; every data set weighs the same."""
    from sklearn.linear_model import LogisticRegression

    parts = [differences(one) for one in sets]
    rows = np.vstack(parts)
    weight = np.concatenate([np.full(len(p), len(rows) / len(p) / len(parts)) for p in parts])
    spread = rows.std(axis=0)
    spread[spread == 0] = 1.0
    scaled = rows / spread
    # Each difference and its negative: the classes are balanced and there is no intercept.
    model = LogisticRegression(C=_STRENGTH, fit_intercept=False, max_iter=500)
    model.fit(
        np.vstack([scaled, -scaled]),
        np.repeat([1, 0], len(rows)),
        sample_weight=np.tile(weight, 2),
    )
    return Ranker.from_dict(Ranker(model.coef_[0] / spread).to_dict())


def recall_at_1(one: DataSet, score: np.ndarray) -> float:
    """Share of the train and valid matches whose right record comes first."""
    left = one.found.left
    order = np.lexsort((one.found.rank, -score, left))
    first = order[np.r_[True, left[order][1:] != left[order][:-1]]]
    return float((one.train | one.valid)[first].sum() / one.n_gold)


def calibrate(data: Path, hold_out: Sequence[str]) -> dict[str, Any]:
    """Fit on every set that is not held out; gives the content of the file.

    Raises:
        TrainingError: If fewer than two sets are left.
    """
    data = data / "EM" if (data / "EM").is_dir() else data
    names = [name for name in DATA_SETS if name not in hold_out]
    if len(names) < 2:
        raise TrainingError("fewer than two data sets are left to fit on")
    sets = {name: load_set(data / name) for name in DATA_SETS}
    metrics = {}
    for name, one in sets.items():
        model = fit([sets[other] for other in names if other != name])
        metrics[name] = {
            "recall_at_1": round(recall_at_1(one, model.scores(one.features)), 4),
            "recall_at_1_lexical": round(recall_at_1(one, one.found.score), 4),
        }
    extra = "".join(f" --hold-out {name}" for name in hold_out if hold_out != HELD_OUT)
    return {
        "task": "block",
        "version": VERSION,
        "trained_on": names,
        "held_out": sorted(hold_out),
        "fitted_by": "python -m meld_duckdb.train.calibrate_block --data DIR" + extra,
        "metrics": metrics,
        "variants": {},
        "weights": fit([sets[name] for name in names]).to_dict(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="calibrate_block", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--hold-out", action="append", metavar="NAME")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    content = calibrate(options.data, tuple(options.hold_out or HELD_OUT))
    for name, row in content["metrics"].items():
        sys.stdout.write(
            f"{name:16} left out: {row['recall_at_1']:.4f}, "
            f"lexical: {row['recall_at_1_lexical']:.4f}\n"
        )
    if options.out is not None:
        write_json(options.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
