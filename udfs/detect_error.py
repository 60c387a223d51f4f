"""Error detection (ED)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "detect_error", "BOOLEAN", "row, column", "Whether the value in a column of a row is wrong."
)
