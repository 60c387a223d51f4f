"""Training on a disk without space: it says so, and the next run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.runs import remount, small_disk
from tests.integration.things import run_script, write_files
from tests.unit.tiny_encoder import save_tiny_encoder

SCRIPT = """
import sys
from dataclasses import replace
from meld_duckdb.cli.main import main
from meld_duckdb.train import pipeline
from tests.integration.things import QUICK

pipeline.TrainSettings = lambda held_out, mixture: replace(QUICK, held_out=held_out)
sys.argv = ["meld", "train", *sys.argv[1:]]
main()
"""


@pytest.mark.timeout(900)
def test_a_full_disk_is_one_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    files = write_files(tmp_path / "files")
    encoder = save_tiny_encoder(tmp_path / "encoder")
    with small_disk(tmp_path / "disk", 400) as disk:
        settings = {"encoder": encoder, "workspace": disk / "w", "starter": "none"}
        code, said = run_script(SCRIPT, files.arguments, settings)
        assert code == 1, said
        [line] = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "[MELD-E030] there is no space left" in line and "Hint: make space" in line
        assert "[4/6] encoder: started" in said
        stages = json.loads((disk / "w" / "manifest.json").read_text())["stages"]
        assert len(stages) == 3
        remount(disk, "size=20m")
        code, said = run_script(SCRIPT, files.arguments, settings)
        assert code == 0, said
        assert said.count("skipped") == 3
