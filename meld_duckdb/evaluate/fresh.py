"""A database and a workspace that nobody has used before."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from meld_duckdb.register import register
from meld_duckdb.starter import NONE


@contextmanager
def fresh_connection(
    keep: Path | None = None, **settings: object
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Open an in-memory database with a workspace of its own, and tell where that lies.

    Args:
        keep: Directory of the workspace; None for one that is gone afterwards.
        settings: Further settings of the connection. Without one, no starter: its experts have
            learned from the training splits of the very sets that are evaluated.
    """
    given = {"starter": NONE, **settings}
    with tempfile.TemporaryDirectory(prefix="meld-eval-") as folder:
        workspace = keep or Path(folder) / "workspace"
        connection = register(duckdb.connect(), workspace=workspace, progress=False, **given)
        try:
            # DuckDB prints its progress bar to standard output, where the report goes.
            connection.execute("SET enable_progress_bar = false")
            yield connection, workspace
        finally:
            connection.close()
