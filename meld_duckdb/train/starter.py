"""Train the starter that ships with the package.

    python -m meld_duckdb.train.starter --data DIR [--keep DIR] [--out DIR]
        [--encoder NAME] [--model NAME]

DIR of ``--data`` is the benchmark data; test splits are never opened. A run that was killed goes on
where it stopped: its stages are kept in the workspace ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from meld_duckdb import starter
from meld_duckdb.errors import MeldError
from meld_duckdb.locks import FileLock
from meld_duckdb.models import locate
from meld_duckdb.settings import DEFAULT_ENCODER, DEFAULT_MODEL, default_model_dir
from meld_duckdb.train.general import GeneralSettings, GeneralTraining, data_digests
from meld_duckdb.train.general_adapter import AdapterSettings, adapter_stage
from meld_duckdb.train.stages import clear_half_written, read_stages, run_stage
from meld_duckdb.workspace import open_workspace, write_atomic

REPORT = "starter.json"
"""What the experts were trained on, how and for how long."""


def train_starter(
    data: Path,
    keep: Path,
    out: Path,
    encoder: str = DEFAULT_ENCODER,
    model: str = DEFAULT_MODEL,
) -> None:
    """Train all experts of the starter and write them with the report.

    Args:
        data: Directory of the benchmark data.
        keep: Workspace of the stages.
        out: Directory that gets ``experts/``, ``adapters/`` and ``starter.json``.
        encoder: Name or path of the encoder.
        model: Name or path of the language model.

    Raises:
        ArtefactMissing: Data, encoder or language model are not there.
    """
    workspace = open_workspace(keep)
    path = locate(encoder, default_model_dir(), "encoder")
    language_model = locate(model, default_model_dir(), "language model")
    settings, adapter = GeneralSettings(encoder=encoder), AdapterSettings()
    folder = workspace.path / "train" / "general"
    training = GeneralTraining(data, path, folder, out / "experts", settings, _say)
    done = []
    with FileLock(workspace.path / "train.lock", "which trains", _say).hold():
        clear_half_written(folder, folder / "match", out / "experts")
        lock = FileLock(workspace.write_lock_path, "which writes", _say)
        own = adapter_stage(data, language_model, folder, out / "adapters", adapter, _say)
        for stage in (*training.stages(), own):
            done.append(run_stage(workspace, lock, stage, _say))
    stages = read_stages(workspace)
    report = {
        "made_by": "make starter",
        "encoder": encoder,
        "language_model": model,
        "settings": {
            "draw": str(settings.draw),
            "expert": str(settings.expert),
            "adapter": str(adapter),
        },
        "data": data_digests(data),
        "stages": {
            s.name: {"seconds": stages[s.name]["seconds"], "metrics": dict(s.metrics)} for s in done
        },
    }
    write_atomic(out / REPORT, json.dumps(report, indent=1) + "\n")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--keep", type=Path, default=Path("build/starter"))
    parser.add_argument("--out", type=Path, default=Path(starter.__file__).parent)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    given = parser.parse_args()
    try:
        train_starter(given.data, given.keep, given.out, given.encoder, given.model)
    except MeldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
