"""kill -9 at every place of a training: the next run goes on, and what comes of it is the same."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.integration.things import Files, run_script, write_files
from tests.unit.tiny_encoder import save_tiny_encoder

SCRIPT = """
import os, signal, sys
from dataclasses import replace
from meld_duckdb.cli import train_progress
from meld_duckdb.cli.main import main
from meld_duckdb.planner.session import Session
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.store import Store
from meld_duckdb.train import expert, pipeline, stages
from tests.integration.things import QUICK

point, sys.argv = sys.argv[1], ["meld", "train", *sys.argv[2:]]
pipeline.TrainSettings = lambda held_out, mixture: replace(QUICK, held_out=held_out)

index = Session.index
Session.index = lambda self, name, records, *, embed, **options: index(
    self, name, records, embed=True, **options)  # so that there is something to embed anew

def die(*ignored, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, wanted=lambda *given: True):
    original = getattr(owner, name)
    def patched(*given, **options):
        return die() if wanted(*given) else original(*given, **options)
    setattr(owner, name, patched)

def after(owner, name, calls=1):
    original, seen = getattr(owner, name), []
    def patched(*given, **options):
        found = original(*given, **options)
        seen.append(1)
        return die() if len(seen) == calls else found
    setattr(owner, name, patched)

def written(name):
    before(os, "replace", lambda source, target: str(target).endswith(name))

def unrecorded(stage):
    before(stages, "_record", lambda workspace, lock, name, record: name == stage)

POINTS = {
    "never": lambda: None,
    "a table is stored and not entered": lambda: before(Store, "put_table"),
    "labels are stored and not entered": lambda: before(Catalogue, "set_labels"),
    "pseudo-labels are half-written": lambda: written("rows-match.jsonl"),
    "made rows are half-written": lambda: written("rows-transformed.jsonl"),
    "alignments are half-written": lambda: written("aligned.json"),
    "between two stages": lambda: unrecorded("align"),
    "while the encoder learns": lambda: before(
        train_progress.Progress, "step", lambda self, what, done, total: done == 2),
    "the encoder is half-written": lambda: before(
        os, "replace", lambda source, target: target.parent.name == "encoder"),
    "the encoder is adopted and not recorded": lambda: after(Session, "adopt_encoder"),
    "half of the rows are embedded": lambda: after(Store, "add_entries"),
    "while the expert learns": lambda: after(expert, "train_cross_encoder", 2),
    "the expert is saved and not recorded": lambda: after(expert, "save_expert"),
}
POINTS[point]()
main()
"""
POINTS = [line.strip().split('"')[1] for line in SCRIPT.splitlines() if line.startswith('    "')]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def train(point: str, files: Files, encoder: Path, workspace: Path) -> tuple[int, str]:
    settings = {"encoder": encoder, "workspace": workspace, "starter": "none"}
    return run_script(SCRIPT, [point, *files.arguments], settings)


def artefacts(workspace: Path) -> dict[str, Any]:
    """What training leaves behind, without the times in it."""
    files = [
        path
        for folder in ("train", "encoder", "experts")
        for path in sorted((workspace / folder).rglob("*"))
        if path.is_file() and not (folder == "experts" and path.name == "card.json")
    ]
    found: dict[str, Any] = {
        path.relative_to(workspace).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    manifest = json.loads((workspace / "manifest.json").read_text())
    times = ("seconds", "finished_at")
    for name, record in manifest.pop("stages").items():
        found[name] = {key: value for key, value in record.items() if key not in times}
    del found["embed"]["metrics"]  # how many rows this run had still to embed
    found["manifest"] = manifest
    [card] = (workspace / "experts").glob("*/card.json")
    fields = json.loads(card.read_text())
    found["card"] = {k: v for k, v in fields.items() if k not in ("made", "seconds")}
    with sqlite3.connect(workspace / "catalogue.sqlite") as connection:
        for table in ("labels", "members"):
            found[table] = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        names = "name, digest, n_rows, embedded, encoder"
        found["tables"] = connection.execute(f"SELECT {names} FROM tables ORDER BY 1").fetchall()
    connection.close()
    return found


@pytest.mark.timeout(2400)
def test_a_training_that_is_killed_again_and_again_ends_as_if_it_never_was(
    encoder: Path, tmp_path: Path
) -> None:
    """Every run is killed at a later place than the one before; the last one is left alone."""
    files = write_files(tmp_path / "files")
    code, said = train("never", files, encoder, tmp_path / "whole")
    assert code == 0, said
    for point in POINTS[1:]:
        code, said = train(point, files, encoder, tmp_path / "killed")
        assert code == -signal.SIGKILL, f"{point}: {said}"
    code, said = train("never", files, encoder, tmp_path / "killed")
    assert code == 0, said
    assert said.count("skipped") >= 5, said
    whole, killed = artefacts(tmp_path / "whole"), artefacts(tmp_path / "killed")
    assert killed == whole
    assert len([name for name in whole if name.startswith("experts/")]) == 3
    assert not any("/." in name for name in killed), "something half-written was left"
    code, said = train("never", files, encoder, tmp_path / "killed")
    assert code == 0 and said.count("skipped") == 6, said
