from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import hypothesis
import pytest

import meld_duckdb
from meld_duckdb import service
from meld_duckdb.planner import loaded
from tests.scripted import HashingEncoder, ScriptedBackend, counted

hypothesis.settings.register_profile("meld", deadline=None, derandomize=True)
hypothesis.settings.load_profile("meld")

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Every test has its own workspace and no ``MELD_*`` variable but the model cache."""
    for name in [n for n in os.environ if n.startswith("MELD_") and n != "MELD_MODEL_DIR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MELD_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("MELD_PROGRESS", "false")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    for settings in [s for s in service._SESSIONS if tmp_path in s.workspace.parents]:
        del service._SESSIONS[settings]  # their files stay open for the life of a process


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedBackend:
    """A scripted language model and encoder in the place of the real ones."""
    scripted = ScriptedBackend()
    kind = loaded.BackendKind(
        lambda *given: "scripted",
        lambda *given: scripted,
        open_counting=lambda *given: ScriptedBackend(counted),
    )
    monkeypatch.setitem(loaded.BACKENDS, "transformers", kind)
    monkeypatch.setattr(loaded.models, "locate", lambda *arguments: tmp_path)
    monkeypatch.setattr(loaded.models, "model_digest", lambda path: "scripted")
    monkeypatch.setattr(loaded, "Encoder", lambda *arguments, **options: HashingEncoder())
    return scripted


@pytest.fixture
def con(backend: ScriptedBackend) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database with all functions, on the scripted models."""
    connection = meld_duckdb.connect()
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def data() -> Path:
    """The benchmark data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"the benchmark data is not at {DATA}")
    return DATA
