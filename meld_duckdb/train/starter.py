"""Train the starter that ships with the package.

    python -m meld_duckdb.train.starter --data DIR [--keep DIR] [--out DIR] [--model NAME]
        [--task NAME ...]

DIR of ``--data`` is the benchmark data; test splits are never opened. A run that was killed goes on
where it stopped: its stages are kept in the workspace ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from meld_duckdb import safe_json, starter
from meld_duckdb.errors import MeldError
from meld_duckdb.locks import FileLock
from meld_duckdb.models import locate
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.starter import ADAPTERS
from meld_duckdb.train.stages import clear_half_written, run_stage
from meld_duckdb.train.starter_stages import DRAWN, StarterExpert, StarterSettings, is_better
from meld_duckdb.workspace import open_workspace, write_atomic

REPORT = "starter.json"
"""How the expert of each task was trained, on what and for how long, and what it is worth."""


def train_starter(
    data: Path,
    keep: Path,
    out: Path,
    model: str = DEFAULT_MODEL,
    tasks: Sequence[str] = tuple(DRAWN),
) -> None:
    """Train the experts of the starter and write them with the report.

    Args:
        data: Directory of the benchmark data.
        keep: Workspace of the stages.
        out: Directory that gets ``adapters/`` and ``starter.json``.
        model: Name or path of the language model.
        tasks: Their tasks; experts of others stay as they are.

    Raises:
        ArtefactMissing: Data or language model are not there.
    """
    workspace = open_workspace(keep)
    located = locate(model, default_model_dir(), "language model")
    settings = StarterSettings(drawn={task: DRAWN[task] for task in tasks})
    folder = workspace.path / "train" / "starter"
    experts = [
        StarterExpert(task, data, (model, located), folder, settings, _say)
        for task in settings.drawn
    ]
    with FileLock(workspace.path / "train.lock", "which trains", _say).hold():
        clear_half_written(out / ADAPTERS)
        lock = FileLock(workspace.write_lock_path, "which writes", _say)
        done = [run_stage(workspace, lock, expert.stage, _say) for expert in experts]
        for expert, finished in zip(experts, done, strict=True):
            if is_better(finished.metrics):
                expert.install(out / ADAPTERS, finished.metrics)
            else:
                expert.remove(out / ADAPTERS)
    path = out / REPORT
    report = safe_json.read(path) if path.is_file() else {}
    for finished in done:
        report[finished.name] = {
            "language_model": model,
            "lora": str(settings.lora),
            "seed": settings.seed,
            "seconds": finished.seconds,
            **finished.metrics,
            "ships": is_better(finished.metrics),
        }
    write_atomic(path, json.dumps(dict(sorted(report.items())), indent=1) + "\n")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--keep", type=Path, default=Path("build/starter"))
    parser.add_argument("--out", type=Path, default=Path(starter.__file__).parent)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", nargs="+", choices=list(DRAWN), default=list(DRAWN))
    given = parser.parse_args()
    try:
        train_starter(given.data, given.keep, given.out, given.model, given.task)
    except MeldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
