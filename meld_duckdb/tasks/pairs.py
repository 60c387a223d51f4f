"""The text pairs that a cross-encoder reads: a question beside each of its options.

A binary task is one pair, a task with options one pair per option. The text is plain,
``title: sony tv | price: 99``: names and values, no markup, because the encoder has a short memory.
Columns that only number rows are left out, as in prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meld_duckdb import safe_json
from meld_duckdb.records import Record, is_key_column, is_missing, plain_text
from meld_duckdb.tasks.base import Query

MAX_CHARS = 600
"""Characters of either text; the cross-encoder cuts further by tokens."""

TEXT_VERSION = 1
"""Changes whenever the same question could give other texts: experts trained before do not fit."""

BINARY = frozenset({"match", "schema_match", "detect_error"})
"""Tasks whose question is one pair of texts."""

CHOOSING = frozenset({"annotate_column", "extract_relation", "link_entity", "impute", "repair"})
"""Tasks whose question is one pair of texts per option, where it has options."""

TextPair = tuple[str, str]


def option_pairs(task: str, query: Query) -> list[TextPair]:
    """Word a question for a cross-encoder.

    Args:
        task: Name of the task.
        query: The question; for a task that chooses, its ``domain`` holds the options. Both
            records of a symmetric task are put into one order, whatever order they come in.

    Returns:
        One pair of texts for a binary task, else one per option in the order of the domain: none
        where the question has no options, or where no cross-encoder reads such a task.

    Paper: MELD §4.3 (experts answer from the serialised tuple); a cross-encoder is our addition.
    """
    if task in {"match", "schema_match"}:
        return [_two_records(query, keys=task == "schema_match")]
    if task == "detect_error":
        return [_cell(query)]
    domain = query.domain or ()
    if task == "link_entity":
        asked = record_text(query.records[0])
        return [(asked, record_text(record, keys=False)) for record in query.records[1:]]
    if task in {"impute", "repair"}:
        asked, column = _without_target(query), query.target or ""
        return [(asked, _said(column, option)) for option in domain]
    if task in CHOOSING:
        asked = record_text(query.records[0])
        return [(asked, plain_text(option, MAX_CHARS)) for option in domain]
    return []


def record_text(record: Record, *, keys: bool = True) -> str:
    """Render a record for a cross-encoder; missing values are left out, lists are joined."""
    shown = {
        name: value for name, value in record.present.items() if keys or not is_key_column(name)
    }
    return _join(shown)


def _two_records(query: Query, *, keys: bool) -> TextPair:
    first, second = sorted(query.records[:2], key=lambda record: record.digest)
    return record_text(first, keys=keys), record_text(second, keys=keys)


def _cell(query: Query) -> TextPair:
    column = query.target or ""
    value = query.records[0].fields.get(column)
    return _without_target(query), _said(column, "" if is_missing(value) else value or "")


def _without_target(query: Query) -> str:
    return _join({n: v for n, v in query.records[0].present.items() if n != query.target})


def _said(column: str, value: str) -> str:
    return plain_text(f"{column}: {value}", MAX_CHARS)


def _join(values: Mapping[str, str]) -> str:
    parts = (f"{name}: {plain_text(_flat(value), MAX_CHARS)}" for name, value in values.items())
    return " | ".join(parts)[:MAX_CHARS]


def _flat(value: str) -> str:
    """A JSON list as its values, without quotes and brackets; any other text as it is."""
    if not value.startswith("["):
        return value
    try:
        items = safe_json.loads(value)
    except ValueError:
        return value
    return ", ".join(_items(items)) if isinstance(items, list) else value


def _items(items: Iterable[object]) -> Iterable[str]:
    return (str(item) for item in items if item is not None)
