"""Data imputation (DI)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "impute",
    "VARCHAR",
    "row, column",
    "The value that belongs in a column of a row; NULL where none is likely enough.",
    extra=("ranking",),
)
