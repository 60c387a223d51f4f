"""Leave one task out: does an adapter tuned on the other tasks answer a task it has never seen better?

    python -m tests.bench.bench_cross_task --data DIR --keep DIR [--task NAME ...] [--rows 60]
        [--judged 60] [--epochs 2] [--rank 8] [--rate 2e-3] [--max-chars 300] [--precision auto]
        [--json FILE]

For every task one adapter of the language model learns from ``--rows`` training rows of each other task and
answers ``--judged`` training rows of the task left out, as does the language model without an
adapter. Training splits only: nothing of the task left out is ever learned from, and rows of other
tasks with a record that is asked about are left out. Both answer without demonstrations.

Accuracy, or F1 at the cut that is best on these very rows and the area under the ROC curve for tasks
with two answers, with the mean negative log of the probability given to the right answer. A task that
is in the file of ``--json`` is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.models import locate
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks import TASKS
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.asking import ask, score_of
from meld_duckdb.train.cross_dataset import DrawSettings, cross_dataset_rows
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.training_rows import SOURCES

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
ALL = ("match", "schema_match", *SOURCES)


def measure(given: argparse.Namespace, task: str, backend: TransformersBackend) -> dict[str, Any]:
    """Train without a task and let model and adapter answer it."""
    judged = draw(given.data, task, given.judged)
    asked = {record.digest for row in judged for record in row.query.records}
    rows = [
        row
        for other in ALL
        if other != task
        for row in draw(given.data, other, given.rows)
        if asked.isdisjoint(record.digest for record in row.query.records)
    ]
    settings = LoraSettings(
        rank=given.rank,
        alpha=2 * given.rank,
        learning_rate=given.rate,
        epochs=given.epochs,
        max_chars=given.max_chars,
        rows_at_once=8,
        precision=given.precision,
    )
    path = locate(DEFAULT_MODEL, default_model_dir(), "language model")
    trained = train_adapter(rows, path, given.keep / f"without-{task}", settings, progress=say)
    return {
        "rows": len(rows),
        "seconds": round(trained.seconds),
        "judged": len(judged),
        "model": judge(judged, backend, None, given.max_chars),
        "adapter": judge(judged, backend, trained.adapter, given.max_chars),
    }


def draw(data: Path, task: str, n: int) -> list[TrainingRow]:
    """Training rows of a task, of all its data sets alike."""
    return cross_dataset_rows(data, task, (), DrawSettings(quota=n))[:n]


def judge(
    rows: Sequence[TrainingRow], backend: TransformersBackend, adapter: Adapter | None, chars: int
) -> dict[str, float]:
    """How rows are answered."""
    task = rows[0].task
    said = ask(backend, task, [row.query for row in rows], chars, adapter)
    labels = TASKS[task].labels
    positive = None if labels is None else labels[0]
    metric, likely = score_of(rows, said, positive)
    found = {"score": round(metric, 4), "log_loss": round(-likely, 4)}
    if positive is not None:
        yes = np.array([row.answer == positive for row in rows], dtype=np.int64)
        shares = np.array([a.probability or 0.0 for a in said])
        found["auc"] = round(calibrate_match.auc(yes, shares), 4)
    return found


def say(line: str) -> None:
    """Tell how far training is."""
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--task", nargs="*", choices=ALL, default=list(ALL))
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--judged", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--max-chars", type=int, default=300)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if given.json and given.json.is_file():
        found = json.loads(given.json.read_text("utf-8"))
    path = locate(DEFAULT_MODEL, default_model_dir(), "language model")
    backend = TransformersBackend(path, device="cpu", batch_size=8)
    for task in given.task:
        if task not in found:
            found[task] = measure(given, task, backend)
            print(task, json.dumps(found[task]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
