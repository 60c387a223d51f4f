"""How a file of labels is laid out, told by the names of its columns.

    arguments   a | b | answer                               a column per argument of the function
    flat pairs  left_title | ... | right_title | ... | label  a column per field of either record
    ids         ltable_id | rtable_id | label                the records stand in two tables

The last two are for tasks about two records; the middle one is that of Magellan, and of the
schema-matching sets (``source_...``, ``target_...``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.planner.questions import SHAPES
from meld_duckdb.tasks import TASKS

Kind = Literal["arguments", "flat pairs", "ids"]

ANSWER_COLUMNS = ("answer", "label")
"""The first that is there holds the answers."""

SPLIT_COLUMN = "split"

SIDES = (("left_", "right_"), ("ltable_", "rtable_"), ("source_", "target_"))
"""What the columns of the two records of a pair begin with."""

_ALIASES = {"column": ("column", "col")}
_SCHEMA_FIELDS = ("table", "column", "description", "table_description")
"""Order of a schema column's fields, as in the examples of ``meld_schema_match``."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a label stand.

    Attributes:
        kind: See the module.
        answer: Column of the answers.
        split: Column of the splits, None where there is none.
        parts: Name of an argument to its column, for ``"arguments"``.
        left: Name of a field of the left record to its column; of the id alone for ``"ids"``.
        right: Likewise.
        unread: Columns that nothing is read from.
    """

    kind: Kind
    answer: str
    split: str | None
    parts: Mapping[str, str]
    left: Mapping[str, str]
    right: Mapping[str, str]
    unread: tuple[str, ...]

    def query(self, row: Mapping[str, object]) -> dict[str, object]:
        """The parts of a row's question, for a layout that holds its records itself."""
        if self.kind == "arguments":
            return {name: row[column] for name, column in self.parts.items()}
        sides = ((name, row[column]) for name, column in self.left.items())
        others = ((name, row[column]) for name, column in self.right.items())
        return {"a": _record(dict(sides)), "b": _record(dict(others))}


def _record(fields: dict[str, object]) -> dict[str, object] | None:
    """A record; None where all of it is NULL."""
    return fields if any(value is not None for value in fields.values()) else None


def detect_layout(
    task: str, columns: Sequence[str], source: str, keys: Sequence[str] = ("id", "id")
) -> Layout:
    """Tell the layout of a file from the names of its columns, in any case.

    Args:
        task: Name of the task.
        columns: The names.
        source: The file, for messages.
        keys: Key columns of the left and right table, if ids are to be looked up.

    Raises:
        InputError: The task is unknown, or columns are missing.
    """
    if task not in TASKS:
        what, hint = unknown_name("task", task, TASKS)
        raise InputError(what, hint=hint)
    actual = {name.lower(): name for name in reversed(columns)}
    answer = next((actual[name] for name in ANSWER_COLUMNS if name in actual), None)
    split = actual.get(SPLIT_COLUMN)
    parts = _arguments(task, actual)
    left, right = _sides(task, columns) if not parts else ({}, {})
    if answer is None or not (parts or left):
        raise _missing(task, columns, source, answer, bool(parts or left))
    ids = all(
        {name.lower() for name in side} in ({"id"}, {key.lower()})
        for side, key in zip((left, right), keys, strict=True)
    )
    kind: Kind = "arguments" if parts else "ids" if ids else "flat pairs"
    read = {answer, split, *parts.values(), *left.values(), *right.values()}
    unread = tuple(name for name in columns if name not in read)
    return Layout(kind, answer, split, parts, left, right, unread)


def _arguments(task: str, actual: Mapping[str, str]) -> dict[str, str]:
    """Columns of the function's arguments by name; empty unless all that are needed are there."""
    shape = SHAPES[task]
    found: dict[str, str] = {}
    for name in dict.fromkeys((*shape.arguments, *shape.extras)):
        for alias in _ALIASES.get(name, (name,)):
            if alias in actual:
                found.setdefault(name, actual[alias])
    return found if set(shape.parts) <= set(found) else {}


def _sides(task: str, columns: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Columns of both records by the name of the field, for tasks about two records."""
    if SHAPES[task].parts != ("a", "b"):
        return {}, {}
    for prefixes in SIDES:
        left, right = (
            {
                name[len(prefix) :]: name
                for name in columns
                if name.lower().startswith(prefix) and len(name) > len(prefix)
            }
            for prefix in prefixes
        )
        if left and right:
            if task == "schema_match":
                left, right = _in_order(left), _in_order(right)
            return left, right
    return {}, {}


def _in_order(fields: dict[str, str]) -> dict[str, str]:
    known = {name: fields[name] for name in _SCHEMA_FIELDS if name in fields}
    return {**known, **fields}


def expected(task: str) -> str:
    """The columns that a file of labels of a task may have, in words."""
    arguments = " + ".join(SHAPES[task].parts)
    ways = [f"{arguments} (as in meld_{task})"]
    if task == "schema_match":
        ways.append("source_column, ... + target_column, ...")
    if task == "match":
        ways.append("left_... + right_...")
        ways.append("ltable_id + rtable_id with --left FILE --right FILE")
    return f"answer (or label), beside {', or '.join(ways)}"


def _missing(
    task: str, columns: Sequence[str], source: str, answer: str | None, has_query: bool
) -> InputError:
    lacks = []
    if answer is None:
        lacks.append("the answer: a column answer or label")
    if not has_query:
        lacks.append("the question")
    shown = ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "")
    return InputError(
        f"{source} lacks {' and '.join(lacks)}; it has the columns {shown or '(none)'}; "
        f"labels of {task} have the columns {expected(task)}",
        hint="rename the columns (layouts: docs/guide/train.md), or name another task with --task",
    )
