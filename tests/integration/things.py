"""Two small tables of products and labels of their pairs, in files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from meld_duckdb.train.cross_encoder import T1Settings
from meld_duckdb.train.encoder import EncoderSettings
from meld_duckdb.train.pipeline import TrainSettings

COLOURS = ("red", "blue", "green")
SIZES = ("big", "small", "one", "two", "three", "four")
THINGS = [(c, s) for c in COLOURS for s in SIZES]

QUICK = TrainSettings(
    encoder=EncoderSettings(
        rank=4, learning_rate=2e-2, epochs=3, batch_size=8, part=4, max_tokens=24, least_gain=-1.0
    ),
    expert=T1Settings(rank=2, alpha=4, max_tokens=24, epochs=1, folds=2),
)
"""Settings by which a small encoder is tuned in seconds, and is kept."""


@dataclass(frozen=True)
class Files:
    """What is written: tables, and labels that name their rows by id."""

    folder: Path

    @property
    def left(self) -> Path:
        return self.folder / "left.csv"

    @property
    def right(self) -> Path:
        return self.folder / "right.parquet"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.csv"

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``meld train`` that name all of them."""
        tables = ["--left", str(self.left), "--right", str(self.right)]
        return [str(self.labels), "--task", "match", *tables]


def write_files(folder: Path) -> Files:
    """Write both tables and labels: of even rows for training, of a few others for test."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder)
    n = len(THINGS)
    with duckdb.connect() as con:
        for name, words, path in (
            ("l", "sony {} {} tv", files.left),
            ("r", "canon {} {} camera", files.right),
        ):
            con.execute(f"CREATE TABLE {name} (id INTEGER, title VARCHAR)")
            rows = [(i, words.format(*thing)) for i, thing in enumerate(THINGS)]
            con.executemany(f"INSERT INTO {name} VALUES (?, ?)", rows)
            con.execute(f"COPY {name} TO '{path}'")
        con.execute(
            "COPY (SELECT l.id AS ltable_id, r.id AS rtable_id, (l.id = r.id)::INTEGER AS label, "
            f"CASE WHEN l.id = {n - 2} THEN 'test' WHEN l.id = {n - 4} THEN 'valid' ELSE 'train' END "
            "AS split FROM l, r WHERE l.id % 2 = 0 AND r.id - l.id BETWEEN 0 AND 2 "
            f"ORDER BY l.id, r.id) TO '{files.labels}'"
        )
    return files


def run_script(
    script: str, arguments: Sequence[str], settings: Mapping[str, object]
) -> tuple[int, str]:
    """Run Python text in a process of its own, which may kill itself.

    Args:
        script: The text.
        arguments: Its arguments.
        settings: Settings of the product, for example ``{"workspace": ...}``.

    Returns:
        Exit code and standard error.
    """
    given = {f"MELD_{name.upper()}": str(value) for name, value in settings.items()}
    path = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **given, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stderr
