from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.daemon import lifecycle
from meld_duckdb.daemon.options import Options
from meld_duckdb.settings import resolve
from tests.daemon.served import Served
from tests.scripted import ScriptedBackend

PROGRAM = (sys.executable, str(Path(__file__).parent / "serve_scripted.py"))

Start = Callable[..., dict[str, Any]]


def silent(text: str) -> None:
    """Tell nobody."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts engines on scripted models, real processes; kills what is left of them."""
    started: list[int] = []

    def run(
        options: Options | None = None, tell: Callable[[str], None] = silent, **given: object
    ) -> dict[str, Any]:
        settings, _ = resolve(given)
        status = lifecycle.start(settings, options or Options(), PROGRAM, tell)
        started.append(status["pid"])
        return status

    yield run
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prompt costs a twentieth of a second in engines started from now on."""
    monkeypatch.setenv("MELD_TEST_SLEEP", "0.05")


@pytest.fixture
def served(backend: ScriptedBackend) -> Iterator[Served]:
    """An engine of this process, and a client of it."""
    folder = Path(tempfile.mkdtemp(prefix="m"))
    served = Served(folder)
    yield served
    served.raw.close()
    served.client.close()
    served.engine.workers.drain(5)
    served.server.shutdown()
    shutil.rmtree(folder)
