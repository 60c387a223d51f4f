"""What a report was made with: settings, versions, models; and what the workspace has stored."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from meld_duckdb import __version__
from meld_duckdb.errors import MeldError
from meld_duckdb.models import Kind, locate, model_digest
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.settings import Settings
from meld_duckdb.workspace import Workspace, is_workspace

if TYPE_CHECKING:
    import duckdb

_LIBRARIES = ("duckdb", "pyarrow", "torch", "transformers", "lancedb", "scikit-learn")


def versions() -> list[tuple[str, str]]:
    """Name and version of what computes answers."""
    found = [("meld-duckdb", __version__), ("Python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def models(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Use, name and digest of the models that the settings name; nothing is loaded."""
    kinds: tuple[tuple[str, Kind], ...] = (
        (settings.answer.encoder, "encoder"),
        (settings.answer.model, "language model"),
    )
    for name, kind in kinds:
        try:
            yield kind, name, model_digest(locate(name, settings.model_dir, kind))
        except MeldError as error:
            yield kind, name, error.what


def experts(con: duckdb.DuckDBPyConnection) -> list[tuple[str, ...]]:
    """Trained experts: name, tier, task, whether they are used and why."""
    rows = con.execute(
        "SELECT expert, tier, task, used, reason FROM meld.experts() ORDER BY ALL"
    ).fetchall()
    return [(e, str(t), task, "yes" if used else "no", why) for e, t, task, used, why in rows]


def settings_rows(con: duckdb.DuckDBPyConnection) -> list[tuple[str, ...]]:
    """Key, value and source of every setting."""
    rows = con.execute("SELECT key, value, source FROM meld.settings()").fetchall()
    return [tuple(map(str, row)) for row in rows]


def stored(settings: Settings, bins: int) -> list[tuple[str, int, int, int]]:
    """The stored answers of a workspace, see `AnswerCache.summary`; none where there is none."""
    path = Workspace(settings.workspace.absolute()).cache_path
    if not is_workspace(settings.workspace) or not path.is_file():
        return []
    return AnswerCache(path).summary(bins)
