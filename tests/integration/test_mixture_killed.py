"""kill -9 after every stage of a mixture of experts, and within one: the result is the same."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import meld_duckdb
from tests.integration.things import Files, run_script, write_files
from tests.unit.tiny_encoder import save_tiny_encoder
from tests.unit.tiny_llama import save_tiny_llama

SCRIPT = """
import os, signal, sys
from dataclasses import replace
from meld_duckdb.cli.main import main
from meld_duckdb.train import lora_fit, pipeline, stages
from meld_duckdb.train.lora import LoraSettings
from meld_duckdb.train.mixture_settings import MoeSettings
from meld_duckdb.train.refine import RefineSettings
from tests.integration.things import QUICK

point, sys.argv = sys.argv[1], ["meld", "train", *sys.argv[2:]]
lora = LoraSettings(
    epochs=2, layers=1.0, rank=2, batch=4, max_tokens=300, checkpoint_every=2, device="cpu")
quick = MoeSettings(lora=lora, refine=RefineSettings(rounds=1, quota=8))
pipeline.TrainSettings = lambda held_out, mixture: replace(QUICK, held_out=held_out, mixture=quick)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

record = stages._record
def recorded(workspace, lock, name, made):
    return die() if name == point else record(workspace, lock, name, made)
stages._record = recorded

if point == "at a checkpoint":
    save = lora_fit.Fit._save
    def saved(self, *given):
        save(self, *given)
        die()
    lora_fit.Fit._save = saved
main()
"""
CHECKPOINT = "at a checkpoint"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "encoder": str(save_tiny_encoder(folder / "encoder")),
        "model": str(save_tiny_llama(folder / "llama")),
    }


def train(point: str, files: Files, models: dict[str, str], workspace: Path) -> tuple[int, str]:
    arguments = [point, *files.arguments, "--stages", "experts"]
    return run_script(SCRIPT, arguments, {**models, "workspace": workspace, "starter": "none"})


def teach(models: dict[str, str], workspace: Path) -> None:
    """Labels of other things, so that the task has two groups of labels."""
    given: dict[str, Any] = {**models, "progress": False}
    with meld_duckdb.connect(":memory:", workspace=workspace, **given) as con:
        con.execute(
            "SELECT meld_learn('match', {'a': {'label': 'red ' || i}, 'b': {'label': 'red ' || "
            "(i + (i % 3)::INT) || ' x'}}, i % 3 = 0) FROM range(15) r(i)"
        ).fetchall()


def artefacts(workspace: Path) -> dict[str, str]:
    """Digest of everything that training leaves behind, without the times in it."""
    found = {}
    for folder in ("train/experts", "adapters", "router", "calibration"):
        for path in sorted((workspace / folder).rglob("*")):
            if not path.is_file() or path.name == ".lock":
                continue
            content = path.read_bytes()
            if path.suffix == ".json":
                fields = json.loads(content)
                if isinstance(fields, dict):
                    fields = {k: v for k, v in fields.items() if k not in ("seconds", "made")}
                content = json.dumps(fields, sort_keys=True).encode()
            found[path.relative_to(workspace).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


@pytest.mark.timeout(2400)
def test_experts_that_were_killed_again_and_again_end_as_if_they_never_were(
    models: dict[str, str], tmp_path: Path
) -> None:
    files = write_files(tmp_path / "files")
    for name in ("whole", "killed"):
        teach(models, tmp_path / name)
    code, said = train("never", files, models, tmp_path / "whole")
    assert code == 0, said
    stages = list(json.loads((tmp_path / "whole" / "manifest.json").read_text())["stages"])
    kinds = [name.partition(" ")[0] for name in stages]
    assert kinds == ["pretrain"] + ["adapter", "path", "refine"] * 2 + ["router", "gate", "gate"]
    for point in (CHECKPOINT, *stages):
        code, said = train(point, files, models, tmp_path / "killed")
        assert code == -signal.SIGKILL, f"{point}: {said}"
    code, said = train("never", files, models, tmp_path / "killed")
    assert code == 0, said
    whole, killed = artefacts(tmp_path / "whole"), artefacts(tmp_path / "killed")
    assert killed == whole
    assert any(name.startswith("adapters/") for name in whole)
    assert not any("/." in name for name in killed), "something half-written was left"
    code, said = train("never", files, models, tmp_path / "killed")
    assert code == 0 and said.count("skipped") == len(stages), said
