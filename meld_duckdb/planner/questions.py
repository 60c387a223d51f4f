"""From SQL arguments to `Query` objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld_duckdb.arrow import to_record
from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.planner.options import Options
from meld_duckdb.records import Record, make_record
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query, RowError

CELL_TASKS = frozenset({"detect_error", "impute"})
N_ARGUMENTS = 2


def build_query(
    task: str, arguments: Sequence[object], options: Options
) -> Query | RowError | None:
    """Build the question of one row.

    Args:
        task: Name of the task.
        arguments: ``a, b`` of a pair task, ``row, column`` of a cell task, as Python values.
        options: Options of the call.

    Returns:
        The query; None where an argument is NULL; a `RowError` where the row cannot be read.

    Raises:
        InputError: A row that came as STRUCT has no such column.
    """
    if any(argument is None for argument in arguments):
        return None
    if task not in CELL_TASKS:
        return _pair_query(task, arguments[0], arguments[1])
    return _cell_query(arguments[0], arguments[1], options)


def _pair_query(task: str, left: object, right: object) -> Query | RowError | None:
    records: list[Record] = []
    for value in (left, right):
        record = to_record(value)
        if not isinstance(record, Record):
            return record
        if task == "schema_match" and list(record.fields) == ["text"]:
            record = make_record({"column": record.fields["text"]})
        records.append(record)
    if TASKS[task].symmetric:
        records.sort(key=lambda r: r.digest)
    return Query(tuple(records))


def _cell_query(row: object, column: object, options: Options) -> Query | RowError | None:
    record = to_record(row)
    if not isinstance(record, Record):
        return record
    name = str(column)
    if name not in record.fields:
        name = next((n for n in record.fields if n.lower() == name.lower()), name)
    if name not in record.fields:
        if isinstance(row, Mapping):
            what, hint = unknown_name("column", name, record.fields)
            raise InputError(what, hint=hint)
        return RowError("unknown_column", f"the record has no column {name!r}")
    return Query((record,), name, options.options)
