"""Stages run once for the same inputs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.locks import FileLock
from meld_duckdb.progress import duration
from meld_duckdb.train.schedule import Schedule
from meld_duckdb.train.stages import Stage, read_stages, run_stage
from meld_duckdb.workspace import Workspace, change_manifest, open_workspace, read_manifest


def lock_of(workspace: Workspace) -> FileLock:
    return FileLock(workspace.write_lock_path, "which tests")


def counting(calls: list[int]) -> Stage:
    def work() -> Mapping[str, Any]:
        calls.append(1)
        return {"rows": 3}

    return Stage("count", 1, ("a", "b"), work)


def test_a_finished_stage_is_skipped_until_something_changes(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    calls: list[int] = []
    stage = counting(calls)
    lines: list[str] = []
    first = run_stage(workspace, lock_of(workspace), stage, lines.append)
    again = run_stage(workspace, lock_of(workspace), stage, lines.append)
    assert (first.skipped, again.skipped, len(calls)) == (False, True, 1)
    assert again.metrics == first.metrics == {"rows": 3}
    assert "skipped" in lines[-1] and "rows 3" in lines[-2]
    for changed in (replace(stage, inputs=("a", "c")), replace(stage, version=2)):
        assert not run_stage(workspace, lock_of(workspace), changed, lines.append).skipped
    assert not run_stage(
        workspace,
        lock_of(workspace),
        replace(stage, version=2, is_done=lambda: False),
        lines.append,
    ).skipped
    assert len(calls) == 4


def test_parts_of_the_inputs_are_kept_apart(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    calls: list[int] = []
    run_stage(workspace, lock_of(workspace), counting(calls), lambda line: None)
    assert not run_stage(
        workspace, lock_of(workspace), replace(counting(calls), inputs=("ab",)), lambda line: None
    ).skipped


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)

    def work() -> Mapping[str, Any]:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        run_stage(workspace, lock_of(workspace), Stage("broken", 1, (), work), lambda line: None)
    assert read_stages(workspace) == {}


def test_a_stage_keeps_the_rest_of_the_manifest(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    run_stage(workspace, lock_of(workspace), counting([]), lambda line: None)
    assert set(read_stages(workspace)) == {"count"}
    assert open_workspace(tmp_path) == workspace


def test_what_two_processes_write_to_the_manifest_is_both_kept(tmp_path: Path) -> None:
    """A stage that ends while another process changes the manifest waits for it."""
    workspace = open_workspace(tmp_path)
    inside, ended = threading.Event(), threading.Event()

    def slow(manifest: dict[str, Any]) -> None:
        inside.set()
        ended.wait(0.3)  # a record written meanwhile would be lost
        manifest["other"] = 1

    other = threading.Thread(target=change_manifest, args=(workspace, lock_of(workspace), slow))
    other.start()
    inside.wait()
    run_stage(workspace, lock_of(workspace), counting([]), lambda line: None)
    ended.set()
    other.join()
    assert set(read_stages(workspace)) == {"count"}
    assert read_manifest(workspace)["other"] == 1


def test_a_run_says_where_it_is_and_how_long_it_takes_by_what_it_took() -> None:
    schedule = Schedule(["a", "b", "c"], {"a": {"seconds": 10.0}, "c": {"seconds": 3600.0}})
    assert (schedule.begin("a"), schedule.left) == ("[1/3] ", "more than 1 h 0 min left in all")
    assert schedule.rest_s == 3600.0
    assert schedule.begin("new") == "[2/4] ", "a stage that nobody had announced"
    assert (schedule.begin("c"), schedule.left) == ("[4/4] ", "about 1 h 0 min left in all")
    assert schedule.rest_s == 0.0
    unknown = Schedule(["a"], {})
    assert (unknown.begin("a"), unknown.left) == ("[1/1] ", "")
    assert [duration(s) for s in (5.4, 200, 4000)] == ["5 s", "3 min 20 s", "1 h 6 min"]
