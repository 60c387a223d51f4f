"""Run SQL over tables that Python holds: relations, and frames of pandas, Polars and PyArrow.

DuckDB finds a Python object by the name of a variable in the function that runs the statement, and
keeps it for as long as the relation that it gives lives. So nothing is copied, nothing is created
in the user's database, and the relation is evaluated when it is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import duckdb

from meld_duckdb.errors import ConfigError, InputError, unknown_name
from meld_duckdb.register import CATALOGUE, register

Connection: TypeAlias = duckdb.DuckDBPyConnection | None


@runtime_checkable
class ArrowStream(Protocol):
    """What offers its rows as Arrow data: frames of pandas and Polars, tables of PyArrow, ..."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Rows as a stream; see the PyCapsule interface of Arrow."""
        ...


class LazyFrame(Protocol):
    """A lazy frame of Polars."""

    def collect_schema(self) -> Any:
        """Names and types of the columns."""
        ...


Table: TypeAlias = str | duckdb.DuckDBPyRelation | ArrowStream | LazyFrame
"""A relation, a frame, or the name of a table, a view or a file."""

Key: TypeAlias = tuple[str, str, int]
"""A column that a statement takes from a table: what names it, its name, place of the table."""

_NAMES = ("__meld_left_table", "__meld_right_table", "__meld_pairs_table")
"""Variables of `_query`, by which its statement calls the tables."""

_SCANNED = {
    ("pandas", "DataFrame"),
    ("polars", "DataFrame"),
    ("polars", "LazyFrame"),
    ("pyarrow", "Dataset"),
}
"""Packages and classes that DuckDB reads as they are; looked up by name, to import none of them."""

_VIEW = "__meld_connection"


class Scan:
    """Up to three tables that one statement reads, and the connection that runs it.

    Args:
        connection: Where to run; None for the connection of the relations among the tables, and
            DuckDB's default connection if there are none.
        *tables: Left table, right table, pairs; None for a table that is not there.

    Attributes:
        names: Names of the tables, as literals of SQL. A table given twice has one name.

    Raises:
        ConfigError: The functions are not registered on the connection of the relations.
        InputError: A table or the connection is something else.
    """

    def __init__(self, connection: Connection, *tables: Table | None) -> None:
        given = [*tables, *([None] * (len(_NAMES) - len(tables)))]
        first = [next(j for j, other in enumerate(given) if other is t) for t in given]
        self._tables = [_scannable(t) if first[i] == i else None for i, t in enumerate(given)]
        self.names = [
            literal(t if isinstance(t, str) else _NAMES[first[i]]) for i, t in enumerate(given)
        ]
        self._owner = _owner(connection, self._tables)

    def query(self, sql: str, *keys: Key) -> duckdb.DuckDBPyRelation:
        """Run a statement that calls the tables by their names, lazily.

        Args:
            sql: The statement.
            *keys: Columns that the statement takes from the tables.

        Returns:
            The relation.

        Raises:
            InputError: A table or a column is not there, or the connection cannot read a table.
        """
        try:
            return _query(self._owner, sql, *self._tables)
        except duckdb.BinderException as error:
            for argument, column, place in keys:
                self._expect_column(argument, column, self.names[place], error)
            raise
        except duckdb.CatalogException as error:
            raise self._not_there(error) from error
        except duckdb.InvalidInputException as error:
            raise InputError(
                f"a table cannot be read: {' '.join(str(error).split())}",
                hint="a table has at least one column, and the relations of a call are of one "
                "connection; of another one, give relation.to_arrow_table()",
            ) from error

    def columns(self, place: int) -> dict[str, str]:
        """Columns of the table at a place and their SQL types."""
        table = self.query(f"FROM query_table({self.names[place]})")
        return {str(n): str(t) for n, t in zip(table.columns, table.types, strict=True)}

    def _expect_column(self, argument: str, column: str, name: str, cause: Exception) -> None:
        known = _query(self._owner, f"FROM query_table({name})", *self._tables).columns
        if column.lower() not in {str(k).lower() for k in known}:
            what, hint = unknown_name("column", column, known)
            raise InputError(f"{what}, named by {argument}", hint=hint) from cause

    def _not_there(self, error: Exception) -> InputError:
        what = _first_line(error)
        if any(name in what for name in _NAMES):
            return InputError(
                "the connection does not look at Python objects",
                hint="its setting python_enable_replacements or enable_external_access is off; "
                "call con.register('my_table', table) and give the name 'my_table'",
            )
        return InputError(
            f"a table cannot be read: {what}",
            hint="a text is the name of a table or view; for a query give con.sql('SELECT ...')",
        )


def literal(value: object) -> str:
    """A Python value as a literal of SQL.

    Args:
        value: None, bool, number, text, or a list or series of them; also of NumPy.

    Raises:
        InputError: It is something else.
    """
    for plain in ("to_list", "tolist"):  # series of Polars, pandas and PyArrow; NumPy
        if hasattr(value, plain):
            value = getattr(value, plain)()
            break
    # Not duckdb.ConstantExpression: for that, DuckDB 1.5 imports pandas if it is installed.
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        return f"'{value}'::DOUBLE"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if value is None or isinstance(value, bool | int):
        return "NULL" if value is None else str(value)
    raise InputError(f"{value!r} is no value of an option", hint="give a text, number or list")


def arguments(options: Mapping[str, object]) -> str:
    """Named arguments of a macro; None is left out, so that the macro's default holds."""
    # In quotes: DuckDB 1.5 takes the bare word precision for the type DOUBLE PRECISION.
    return "".join(f', "{k}" := {literal(v)}' for k, v in options.items() if v is not None)


def struct(options: Mapping[str, object]) -> str:
    """Options as a STRUCT; None is NULL, which stands for the default."""
    return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in options.items()) + "}"


def _query(owner: Any, sql: str, left: object, right: object, pairs: object) -> Any:
    __meld_left_table, __meld_right_table, __meld_pairs_table = left, right, pairs
    if not isinstance(owner, duckdb.DuckDBPyRelation):
        return owner.sql(sql)
    # A relation does not tell its connection, but runs statements on it. DuckDB 1.5 makes the
    # relation a temporary view for that.
    try:
        return owner.query(_VIEW, sql)
    finally:
        with contextlib.suppress(duckdb.Error):
            owner.query(_VIEW, f"DROP VIEW IF EXISTS {_VIEW}")


def _owner(connection: Connection, tables: Sequence[object]) -> Any:
    """What runs the statement: a connection, or a relation that stands for its own."""
    if connection is not None:
        if not isinstance(connection, duckdb.DuckDBPyConnection):
            raise InputError(
                f"connection is of type {type(connection).__name__}, expected one of DuckDB",
                hint="options are given by name, as in k=10",
            )
        return register(connection)
    relation = next((t for t in tables if isinstance(t, duckdb.DuckDBPyRelation)), None)
    if relation is None:
        return register(duckdb.default_connection())
    known = f"SELECT 1 FROM duckdb_functions() WHERE database_name = '{CATALOGUE}' LIMIT 1"
    if not _query(relation, known, None, None, None).fetchall():
        raise ConfigError(
            "the functions are not registered on the connection of the relation",
            hint="call meld_duckdb.register(con) once; relations of duckdb.sql are of "
            "duckdb.default_connection()",
        )
    return relation


def _scannable(table: object) -> object:
    """The table as DuckDB can read it, as often as it likes."""
    if table is None or isinstance(table, str | duckdb.DuckDBPyRelation):
        return table
    kinds = {(k.__module__.split(".")[0], k.__name__) for k in type(table).__mro__}
    if kinds & _SCANNED:
        return table
    if isinstance(table, ArrowStream):
        import pyarrow as pa

        # Readers can be read once: a relation is read as often as it is shown.
        return _distinct(table if isinstance(table, pa.Table) else pa.table(table))
    raise InputError(
        f"a table is of type {type(table).__name__}, expected a relation, a frame or a name",
        hint="frames of pandas and Polars and tables of PyArrow are taken; of rows in a list, make "
        "one of them",
    )


def _distinct(table: Any) -> Any:
    """The Arrow table with a number after names that were there, as DuckDB names them."""
    seen: set[str] = set()
    names: list[str] = []
    for name in table.column_names:
        free, number = name, 0
        while free.lower() in seen:
            number += 1
            free = f"{name}_{number}"
        seen.add(free.lower())
        names.append(free)
    return table if names == table.column_names else table.rename_columns(names)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
