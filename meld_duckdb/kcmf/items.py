"""What KcMF calls an item: one side of a question, as name and description.

Paper: KcMF §2.2 and A.2. Of a schema column the name is ``table-column`` and the description
``table description;column description``; of a record the name is its title and the description
its other columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meld_duckdb.features.schema_match import column_parts
from meld_duckdb.records import Record, is_key_column, make_record, plain_text
from meld_duckdb.tasks.serialise import serialise

_TITLES = ("name", "title", "entity", "label", "text")
"""Columns that name a thing, in any case; else its first one does."""

_NAME_CHARS = 200
_VALUES_CHARS = 300


@dataclass(frozen=True, slots=True)
class Item:
    """One side of a question.

    Attributes:
        name: What it is called.
        description: What else is known; empty for nothing. Keywords are looked for in name and
            description only.
        record: What it was read from.
        values: Sample values of a column; empty for none.
    """

    name: str
    description: str
    record: Record
    values: str = ""

    def shown(self, max_chars: int) -> str:
        """As one line of JSON of about ``max_chars`` characters, see `serialise`."""
        fields = {"name": self.name, "description": self.description, "values": self.values}
        return serialise(make_record({k: v for k, v in fields.items() if v}), max_chars)


def schema_item(record: Record) -> Item:
    """A column of a schema; sample values are part of it only if the record has them."""
    parts = column_parts(record)
    name = "-".join(p for p in (parts["table"], parts["column"]) if p)
    said = [parts["table_description"], parts["description"]]
    if parts["type"]:
        said.append(f"type {parts['type']}")
    description = ";".join(part for part in said if part)
    return Item(name[:_NAME_CHARS], description, record, parts["values"][:_VALUES_CHARS])


def entity_item(record: Record) -> Item:
    """A record; columns that only number rows are left out."""
    present = {name: v for name, v in record.present.items() if not is_key_column(name)}
    by_case = {name.lower(): name for name in present}
    title = next((by_case[t] for t in _TITLES if t in by_case), next(iter(present), None))
    rest = [f"{name}: {value}" for name, value in present.items() if name != title]
    name = "" if title is None else plain_text(present[title], _NAME_CHARS)
    return Item(name, "; ".join(rest), record)


ITEMS: dict[str, Callable[[Record], Item]] = {
    "schema_match": schema_item,
    "entity_match": entity_item,
}
"""How a record becomes an item, by kind of matching."""
