"""Entity matching without a label of the tables, set by set.

    python -m tests.bench.bench_cross_dataset --data DIR [--model-rows 300] [--one] [--json FILE]
    python -m tests.bench.bench_cross_dataset --data DIR --valid [--one]

Tier 0 answers the test pairs of sets that it has not learned from. Beside it: TF-IDF cosine with the
threshold that is best on the other sets' validation pairs, a logistic regression over five
similarities trained on the other sets, and the language model asked without examples
(``--model-rows`` of the pairs, drawn by seed; 0 leaves it out).

The sets are left out by folds, and tier 0 learns from those of the five it ships with that remain.
``--one`` leaves out one set at a time, with those that share records with it, and lets tier 0 learn
from all others: leave-one-dataset-out as papers have it.

``--valid``: what tier 0 says of the validation pairs of the sets that it was fitted without. That is
for development; test pairs stay closed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from meld_duckdb.evaluate.baselines import pair_cosines, similarities
from meld_duckdb.evaluate.metrics import best_threshold, binary_measures, interval
from meld_duckdb.features.match import PairTables, TableIndex
from meld_duckdb.features.stack import log_odds
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.models import locate
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.pairs import record_text
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.asking import ask
from meld_duckdb.train.cross_dataset import MATCH_SETS, match_pairs

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
SEED = 42
TASK = "match"
VARIANTS = ("pair", "context")
"""Tier 0 without and with the tables that the records stand in."""

FOLDS = (
    ("amazon_google", "dblp_acm", "dblp_scholar", "rel_text"),
    ("abt_buy", "walmart_amazon"),
    ("semi_text_watch", "wdc_all"),
)
"""Sets that are left out together."""

_TRAINED_ON = 2_000
_MAX_CHARS = 2_000


def left_out(one: bool) -> list[tuple[tuple[str, ...], Sequence[str]]]:
    """Sets that are left out together, and those that tier 0 may learn from."""
    if one:
        return [((name,), MATCH_SETS) for name in MATCH_SETS]
    return [(fold, calibrate_match.DATA_SETS) for fold in FOLDS]


def measure(data: Path, model_rows: int, one: bool) -> dict[str, Any]:
    """F1 with its interval of every way to match, by data set."""
    found: dict[str, Any] = {}
    for fold, sets in left_out(one):
        models, cuts, weights = tier0(data, fold, sets)
        for name in fold:
            pairs, labels, rows = test_rows(data / "EM" / name, weights)
            queries = [Query(pair) for pair in pairs]
            odds = {v: np.asarray(models[v].log_odds(rows[v]), dtype=float) for v in VARIANTS}
            yes = {f"tier 0, {v}": odds[v] >= cuts[v] for v in VARIANTS}
            yes |= {f"tier 0, {v}, at .5": odds[v] >= 0 for v in VARIANTS}
            yes |= baselines(data, name, queries)
            own: dict[str, Any] = {way: graded(labels, given) for way, given in yes.items()}
            own["auc"] = {v: round(calibrate_match.auc(labels, odds[v]), 4) for v in VARIANTS}
            if model_rows:
                own["language model"] = zero_shot(queries, labels, model_rows)
            print(name, json.dumps(own), flush=True)
            found[name] = own
    ways = [w for w, v in next(iter(found.values())).items() if isinstance(v, dict) and "f1" in v]
    found["mean"] = {
        w: round(float(np.mean([s[w]["f1"] for s in found.values()])), 4) for w in ways
    }
    print("mean", json.dumps(found["mean"]), flush=True)
    return found


def tier0(
    data: Path, fold: Sequence[str], sets: Sequence[str]
) -> tuple[dict[str, TreeEnsemble], dict[str, float], IdfWeights]:
    """Tier 0 without a fold, by variant: trees, log-odds from which it answers match; word weights.

    The cut is found on validation pairs of the sets it learns from, each left out in turn.
    """
    learned, weights = tier0_sets(data, fold, sets)
    cuts = {}
    for variant in VARIANTS:
        odds = calibrate_match.left_out_odds(variant, learned)
        cuts[variant] = float(log_odds(np.array(calibrate_match.best_cut(odds, learned))))
    models = {variant: calibrate_match.fit(variant, learned) for variant in VARIANTS}
    return models, cuts, weights


def tier0_sets(
    data: Path, fold: Sequence[str], sets: Sequence[str] = calibrate_match.DATA_SETS
) -> tuple[list[calibrate_match.DataSet], IdfWeights]:
    """What tier 0 learns from without a fold and its relatives; and its weights of words."""
    left_out = calibrate_match.held_out_sets(fold)
    names = [name for name in sets if name not in left_out]
    words = {name: calibrate_match.vocabulary(data / "EM" / name) for name in names}
    weigh = calibrate_match.generic_weights
    learned = [
        calibrate_match.load_set(data / "EM" / name, weigh(words, [n for n in names if n != name]))
        for name in names
    ]
    return learned, weigh(words, names)


def validate(data: Path, one: bool) -> None:
    """Tier 0 on validation pairs, fitted without their fold; a line per set and variant."""
    for fold, sets in left_out(one):
        models, cuts, weights = tier0(data, fold, sets)
        for name in fold:
            valid = calibrate_match.load_set(data / "EM" / name, weights).valid
            for variant in VARIANTS:
                odds = models[variant].log_odds(valid.rows[variant])
                best = calibrate_match.f1_at_best_cut(valid.labels, odds)
                said = calibrate_match.f1(valid.labels, odds >= cuts[variant])
                half = calibrate_match.f1(valid.labels, odds >= 0)
                area = calibrate_match.auc(valid.labels, odds)
                figures = (
                    f"F1 {said:.3f}, at .5 {half:.3f}, at the best cut {best:.3f}, AUC {area:.3f}"
                )
                print(f"{name} {variant} ({len(odds)} pairs): {figures}", flush=True)


def test_rows(
    folder: Path, weights: IdfWeights
) -> tuple[list[tuple[Any, Any]], np.ndarray, Mapping[str, np.ndarray]]:
    """Test pairs of a set, whether they match, and their features by variant of tier 0."""
    at_left, left = calibrate_match.read_table(folder, "tableA")
    at_right, right = calibrate_match.read_table(folder, "tableB")
    columns = parquet.read_table(folder / "test.parquet").to_pydict()
    at = np.array(
        [
            (at_left[a], at_right[b])
            for a, b in zip(columns["ltable_id"], columns["rtable_id"], strict=True)
        ]
    )
    pairs = [(left[a], right[b]) for a, b in at]
    tables = PairTables(TableIndex(left), TableIndex(right))
    rows = calibrate_match.split_rows(pairs, at, tables, weights)
    return pairs, np.asarray(columns["label"], dtype=np.int64), rows


def baselines(data: Path, name: str, asked: Sequence[Query]) -> dict[str, np.ndarray]:
    """What plain methods learn from the other data sets."""
    from sklearn.linear_model import LogisticRegression

    left_out = calibrate_match.held_out_sets([name])
    taught: list[tuple[str, str]] = []
    labels: list[bool] = []
    for fold in FOLDS:
        for other in fold:
            if other in left_out:
                continue
            rows = match_pairs(data, other, "valid")[:_TRAINED_ON]
            taught += [texts(query) for query, _ in rows]
            labels += [answer == "match" for _, answer in rows]
    wanted = [texts(query) for query in asked]
    cosines = pair_cosines([*taught, *wanted])
    cut = best_threshold(cosines[: len(taught)], labels)
    features = similarities([*taught, *wanted])
    model = LogisticRegression(C=10.0, max_iter=1_000)
    model.fit(features[: len(taught)], np.asarray(labels))
    return {
        "TF-IDF cosine": cosines[len(taught) :] >= (0.5 if cut is None else cut),
        "similarities, logistic": model.predict(features[len(taught) :]).astype(bool),
    }


def texts(query: Query) -> tuple[str, str]:
    """Both records as plain texts."""
    return record_text(query.records[0]), record_text(query.records[1])


def zero_shot(queries: Sequence[Query], labels: np.ndarray, n_rows: int) -> dict[str, Any]:
    """The language model without examples, on some of the pairs."""
    from meld_duckdb.engine.transformers import TransformersBackend

    engine = TransformersBackend(locate(DEFAULT_MODEL, default_model_dir(), "language model"))
    at = np.random.default_rng(SEED).permutation(len(queries))[:n_rows].tolist()
    replies = ask(engine, TASK, [queries[i] for i in at], _MAX_CHARS)
    yes = np.array([reply.value == "match" for reply in replies])
    return graded(labels[at], yes)


def graded(labels: np.ndarray, yes: np.ndarray) -> dict[str, Any]:
    """F1 with its 95 % bootstrap interval."""
    measure = binary_measures((labels == 1).tolist(), yes.tolist())[0]
    low, high = interval(measure, SEED)
    return {
        "f1": round(measure.value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": len(yes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--valid", action="store_true", help="tier 0 on validation pairs only")
    parser.add_argument("--one", action="store_true", help="leave out one set at a time")
    parser.add_argument("--model-rows", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.valid:
        return validate(given.data, given.one)
    found = measure(given.data, given.model_rows, given.one)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
