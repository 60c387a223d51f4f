"""How far a call is, told by the engine to the process that waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import meld_duckdb
from meld_duckdb import progress
from tests.daemon.conftest import Start
from tests.daemon.test_calls import ask


def test_the_client_hears_how_far_the_engine_is(
    start: Start, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    heard: list[Mapping[str, object]] = []
    monkeypatch.setattr(progress, "received", heard.append)
    con = meld_duckdb.connect(engine="required")
    con.sql(ask(60)).fetchall()
    prompts = [state["prompts"] for state in heard]
    assert len(prompts) > 1 and prompts == sorted(prompts)  # type: ignore[type-var]
    assert heard[-1]["asked"] == 60 and heard[-1]["total"] == 0
