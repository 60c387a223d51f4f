"""Would an adapter of the language model, tuned on other data sets, match unseen tables better?

    python -m tests.bench.bench_cross_adapter --data DIR --keep DIR [--fold 1] [--quota 300]
        [--epochs 2] [--rank 16] [--rate 1e-3] [--max-chars 500] [--judged 200] [--json FILE]

The adapter learns from the training pairs of all data sets but a fold and its relatives (``--quota`` of
each) and judges validation pairs of the fold, as does tier 0, trained without it too. What the
adapter adds is judged by weights fitted to the other pairs (five parts). Test pairs stay closed. A
killed run goes on at its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.engine.adapters import open_adapter
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.features.stack import log_odds, sigmoid
from meld_duckdb.models import locate
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.asking import ask
from meld_duckdb.train.cross_dataset import DrawSettings, cross_dataset_rows, match_pairs
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.stack import fit_stack
from tests.bench.bench_cross_dataset import FOLDS, TASK, VARIANTS, tier0_sets

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
PARTS = 5


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
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    found = measure(given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
