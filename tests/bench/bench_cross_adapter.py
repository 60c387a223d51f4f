"""Would an adapter of the language model, tuned on other data sets, match unseen tables better?

    python -m tests.bench.bench_cross_adapter --data DIR --keep DIR [--fold 1] [--quota 300]
        [--epochs 2] [--rank 16] [--rate 1e-3] [--max-chars 500] [--judged 200] [--json FILE]
    python -m tests.bench.bench_cross_adapter --data DIR --keep DIR --leave NAME ... [--quota 400]
        [--adapter DIR] [--judged 150] [--json FILE]

The adapter learns from the training pairs of all data sets but a fold and its relatives (``--quota`` of
each) and judges validation pairs of the fold, as does tier 0, trained without it too. What the
adapter adds is judged by weights fitted to the other pairs (five parts). Test pairs stay closed. A
killed run goes on at its checkpoint.

``--leave``: trained as the starter is (or ``--adapter``: trained before) without these sets, the
adapter is asked about validation pairs of each that tier 0, which learned from all other sets, is
unsure of: ``--judged`` of them, which stand for all. F1 is that of all validation pairs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.engine.adapters import open_adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.features.stack import log_odds, sigmoid
from meld_duckdb.models import locate
from meld_duckdb.planner.cascade import UNSURE
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks.base import Query
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.asking import ask
from meld_duckdb.train.cross_dataset import (
    MATCH_SETS,
    DrawSettings,
    cross_dataset_rows,
    match_pairs,
)
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.stack import fit_stack
from meld_duckdb.train.starter_stages import StarterSettings
from tests.bench.bench_cross_dataset import FOLDS, SEED, TASK, VARIANTS, tier0_sets

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
PARTS = 5
_MAX_CHARS = 2_000


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train without a fold, judge its validation pairs; figures by data set."""
    fold = FOLDS[given.fold]
    model = locate(DEFAULT_MODEL, default_model_dir(), "language model")
    rows = cross_dataset_rows(given.data, TASK, fold, DrawSettings(quota=given.quota))
    settings = LoraSettings(
        rank=given.rank,
        alpha=2 * given.rank,
        layers=1.0,
        learning_rate=given.rate,
        epochs=given.epochs,
        max_chars=given.max_chars,
        rows_at_once=8,
        checkpoint_every=25,
    )
    out = given.keep / f"adapter-without-{fold[0]}"
    if not out.is_dir():
        print(f"{len(rows)} rows to learn from", flush=True)
        trained = train_adapter(rows, model, out, settings, progress=say)
        print(f"trained in {trained.seconds:.0f} s, losses {trained.losses}", flush=True)
    backend = TransformersBackend(model, device="cpu", batch_size=8)
    learned, weights = tier0_sets(given.data, fold)
    models = {variant: calibrate_match.fit(variant, learned) for variant in VARIANTS}
    return {
        "rows": len(rows),
        "settings": {
            k: getattr(given, k) for k in ("quota", "epochs", "rank", "rate", "max_chars")
        },
        **{name: judge(given, name, backend, out, models, weights) for name in fold},
    }


def measure_unsure(given: argparse.Namespace) -> dict[str, Any]:
    """Train without some sets as the starter is, and judge by what tier 0 is unsure of."""
    model = locate(DEFAULT_MODEL, default_model_dir(), "language model")
    out = given.adapter or given.keep / f"starter-without-{'-'.join(given.leave)}"
    if not out.is_dir():
        rows = cross_dataset_rows(given.data, TASK, given.leave, DrawSettings(quota=given.quota))
        print(f"{len(rows)} rows to learn from", flush=True)
        train_adapter(rows, model, out, StarterSettings().lora, progress=say)
    backend = TransformersBackend(model, device="cpu", batch_size=8)
    found = {}
    for name in given.leave:
        learned, weights = tier0_sets(given.data, (name,), MATCH_SETS)
        valid = calibrate_match.load_set(given.data / "EM" / name, weights).valid
        fitted = calibrate_match.fit("context", learned)
        own = np.asarray(fitted.log_odds(valid.rows["context"]), dtype=float)
        queries = [query for query, _ in match_pairs(given.data, name, "valid")]
        truth = np.asarray(valid.labels) == 1
        found[name] = judge_unsure(given.judged, queries, truth, own, backend, out)
        print(name, json.dumps(found[name]), flush=True)
    return found


def judge_unsure(
    judged: int,
    queries: Sequence[Query],
    truth: np.ndarray,
    own: np.ndarray,
    backend: Backend,
    out: Path,
) -> dict[str, float]:
    """F1 of all pairs where the adapter, or the mean of both log-odds, answers the unsure ones."""
    unsure = np.flatnonzero(np.abs(own) < log_odds(np.array([UNSURE[1]]))[0])
    at = np.sort(np.random.default_rng(SEED).permutation(unsure)[:judged])
    replies = ask(backend, TASK, [queries[i] for i in at], _MAX_CHARS, open_adapter(out))
    other = log_odds(np.array([reply.probability for reply in replies], dtype=float))
    weights = np.ones(len(own))
    weights[unsure] = 0
    weights[at] = len(unsure) / len(at)
    found = {"unsure": len(unsure), "asked": len(at), "matches asked": int(truth[at].sum())}
    for way, odds in (("tier 0", own[at]), ("adapter", other), ("mean", (own[at] + other) / 2)):
        said = own.copy()
        said[at] = odds
        hits = float((weights * (truth & (said > 0))).sum())
        sizes = float((weights * truth).sum() + (weights * (said > 0)).sum())
        found[f"{way}, F1"] = round(2 * hits / max(1.0, sizes), 4)
        found[f"{way}, AUC"] = round(calibrate_match.auc(truth[at].astype(int), odds), 4)
    return found


def judge(
    given: argparse.Namespace, name: str, backend: Any, out: Path, models: Any, weights: Any
) -> dict[str, Any]:
    """What both say about validation pairs of a data set that neither has seen."""
    labelled = match_pairs(given.data, name, "valid")
    order = sorted(range(len(labelled)), key=lambda i: labelled[i][0].digest)
    kept = sorted(order[: given.judged])
    rows = calibrate_match.load_set(given.data / "EM" / name, weights).valid.rows
    queries = [labelled[i][0] for i in kept]
    truth = np.array([labelled[i][1] == "match" for i in kept])
    found: dict[str, Any] = {"pairs": len(kept), "matches": int(truth.sum())}
    said = {}
    for what, adapter in (("model", None), ("adapter", open_adapter(out))):
        replies = ask(backend, TASK, queries, given.max_chars, adapter)
        said[what] = log_odds(np.array([reply.probability for reply in replies], dtype=float))
        found[f"{what} AUC"] = round(calibrate_match.auc(truth.astype(int), said[what]), 4)
        found[f"{what} best F1"] = round(calibrate_match.f1_at_best_cut(truth, said[what]), 4)
    for variant in VARIANTS:
        own = np.asarray(models[variant].log_odds(rows[variant][kept]), dtype=float)
        verdict = fit_stack(sigmoid(own), said["adapter"], truth, np.arange(len(kept)) % PARTS, 0.5)
        found[f"tier 0 {variant} AUC"] = round(calibrate_match.auc(truth.astype(int), own), 4)
        found[f"tier 0 {variant} best F1"] = round(calibrate_match.f1_at_best_cut(truth, own), 4)
        found[f"{variant}: adds"] = verdict.reason
    print(name, json.dumps(found), flush=True)
    return found


def say(line: str) -> None:
    """Tell how far training is."""
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--quota", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--max-chars", type=int, default=500)
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--leave", nargs="*", choices=MATCH_SETS)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    found = (measure_unsure if given.leave else measure)(given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
