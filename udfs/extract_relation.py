"""Relation extraction (RE)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "extract_relation",
    "VARCHAR",
    "subjects, objects, relations",
    "Which of the relations leads from one column to another; options title, subject_header, "
    "object_header.",
    extra=("ranking",),
)
