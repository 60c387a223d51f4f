"""The data set as knowledge (DaK): what a schema says of its own tables and columns.

Paper: KcMF §3.3 and Algorithm 1, which looks through all pairs for every pair. Here the objects of
a schema and what is said of them are one dictionary, made once in time linear in the text; an item
mentions an object where its words stand there whole and in a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from meld_duckdb.features.schema_match import column_parts
from meld_duckdb.features.schema_words import STOP
from meld_duckdb.features.text import fold, words
from meld_duckdb.records import Record

MOST_FACTS = 4
_LONGEST = 5
_COMMON = 3
"""A column name that stands in more tables than this names nothing in particular."""

_CHARS = 1_000
_GENERIC = STOP | frozenset(
    "id identifier name code type date time status text number key start stop end total source "
    "amount unit system class category order version note comment title row table data".split()
)

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a table or column.

    Attributes:
        name: As it is written.
        description: What is said of it.
        table: Key of its table: itself for a table.
    """

    name: str
    description: str
    table: Words


class SchemaKnowledge:
    """The objects of some schemas, by the words of their names.

    Args:
        columns: Records of ``schema_match``, of all schemas, in order.
    """

    def __init__(self, columns: Iterable[Record]) -> None:
        rows = [column_parts(record) for record in columns]
        said = _first_mentions(rows)
        self._entries: dict[Words, Entry] = {}
        tables: dict[Words, tuple[str, str]] = {}
        spread: Counter[Words] = Counter()
        for row in rows:
            table = _key(row["table"])
            if table:
                _, known = tables.get(table, ("", ""))
                tables[table] = (row["table"], known or row["table_description"])
            spread[_key(row["column"])] += 1
        for key, (name, description) in tables.items():
            mention = said.get(key)
            found = description or (mention if mention is not None else "")
            if found and not _is_generic(key):
                self._entries[key] = Entry(name, found, key)
        for row in rows:
            key, table = _key(row["column"]), _key(row["table"])
            specific = not _is_generic(key) and spread[key] <= _COMMON
            if specific and row["description"] and key not in self._entries:
                self._entries[key] = Entry(row["column"], row["description"], table)

    def about(self, items: Sequence[Record], most: int = MOST_FACTS) -> tuple[str, ...]:
        """What is known of the objects that items mention, but are not of themselves.

        Tables come before columns, then by where they are mentioned.

        Args:
            items: The columns of one question.
            most: How many sentences at most.
        """
        own = [column_parts(record) for record in items]
        shown = {_key(row["table"]) for row in own}
        named = {_key(row["column"]) for row in own}
        found: dict[Words, Entry] = {}
        for row in own:
            for text in (row["column"], row["description"], row["table_description"]):
                for key in _phrases(text):
                    entry = self._entries.get(key)
                    if entry is None or entry.table in shown or key in named:
                        continue
                    found.setdefault(key, entry)
        ranked = sorted(found.items(), key=lambda pair: pair[0] != pair[1].table)
        return tuple(f"{entry.name}: {entry.description}" for _, entry in ranked[:most])

    def __len__(self) -> int:
        return len(self._entries)


def _key(name: str) -> Words:
    """The words of a name, split at underscores only: as a description would write it."""
    return tuple(words(fold(name.replace("_", " "), _CHARS)))


def _is_generic(key: Words) -> bool:
    return not key or len(key) > _LONGEST or (len(key) == 1 and key[0] in _GENERIC)


def _phrases(text: str) -> Iterator[Words]:
    """All runs of up to five words, longest first at each place."""
    found = words(fold(text.replace("_", " "), _CHARS))
    for start in range(len(found)):
        for length in range(min(_LONGEST, len(found) - start), 0, -1):
            yield tuple(found[start : start + length])


def _first_mentions(rows: Sequence[dict[str, str]]) -> dict[Words, str]:
    """For each phrase that names a table, the first description of another table that has it."""
    names = {_key(row["table"]) for row in rows} - {()}
    found: dict[Words, str] = {}
    read: set[str] = set()
    for row in rows:
        own = _key(row["table"])
        for text in (row["table_description"], row["description"]):
            if not text or text in read:
                continue
            read.add(text)
            for phrase in _phrases(text):
                if phrase in names and phrase != own:
                    found.setdefault(phrase, text)
    return found
