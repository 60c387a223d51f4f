"""What the handlers share: their parts, and how arguments are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.arrow import as_array, python_values, to_record
from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.groups import parse_equal
from meld_duckdb.retrieval.methods import Blocking
from meld_duckdb.service import LocalService
from meld_duckdb.settings import Origin
from meld_duckdb.udfs import SqlFunction


class HandlerBase:
    """What all handlers have.

    Args:
        service: The service of this registration.
        origins: Where each setting came from.
        functions: All SQL functions, for help.
        version: Version of the package.
    """

    def __init__(
        self,
        service: LocalService,
        origins: Sequence[Origin],
        functions: Sequence[SqlFunction],
        version: str,
    ) -> None:
        self.service = service
        self._origins = origins
        self._functions = functions
        self._version = version


def expect(function: SqlFunction, columns: Sequence[pa.Array], n_arguments: int) -> None:
    """Refuse a call with another number of arguments."""
    if len(columns) != n_arguments:
        raise InputError(
            f"{function.name} got {len(columns)} argument(s), expected {n_arguments}",
            hint=f"call it as {function.name}({function.arguments})",
        )


def only_rows(function: SqlFunction, columns: Sequence[pa.Array]) -> tuple[Any, Any, Any]:
    """The three arguments of a table function, which is called for one row."""
    expect(function, columns, 3)
    values = [python_values(as_array(column)) for column in columns]
    if len(values[0]) != 1:
        raise InputError(f"{function.name} got {len(values[0])} rows, expected one list per table")
    return values[0][0], values[1][0], values[2][0]


def only_lists(
    function: SqlFunction, columns: Sequence[pa.Array]
) -> tuple[pa.Array, pa.Array, Any]:
    """As `only_rows`, with the rows of both tables left in Arrow."""
    expect(function, columns, 3)
    arrays = [as_array(column) for column in columns]
    if len(arrays[0]) != 1:
        raise InputError(f"{function.name} got {len(arrays[0])} rows, expected one list per table")
    left, right = (
        array.flatten() if hasattr(array, "flatten") else pa.nulls(0) for array in arrays[:2]
    )
    return left, right, python_values(arrays[2])[0]


def one_list(columns: Mapping[str, pa.Array]) -> pa.Array:
    """One row that holds a list of STRUCTs, given by their columns."""
    structs = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.ListArray.from_arrays(pa.array([0, len(structs)], pa.int32()), structs)


def table_records(rows: object) -> list[Record]:
    """The rows of a whole table; a row that cannot be read keeps its place as an empty record."""
    items = rows if isinstance(rows, list) else []
    found = (to_record(row) for row in items)
    return [record if isinstance(record, Record) else make_record({}) for record in found]


def required_record(value: object) -> Record | None:
    """A record; None for NULL and for what cannot be read."""
    record = to_record(value)
    return record if isinstance(record, Record) else None


def given_options(options: object) -> Mapping[str, object]:
    """The options of a table function that are not NULL."""
    given = options if isinstance(options, Mapping) else {}
    return {k: v for k, v in given.items() if v is not None}


def whole_number(options: Mapping[str, object], name: str, default: int, least: int = 1) -> int:
    """An option that is a whole number.

    Raises:
        ConfigError: It is something else, or below ``least``.
    """
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"option {name!r} is {value!r}, expected a whole number from {least} on")
    return value


def one_of(options: Mapping[str, object], name: str, words: Sequence[str]) -> str:
    """An option that is one of some words, the first unless given.

    Raises:
        ConfigError: It is none of them.
    """
    value = options.get(name, words[0])
    if value not in words:
        raise ConfigError(f"option {name!r} is {value!r}, expected one of {', '.join(words)}")
    return str(value)


def name_list(options: Mapping[str, object], name: str, example: str) -> list[str] | None:
    """An option that is a list of names, or one name; None if it is not given.

    Raises:
        ConfigError: It is something else.
    """
    value = options.get(name)
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ConfigError(
            f"option {name!r} is {value!r}, expected a list of names",
            hint=f"write {name} := {example}",
        )
    return names


def blocking(options: Mapping[str, object], method: str) -> Blocking:
    """How candidates are found, as options say.

    Args:
        options: Options of the call.
        method: What holds where they do not say.
    """
    return Blocking(
        whole_number(options, "k", 10),
        str(options.get("method", method)),
        parse_equal(name_list(options, "equal", "['brand']") or []),
    )


def flag(options: Mapping[str, object], name: str) -> bool:
    """An option that is true or false, true unless given."""
    value = options.get(name, True)
    if not isinstance(value, bool):
        raise ConfigError(f"option {name!r} is {value!r}, expected true or false")
    return value


def text_rows(rows: list[dict[str, str]], keys: Sequence[str]) -> pa.Array:
    """One row that holds a list of STRUCTs of texts."""
    return pa.array([rows], pa.list_(pa.struct([(k, pa.string()) for k in keys])))
