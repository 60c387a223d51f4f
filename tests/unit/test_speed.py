"""How fast the machine works: what is remembered, and what it says of the next call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meld_duckdb.planner.speed import MeasuredBackend, Speeds, prompt_kind
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import ScriptedBackend, first_choice

CHOOSE = Prompt("choose", (), "a?", choices=("x", "y"))
WRITE = Prompt("write", (), "a?")


def test_rates_are_kept_across_processes_and_small_calls_do_not_count(tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speed.json")
    assert speeds.per_unit("k") is None
    speeds.note("k", 10, 5.0)
    assert speeds.per_unit("k") == pytest.approx(0.5)
    speeds.note("k", 100, 10.0)
    speeds.note("k", 100, 20.0)
    assert Speeds(tmp_path / "speed.json").per_unit("k") == pytest.approx(0.15)
    speeds.note("k", 0, 9.0)
    speeds.note_loading("model", 3.0)
    assert speeds.per_unit("k") == pytest.approx(0.15)
    assert speeds.loading("model") == pytest.approx(3.0)


def test_the_last_calls_count(tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speed.json")
    for seconds in (100.0, *[1.0] * 8):
        speeds.note("k", 1, seconds)
    assert speeds.per_unit("k") == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", "[]", '{"k": 3}', '{"k": [["a", 1]]}', "\x00"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "speed.json").write_text(text)
    speeds = Speeds(tmp_path / "speed.json")
    assert speeds.per_unit("k") is None
    speeds.note("k", 2, 1.0)
    assert speeds.per_unit("k") == pytest.approx(0.5)
    assert json.loads((tmp_path / "speed.json").read_text())


def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "nowhere" / "speed.json")
    speeds.note("k", 2, 1.0)
    assert speeds.per_unit("k") == pytest.approx(0.5)


def test_a_backend_is_measured_by_kind_of_prompt() -> None:
    def script(prompt: Prompt) -> Completion:
        if prompt.question == "long":
            return Completion(None, prompt_tokens=999, error="prompt_too_long: 999 tokens")
        return first_choice(prompt)

    speeds = Speeds(None)
    backend = MeasuredBackend(ScriptedBackend(script), speeds)
    found = dict(pair for part in backend.complete([CHOOSE] * 5) for pair in part)
    assert [found[i].text for i in range(5)] == ["x"] * 5
    assert speeds.per_unit(prompt_kind("scripted", CHOOSE)) is not None
    assert speeds.per_unit(prompt_kind("scripted", WRITE)) is None
    list(backend.complete([CHOOSE, WRITE]))  # of several clients: it tells nothing
    assert speeds.per_unit(prompt_kind("scripted", WRITE)) is None
    list(backend.complete([Prompt("write", (), "long")]))
    assert speeds.per_unit(prompt_kind("scripted", WRITE)) is None
