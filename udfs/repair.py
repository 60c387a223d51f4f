"""Repair (DC)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "repair",
    "VARCHAR",
    "row, column",
    "The right value of a column of a row; the one that stands there if nothing is wrong, "
    "NULL if nothing should stand there.",
    extra=("changed", "ranking"),
)
