"""Entity matching (EM)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "match", "BOOLEAN", "a, b", "Whether two records describe the same entity."
)
