"""How records become text: JSON for prompts, ``COL a VAL v`` for the encoder.

Paper: MELD §4.1 (a serialiser into a standardised representation). We use one canonical JSON
object, columns in order and NULLs left out, instead of the reference's language-specific literals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from meld_duckdb.records import Record, is_key_column, is_missing, plain_text


def serialise(record: Record, max_chars: int = 2_000, *, keys: bool = True) -> str:
    """Render a record as one line of JSON for a prompt.

    JSON escapes quotes and control characters, and the angle brackets of the delimiters used by
    `as_data` are escaped too, so that no value can end the data section.

    Args:
        record: The record; missing values are left out.
        max_chars: Every value is cut to an even share of this many characters, short values
            leaving their share to long ones; a cut value ends in an ellipsis.
        keys: Whether columns that only number rows (see `is_key_column`) are shown.
    """
    texts = {
        name: plain_text(value, max_chars)
        for name, value in record.present.items()
        if keys or not is_key_column(name)
    }
    return _escape(json.dumps(_fit(texts, max_chars), ensure_ascii=False))


def embedding_text(record: Record, max_chars: int = 2_000) -> str:
    """Render a record Ditto-style, ``COL name VAL value``, for the encoder."""
    parts = (
        f"COL {name} VAL {plain_text(value, max_chars)}" for name, value in record.present.items()
    )
    return " ".join(parts)[:max_chars]


def as_data(tag: str, body: str) -> str:
    """Delimit data: what stands between the tags is never an instruction."""
    return f"<{tag}>{body}</{tag}>"


def quote(text: str, max_chars: int = 200) -> str:
    """Render one name or value as a JSON string that cannot end a data section."""
    return _escape(json.dumps(plain_text(text, max_chars), ensure_ascii=False))


def with_blank(record: Record, column: str) -> Record:
    """Return the record with ``column`` left out, so that its old value cannot leak."""
    return record.without(column) if not is_missing(record.fields.get(column)) else record


def _escape(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


_PER_FIELD = 8
"""Quotes, colon, comma and spaces around a name and its value."""

_LEAST_VALUE = 16
"""A column is shown if there is room for so many characters of its value."""


def _fit(texts: Mapping[str, str], max_chars: int) -> dict[str, str]:
    """Share the characters out: short values whole, long ones cut evenly, late columns dropped."""
    names: list[str] = []
    least = 0
    for name, text in texts.items():
        least += len(name) + _PER_FIELD + min(len(text), _LEAST_VALUE)
        if least > max_chars:
            break
        names.append(name)
    share: dict[str, str] = {}
    room = max_chars - sum(len(name) + _PER_FIELD for name in names)
    waiting = sorted(names, key=lambda name: len(texts[name]))
    for position, name in enumerate(waiting):
        keep = room // (len(waiting) - position)
        text = texts[name]
        share[name] = text if len(text) <= keep else text[: max(1, keep - 1)] + "…"
        room -= len(share[name])
    return {name: share[name] for name in names}
