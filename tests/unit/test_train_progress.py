"""Progress of a stage, told by its steps."""

from __future__ import annotations

import pytest

from meld_duckdb.cli import train_progress


def test_steps_tell_how_long_they_and_all_that_follows_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(train_progress.time, "monotonic", lambda: now[0])
    shown = train_progress.Progress()
    shown.rest_s = lambda: 60.0
    for done in range(1, 5):
        shown.step("tuning", done, 4)
        now[0] += 20.0
    shown.line("[5/6] embed: started")
    assert capsys.readouterr().err.splitlines() == [
        "tuning: 1 of 4",
        "tuning: 2 of 4, about 40 s left, 1 min 40 s in all",
        "tuning: 3 of 4, about 20 s left, 1 min 20 s in all",
        "tuning: 4 of 4, about 0 s left, 1 min 0 s in all",
        "[5/6] embed: started",
    ]


def test_steps_between_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_progress.time, "monotonic", lambda: 100.0)
    shown = train_progress.Progress()
    for done in range(1, 101):
        shown.step("tuning", done, 100)
    assert len(capsys.readouterr().err.splitlines()) == 2
