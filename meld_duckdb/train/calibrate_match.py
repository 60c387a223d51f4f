"""Fit tier T0 of entity matching on public data sets, and measure it on sets left out.

    python -m meld_duckdb.train.calibrate_match --data DIR [--hold-out NAME ...] [--out FILE]

DIR is the benchmark data, or its folder ``EM``: one folder a data set (``tableA``, ``tableB``,
``train``, ``valid``). Test files are never opened. The same input gives the same file, byte by
byte.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.errors import ArtefactMissing, TrainingError
from meld_duckdb.features import text as tx
from meld_duckdb.features.context import comparable_text
from meld_duckdb.features.load import VERSION
from meld_duckdb.features.match import (
    CONTEXT_FEATURES,
    FEATURES,
    PairTables,
    TableIndex,
    pair_features,
    select_features,
)
from meld_duckdb.features.stack import log_odds
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record, make_record

logger = logging.getLogger(__name__)

DATA_SETS = ("abt_buy", "dblp_scholar", "semi_text_watch", "walmart_amazon", "wdc_all")
"""Sets that may be fitted on."""

HELD_OUT = ("amazon_google", "dblp_acm", "rel_text")
"""Sets that the shipped calibration never sees: reported, demonstrated, and the latter's twin."""

READABLE = frozenset({"tableA", "tableB", "train", "valid"})
"""Files that a calibration may open."""

WORDS = 8000
"""Words in the shipped generic weights."""

PRIOR = 0.2
"""Share of matches that every data set is weighted to."""

MAX_PAIRS = 6000
"""Train pairs of a data set that are fitted on, drawn with a fixed seed."""

RELATED: Mapping[str, tuple[str, ...]] = {
    "dblp_acm": ("dblp_scholar", "rel_text"),
    "dblp_scholar": ("dblp_acm", "rel_text"),
    "rel_text": ("dblp_acm", "dblp_scholar"),
    "semi_text_watch": ("wdc_all",),
    "wdc_all": ("semi_text_watch",),
}
"""Sets that share records with a set: left out with it."""

CUTS = tuple(round(0.2 + 0.02 * step, 2) for step in range(21))
"""Probabilities tried instead of 0.5, which is what ships: what others gain, some sets lose."""

_PAIR = tuple(name for name in FEATURES if name != "encoder_cosine")
_CONTEXT = (*_PAIR, *(name for name in CONTEXT_FEATURES if "encoder" not in name))
MEMBERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "pair": (_PAIR,),
    "context": (_PAIR, _CONTEXT),
}
"""Each variant's models by the features they may use; the log-odds are averaged."""

_KEYS = ("f1", "f1_half", "f1_best_cut", "auc")
_FALLING = ("alone", "conflict", "rank", "rivals", "gap")
_FREE = ("words_min", "columns_compared", "columns_one_sided", "length_ratio")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Features and labels of the pairs of one split, by variant."""

    rows: dict[str, np.ndarray]
    labels: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """One data set, ready to be fitted on."""

    name: str
    train: Split
    valid: Split


def read_columns(folder: Path, file: str) -> dict[str, list[Any]]:
    """Read a table, train or valid file of a data set.

    Raises:
        TrainingError: If the file is one that calibration must not see, such as ``test``.
        ArtefactMissing: If it is not there.
    """
    if file not in READABLE:
        raise TrainingError(f"calibration must not read {file!r} of {folder.name}")
    path = folder / f"{file}.parquet"
    if not path.is_file():
        raise ArtefactMissing(f"no file {path}", hint="see --data")
    from pyarrow import parquet

    columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    return columns


def read_table(folder: Path, file: str) -> tuple[dict[str, int], list[Record]]:
    """Read a table as records, and the position of each ``id``."""
    columns = read_columns(folder, file)
    rows = zip(*columns.values(), strict=True)
    records = [make_record(dict(zip(columns, row, strict=True))) for row in rows]
    return {key: at for at, key in enumerate(columns["id"])}, records


def vocabulary(folder: Path) -> list[frozenset[str]]:
    """Return the words of each distinct record of both tables."""
    texts = {
        comparable_text(record): None
        for file in ("tableA", "tableB")
        for record in read_table(folder, file)[1]
    }
    return [frozenset(tx.words(text)) for text in texts]


def generic_weights(
    documents: Mapping[str, list[frozenset[str]]], names: Sequence[str]
) -> IdfWeights:
    """Count words over the tables of several data sets."""
    joined = (document for name in names for document in documents[name])
    return IdfWeights.from_documents(joined).commonest(WORDS)


def load_set(folder: Path, weights: IdfWeights) -> DataSet:
    """Compute the features of a data set's train and valid pairs.

    Args:
        folder: The data set.
        weights: Generic weights for the ``pair`` variant, from other data sets only: a user's
            table is not among the counted ones either.
    """
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    tables = PairTables(TableIndex(left), TableIndex(right))
    splits = []
    for file in ("train", "valid"):
        columns = read_columns(folder, file)
        at = np.array(
            [
                (at_left[a], at_right[b])
                for a, b in zip(columns["ltable_id"], columns["rtable_id"], strict=True)
            ]
        )
        labels = np.asarray(columns["label"], dtype=np.int64)
        if file == "train" and len(at) > MAX_PAIRS:
            kept = np.random.default_rng(0).permutation(len(at))[:MAX_PAIRS]
            at, labels = at[kept], labels[kept]
        pairs = [(left[a], right[b]) for a, b in at]
        splits.append(Split(split_rows(pairs, at, tables, weights), labels))
        logger.info("%s %s: %d pairs", folder.name, file, len(at))
    return DataSet(folder.name, *splits)


def split_rows(
    pairs: Sequence[tuple[Record, Record]],
    at: np.ndarray,
    tables: PairTables,
    weights: IdfWeights,
) -> dict[str, np.ndarray]:
    """Features of pairs by variant; ``at`` holds their positions in both tables, [n, 2]."""
    context = tables.context_features(at)
    return {
        "pair": select_features(_PAIR, pair_features(pairs, None, weights)),
        "context": select_features(_CONTEXT, pair_features(pairs, None, tables.weights), context),
    }


def direction(name: str) -> int:
    """Say whether a feature may only speak for a match (1), only against (-1), or both (0)."""
    if any(part in name for part in _FALLING):
        return -1
    return 0 if name.endswith(_FREE) else 1


def fit(variant: str, sets: Sequence[DataSet]) -> TreeEnsemble:
    """Fit a variant; every data set weighs the same and has the same share of matches."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    names = MEMBERS[variant][-1]
    x = np.vstack([one.train.rows[variant] for one in sets])
    y = np.concatenate([one.train.labels for one in sets])
    weight = np.concatenate([_sample_weight(one.train.labels) for one in sets])
    members = []
    for allowed in MEMBERS[variant]:
        hidden = [i for i, name in enumerate(names) if name not in set(allowed)]
        seen = x.copy()
        seen[:, hidden] = 0.0
        seen[:, np.isnan(seen).all(axis=0)] = 0.0  # sklearn 1.9 cannot bin a column of NaN
        model = HistGradientBoostingClassifier(
            learning_rate=0.1,
            max_iter=300,
            max_leaf_nodes=3,
            max_features=0.3,
            min_samples_leaf=100,
            l2_regularization=50.0,
            max_bins=64,
            monotonic_cst=[direction(name) for name in names],
            early_stopping=False,
            random_state=0,
        )
        members.append(TreeEnsemble.from_sklearn(model.fit(seen, y, weight), names))
    return TreeEnsemble.average(members)


def _sample_weight(labels: np.ndarray) -> np.ndarray:
    share = labels.mean()
    weight = np.where(labels == 1, PRIOR / share, (1 - PRIOR) / (1 - share))
    return np.asarray(weight * (MAX_PAIRS / len(labels)))


def f1(labels: np.ndarray, positive: np.ndarray) -> float:
    """F1 of predicted matches, in [0, 1]."""
    hits = int((positive & (labels == 1)).sum())
    return 2 * hits / max(1, int(positive.sum()) + int((labels == 1).sum()))


def f1_at_best_cut(labels: np.ndarray, odds: np.ndarray) -> float:
    """The highest F1 of some 400 cuts."""
    cuts = np.unique(odds)
    return max(f1(labels, odds >= cut) for cut in cuts[:: max(1, len(cuts) // 400)])


def auc(labels: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve, ties counting half."""
    values, inverse = np.unique(score, return_inverse=True)
    counts = np.bincount(inverse, minlength=len(values))
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(labels.sum())
    area = rank[labels == 1].sum() - positives * (positives + 1) / 2
    return float(area / max(1, positives * (len(labels) - positives)))


def held_out_sets(names: Sequence[str]) -> frozenset[str]:
    """Data sets and those that share records with them."""
    return frozenset(other for name in names for other in (name, *RELATED.get(name, ())))


def left_out_odds(variant: str, sets: Sequence[DataSet]) -> dict[str, np.ndarray]:
    """Log-odds of the valid pairs of each set, by a model of all others but its relatives."""
    return {
        one.name: fit(
            variant, [other for other in sets if other.name not in held_out_sets([one.name])]
        ).log_odds(one.valid.rows[variant])
        for one in sets
    }


def best_cut(odds: Mapping[str, np.ndarray], sets: Sequence[DataSet], beside: str = "") -> float:
    """The probability of `CUTS` from which to say "match": best mean F1 over the sets.

    Args:
        odds: See `left_out_odds`.
        sets: Their labels.
        beside: A set that has no part in the choice, nor have its relatives; "" for none.
    """
    others = [one for one in sets if one.name not in held_out_sets([beside])]
    means = [
        np.mean([f1(one.valid.labels, odds[one.name] >= log_odds(np.array(cut))) for one in others])
        for cut in CUTS
    ]
    return CUTS[int(np.argmax(means))]


def leave_one_out(
    odds: Mapping[str, np.ndarray], sets: Sequence[DataSet]
) -> dict[str, dict[str, float]]:
    """How well the valid pairs of each set are told by models that have not seen it.

    Returns:
        Per set: F1 at the cut that is best on the other sets (``f1``), at probability 0.5, at the
        cut that is best on the set itself, and AUC.
    """
    metrics = {}
    for one in sets:
        own, labels = odds[one.name], one.valid.labels
        metrics[one.name] = {
            "f1": round(f1(labels, own >= log_odds(np.array(best_cut(odds, sets, one.name)))), 4),
            "f1_half": round(f1(labels, own >= 0), 4),
            "f1_best_cut": round(f1_at_best_cut(labels, own), 4),
            "auc": round(auc(labels, own), 4),
        }
    return metrics


def calibrate(data: Path, hold_out: Sequence[str] = ()) -> dict[str, Any]:
    """Fit both variants on every set that is not held out; gives the content of the file.

    Raises:
        TrainingError: If fewer than three sets are left.
        ArtefactMissing: If a set is not there.
    """
    data = data / "EM" if (data / "EM").is_dir() else data
    held = tuple(sorted({*HELD_OUT, *hold_out}))
    names = [name for name in DATA_SETS if name not in held]
    if len(names) < 3:
        raise TrainingError("fewer than three data sets are left to fit on")
    documents = {name: vocabulary(data / name) for name in names}
    sets = [
        load_set(data / name, generic_weights(documents, [x for x in names if x != name]))
        for name in names
    ]
    variants, metrics = {}, {}
    for variant in MEMBERS:
        odds = left_out_odds(variant, sets)
        metrics[variant] = leave_one_out(odds, sets)
        variants[variant] = {"model": fit(variant, sets).to_dict(), "threshold": 0.5}
    command = "python -m meld_duckdb.train.calibrate_match --data DIR"
    extra = "".join(f" --hold-out {name}" for name in hold_out)
    words = generic_weights(documents, names)
    return {
        "task": "match",
        "version": VERSION,
        "trained_on": names,
        "held_out": list(held),
        "fitted_by": command + extra,
        "metrics": metrics,
        "variants": variants,
        "words": words.to_dict(),
    }


def report(content: Mapping[str, Any]) -> str:
    """Word the leave-one-out table."""
    lines = [f"{'variant':8} {'left out':16} {'F1':>6} {'at .5':>6} {'best cut':>9} {'AUC':>6}"]
    for variant, table in content["metrics"].items():
        mean = {key: float(np.mean([row[key] for row in table.values()])) for key in _KEYS}
        for name, row in (*table.items(), ("mean", mean)):
            f1_cut, half, best, area = (row[key] for key in _KEYS)
            lines.append(f"{variant:8} {name:16} {f1_cut:6.3f} {half:6.3f} {best:9.3f} {area:6.3f}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="calibrate_match", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--hold-out", action="append", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    content = calibrate(options.data, options.hold_out)
    sys.stdout.write(report(content))
    if options.out is not None:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
