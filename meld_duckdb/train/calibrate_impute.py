"""Calibrate imputation on the training splits, by masking values that are known.

python -m meld_duckdb.train.calibrate_impute --data DIR [--out FILE]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.impute import FEATURES, Candidates, ImputeIndex, impute_features, rank
from meld_duckdb.records import Record, make_record
from meld_duckdb.train.calibration import (
    SEED,
    VERSION,
    Row,
    Sample,
    TreeSettings,
    arguments,
    ensemble,
    fit_trees,
    probabilities,
    read_rows,
    rounded,
    write_json,
)

TARGETS: dict[str, tuple[str, ...]] = {
    "restaurant": ("city",),
    "walmart": ("brand", "category"),
    "amazon": ("brand", "category"),
}
DROPPED = frozenset({"id", "row_id", "city_alias"})
FOLDS = 5
MAX_ASKED = 1500
"""Cells asked per column of a data set."""
PRECISION = 0.9
"""What an answer must be worth on training data, else T0 abstains."""
DEPENDENT: dict[str, tuple[str, str]] = {
    "dblp_scholar": ("tableA", "tableB"),
    "abt_buy": ("tableA", "tableB"),
    "walmart_amazon": ("tableA", "tableB"),
}
"""Tables joined into ones with a dependent column: left, and where the new columns come from."""

WRONG = 0.03
SETTINGS = TreeSettings(n_trees=120, learning_rate=0.08, max_leaves=10, min_leaf=30, l2=5.0)


@dataclass(frozen=True)
class Asked:
    """Cells of one column with their candidates and true values."""

    dataset: str
    column: str
    candidates: list[Candidates]
    truths: list[str]

    def sample(self) -> Sample:
        """The candidates as one matrix, label 1 where the value is the true one."""
        labels = [
            int(v == truth)
            for c, truth in zip(self.candidates, self.truths, strict=True)
            for v in c.values
        ]
        groups = np.repeat(np.arange(len(self.truths)), [len(c.values) for c in self.candidates])
        features = np.concatenate([c.features for c in self.candidates])
        return Sample(self.dataset, features, np.array(labels, dtype=np.int64), groups)


def as_records(rows: Sequence[Row]) -> list[Record]:
    """Rows as records, identifiers, masks and second answers left out."""
    return [
        make_record({k: v for k, v in r.items() if k not in DROPPED and not k.endswith("_masked")})
        for r in rows
    ]


def ask_by_folds(dataset: str, column: str, records: list[Record], variant: str) -> Asked:
    """Mask one fold after the other; the rest of the table is the index."""
    rng = random.Random(f"{dataset} {column} {SEED}")
    known = [r for r in records if r.fields.get(column)]
    rng.shuffle(known)
    candidates, truths = [], []
    for fold in range(FOLDS):
        asked = known[fold::FOLDS][: MAX_ASKED // FOLDS]
        index = ImputeIndex([r for i, r in enumerate(known) if i % FOLDS != fold], column)
        found = impute_features(index, asked, column)
        right = [(r.fields[column] or "").strip() for r in asked]
        if variant == "record":
            options = [_five(c, t, rng) for c, t in zip(found, right, strict=True)]
            found = impute_features(None, asked, column, options)
        candidates += found
        truths += right
    return Asked(dataset, column, candidates, truths)


def dependent_tables(data: Path) -> list[Asked]:
    """Tables in which one column determines another: the three sets above hold no such pair.

    Rows of a public table get two columns of a few rows of its partner table, drawn again and
    again; the last column is asked for. Three in a hundred of its values are wrong.
    """
    result = []
    for name, parts in DEPENDENT.items():
        rng = random.Random(f"{name} {SEED}")
        left, right = (read_rows(data / "EM" / name / f"{part}.parquet") for part in parts)
        columns = [c for c in right[0] if c != "id"]
        for turn in range(2):
            source, target = rng.sample(columns, 2)
            partners = [r for r in right if r[source] and r[target]]
            drawn = rng.sample(partners, min(len(partners), rng.randint(20, 60)))
            values = [r[target] for r in drawn]
            rows = []
            for row in rng.sample(left, min(len(left), 600)):
                partner = rng.choice(drawn)
                value = rng.choice(values) if rng.random() < WRONG else partner[target]
                rows.append({**row, "key_2": partner[source], f"value_{turn}": value})
            result.append(ask_by_folds("dependent", f"value_{turn}", as_records(rows), "context"))
    return result


def _five(candidates: Candidates, truth: str, rng: random.Random) -> list[str]:
    """The true value among four others that were found for the same cell."""
    others = [v for v in candidates.values if v != truth]
    chosen = [truth, *rng.sample(others, min(4, len(others)))]
    rng.shuffle(chosen)
    return chosen


def answers(asked: Asked, model: Any) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether the best value of each cell is the true one, and its probability (0 for none)."""
    scores = probabilities(model, asked.sample().features)
    right, best = [], []
    start = 0
    for found, truth in zip(asked.candidates, asked.truths, strict=True):
        ranked = rank(found, scores[start : start + len(found.values)].tolist())
        start += len(found.values)
        right.append(bool(ranked) and ranked[0].value == truth)
        best.append(ranked[0].probability if ranked else 0.0)
    return np.array(right, dtype=bool), np.array(best)


def choose_minimum(measured: Sequence[tuple[NDArray[np.bool_], NDArray[np.float64]]]) -> float:
    """The smallest probability from which the answers are right in 90 % on average."""
    for minimum in np.arange(0.05, 1.0, 0.05):
        shares = [float(r[p >= minimum].mean()) for r, p in measured if (p >= minimum).any()]
        if shares and float(np.mean(shares)) >= PRECISION:
            return round(float(minimum), 2)
    return 0.95


def fit_variant(asked: Sequence[Asked], variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit one variant; returns what ships and the figures of leaving one data set out."""
    samples = {id(a): a.sample() for a in asked}
    metrics: dict[str, Any] = {}
    measured = []
    for dataset in dict.fromkeys(a.dataset for a in asked):
        model = fit_trees([samples[id(a)] for a in asked if a.dataset != dataset], SETTINGS)
        for a in (a for a in asked if a.dataset == dataset):
            right, best = answers(a, model)
            measured.append((right, best))
            found = [t in c.values for c, t in zip(a.candidates, a.truths, strict=True)]
            name = f"{dataset}.{a.column}"
            metrics[name if name not in metrics else f"{name}.{len(metrics)}"] = rounded(
                {
                    "n": float(len(right)),
                    "accuracy": float(right.mean()),
                    "candidate_recall": float(np.mean(found)),
                    "mean_probability": float(best.mean()),
                }
            )
    model = ensemble(fit_trees(list(samples.values()), SETTINGS), FEATURES[variant])
    minimum = choose_minimum(measured)
    return {"features": list(FEATURES[variant]), "model": model, "minimum": minimum}, metrics


def main() -> None:
    """Fit both variants and write the calibration."""
    options = arguments("impute", "Calibrate imputation by masking known values.")
    variants: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for variant in FEATURES:
        asked = [
            ask_by_folds(dataset, column, as_records(rows), variant)
            for dataset, columns in TARGETS.items()
            for rows in [read_rows(options.data / "DI" / dataset / "train.parquet")]
            for column in columns
        ]
        if variant == "context":
            asked += dependent_tables(options.data)
        variants[variant], metrics[variant] = fit_variant(asked, variant)
    content = {
        "task": "impute",
        "version": VERSION,
        "variants": variants,
        "trained_on": [f"{name} (train split)" for name in TARGETS] + ["dependent (joined tables)"],
        "held_out": [],
        "metrics": metrics,
        "fitted_by": "python -m meld_duckdb.train.calibrate_impute",
    }
    write_json(options.out, content)


if __name__ == "__main__":
    main()
