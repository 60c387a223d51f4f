"""Schema matching (SM)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "schema_match",
    "BOOLEAN",
    "a, b",
    "Whether two columns, as STRUCT(table, column, description), mean the same.",
)
