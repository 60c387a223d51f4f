"""Runs other tests through an engine: python -m pytest tests/sql -p tests.daemon.through_engine

A plugin of pytest. The engine is a server of the same process, so that the scripted models of a
test are those of the engine, too. Tests that interrupt a call by the flag of their own process, or
raise KeyboardInterrupt inside of one, do not fit.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import meld_duckdb
from meld_duckdb.daemon import client, remote
from meld_duckdb.daemon.client import EngineClient
from meld_duckdb.daemon.places import places_of
from meld_duckdb.daemon.server import Engine, Server, make_engine
from meld_duckdb.register import load_functions
from meld_duckdb.settings import Settings

_UNFIT = (
    "test_an_interruption_stops_a_long_call_and_keeps_what_is_done",
    "test_a_killed_index_is_not_used_and_can_be_run_again",
)


class Engines:
    """An engine per settings, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Settings, tuple[Engine, Server, str]] = {}

    def connect(self, asking: remote.Remote) -> EngineClient:
        settings = asking._settings
        version = meld_duckdb.__version__
        if settings not in self._made:
            address = f"grpc+unix://{self._folder}/{len(self._made)}"
            workspace = places_of(settings).workspace
            engine = make_engine(settings, workspace, load_functions(), version)
            self._made[settings] = (engine, Server(address, engine), address)
        if not asking._identity[1]:
            asking._identity = (os.getpid(), client.new_identity())
        return EngineClient(
            settings, self._made[settings][2], version, asking._identity[1], asking._notice
        )

    def stop(self) -> None:
        for engine, server, _ in self._made.values():
            engine.workers.drain(5)
            server.shutdown()


@pytest.fixture(autouse=True)
def through_engine(
    no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    folder = Path(tempfile.mkdtemp(prefix="e"))
    engines = Engines(folder)

    def connect(asking: remote.Remote) -> EngineClient:
        return engines.connect(asking)

    monkeypatch.setattr(remote.Remote, "_mark", lambda self: "here")
    monkeypatch.setattr(remote.Remote, "_connect", connect)
    monkeypatch.setenv("MELD_ENGINE", "required")
    yield
    engines.stop()
    shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.name in _UNFIT:
            item.add_marker(pytest.mark.skip(reason="interrupts the process of the test"))
