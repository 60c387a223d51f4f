"""Column type annotation (CTA)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "annotate_column",
    "VARCHAR",
    "values, types",
    "Which of the types the values of a column have; options header, title.",
    extra=("ranking",),
)
