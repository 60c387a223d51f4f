from __future__ import annotations

from typing import Any

import duckdb


def one(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The only row of a query; its only value where it has one column."""
    [row] = con.execute(sql).fetchall()
    return row[0] if len(row) == 1 else row
