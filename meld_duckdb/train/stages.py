"""Stages of training: each runs once for the same inputs, and leaves a record in the manifest.

A stage is skipped where its record names the same version, settings and inputs; what a killed run
had finished is not done again.
"""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld_duckdb.locks import FileLock
from meld_duckdb.records import digest
from meld_duckdb.workspace import Workspace, change_manifest, read_manifest

_LOG = logging.getLogger(__name__)

Metrics = Mapping[str, Any]
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Its name in the manifest, with the task it is about.
        version: Raised whenever the same inputs could give another result.
        inputs: What the result depends on: settings, digests of what is read.
        work: Does it: writes files, gives metrics.
        is_done: Tells whether what it wrote is still there.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    work: Callable[[], Metrics]
    is_done: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a stage: its metrics, seconds, and whether it was done before."""

    name: str
    metrics: Metrics
    seconds: float
    skipped: bool


def run_stage(
    workspace: Workspace, lock: FileLock, stage: Stage, notice: Notice, left: str = ""
) -> Finished:
    """Run a stage, or skip it if its record says that nothing changed.

    Args:
        workspace: Where its record is kept.
        lock: The write lock of the workspace, held while the record is written.
        stage: The stage.
        notice: Called with a line when it begins and ends.
        left: How long it takes with all that follows, in words.
    """
    key = digest("stage", stage.name, str(stage.version), *stage.inputs)
    record = read_stages(workspace).get(stage.name)
    if record is not None and record["key"] == key and stage.is_done():
        notice(f"{stage.name}: unchanged since {record['finished_at']}, skipped")
        return Finished(stage.name, record["metrics"], float(record["seconds"]), skipped=True)
    notice(f"{stage.name}: started{left and f', {left}'}")
    if record is not None:  # what it describes is about to be replaced
        _forget(workspace, lock, stage.name)
    started = time.perf_counter()
    metrics = dict(stage.work())
    seconds = round(time.perf_counter() - started, 1)
    _record(
        workspace,
        lock,
        stage.name,
        {
            "key": key,
            "version": stage.version,
            "metrics": metrics,
            "seconds": seconds,
            "finished_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        },
    )
    shown = ", ".join(f"{name} {value}" for name, value in metrics.items())
    _LOG.info("stage %s: %s, %.1f s", stage.name, shown, seconds)
    notice(f"{stage.name}: {shown} ({seconds} s)")
    return Finished(stage.name, metrics, seconds, skipped=False)


def clear_half_written(*folders: Path) -> None:
    """Remove what killed runs left half-written; only while nobody else trains."""
    for folder in folders:
        for part in folder.glob(".*"):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def read_stages(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Records of all finished stages, by name."""
    stages: dict[str, dict[str, Any]] = read_manifest(workspace).get("stages", {})
    return stages


def _forget(workspace: Workspace, lock: FileLock, name: str) -> None:
    change_manifest(workspace, lock, lambda manifest: manifest["stages"].pop(name, None))


def _record(workspace: Workspace, lock: FileLock, name: str, record: dict[str, Any]) -> None:
    def enter(manifest: dict[str, Any]) -> None:
        manifest.setdefault("stages", {})[name] = record

    change_manifest(workspace, lock, enter)
