"""Column type annotation: a column as an item that has one of the types."""

from __future__ import annotations

import json
from collections.abc import Mapping

from meld_duckdb import safe_json
from meld_duckdb.features.fit_options import Item
from meld_duckdb.records import is_missing

MOST_VALUES = 20
"""Distinct values of a column that are looked at, the first ones."""

_SHOWN_VALUES = 12
_VALUE_CHARS = 60
_VALUES_CHARS = 300
_LIST_CHARS = 200_000


def column_item(fields: Mapping[str, str | None]) -> Item:
    """Read the record of a column: ``title``, ``header``, ``values``; any may be absent."""
    values = read_values(fields.get("values"))
    return Item(
        {
            "title": present_text(fields.get("title")),
            "header": present_text(fields.get("header")),
            "values": joined(values),
        },
        values,
    )


def read_values(text: str | None, limit: int = MOST_VALUES) -> tuple[str, ...]:
    """The first distinct values of a JSON list; missing ones are left out.

    A text that is no JSON list is one value; of a list longer than 200,000 characters the part
    that can be read is.
    """
    if text is None or is_missing(text):
        return ()
    items = _items(text[:_LIST_CHARS])
    found: dict[str, None] = {}
    for item in items:
        value = item if isinstance(item, str) else "" if item is None else json.dumps(item)
        if not is_missing(value):
            found.setdefault(value[:500].strip())
        if len(found) >= limit:
            break
    return tuple(found)


def _items(text: str) -> list[object]:
    if text[:1] != "[":
        return [text]
    try:
        found = safe_json.loads(text)
    except ValueError:
        return list(_readable(text))
    return found if isinstance(found, list) else [found]


def _readable(text: str) -> list[str]:
    """The values at the start of a list that was cut."""
    cut = text.rfind('",', 0, 20_000)
    try:
        found = safe_json.loads(text[: cut + 1] + "]") if cut > 0 else [text]
    except ValueError:
        found = [text]
    return [str(value) for value in found if value is not None]


def joined(values: tuple[str, ...]) -> str:
    """A sample of values as one text for the encoder."""
    shown = (value[:_VALUE_CHARS].strip() for value in values[:_SHOWN_VALUES])
    return ", ".join(shown)[:_VALUES_CHARS]


def present_text(text: str | None) -> str:
    """A text, empty where it is missing."""
    return "" if text is None or is_missing(text) else text[:2000]
