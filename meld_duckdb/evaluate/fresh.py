"""A database and a workspace that nobody has used before."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from meld_duckdb.register import connect


@contextmanager
def fresh_connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database with a workspace of its own; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="meld-eval-") as folder:
        connection = connect(":memory:", workspace=Path(folder) / "workspace", progress=False)
        try:
            # DuckDB prints its progress bar to standard output, where the report goes.
            connection.execute("SET enable_progress_bar = false")
            yield connection
        finally:
            connection.close()
