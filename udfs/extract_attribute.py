"""Attribute value extraction (AVE)."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction, family

FUNCTIONS: tuple[SqlFunction, ...] = family(
    "extract_attribute",
    "VARCHAR",
    "text, attribute",
    "The value of an attribute that a text or row states; NULL where it states none.",
    extra=("ranking",),
)
