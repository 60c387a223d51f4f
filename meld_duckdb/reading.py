"""What a function reads of the user's own database, beside the statement that is running.

It is read before the function is answered, in the process that has the database open, so that any
other process may answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from meld_duckdb.arrow import as_array, python_values
from meld_duckdb.errors import InputError
from meld_duckdb.records import value_text

_MOST_SAMPLES = 200
_ADDED = ("description", "table_description", "values")

Column = Mapping[str, Any]
Connection = Callable[[], duckdb.DuckDBPyConnection | None]


def read_schemas(columns: Sequence[pa.Array], connection: Connection) -> Sequence[pa.Array]:
    """Add to the columns of two schemas what the options of ``meld.match_schemas`` ask for.

    Args:
        columns: Arguments of the function: two names, two lists of columns, options. Anything else
            is given back as it is, for the function to refuse.
        connection: The connection that registered the functions; None once it is gone.

    Returns:
        The same arguments; columns have ``values`` (a JSON list of texts) if samples are asked
        for, and the descriptions of a table if one is named.

    Raises:
        InputError: The database cannot be read, or a description fits no column.
    """
    given = [python_values(as_array(column))[:1] for column in columns]
    if len(given) != 5 or not all(given):
        return columns
    sides: list[Any] = [given[2][0], given[3][0]]
    options = given[4][0]
    asked = options if isinstance(options, Mapping) else {}
    samples, table = asked.get("samples"), asked.get("descriptions")
    n_samples = min(samples, _MOST_SAMPLES) if isinstance(samples, int) else 0
    if not all(isinstance(side, list) and side for side in sides):
        return columns
    if n_samples <= 0 and table is None:
        return columns
    if table is not None:
        sides = _described(str(table), sides, connection)
    if n_samples > 0:
        sides = [[{**c, "values": _samples(c, n_samples, connection)} for c in s] for s in sides]
    both = (_as_column(side, columns[2 + i].type) for i, side in enumerate(sides))
    return [*columns[:2], *both, columns[4]]


def _as_column(side: Sequence[Column], kind: pa.DataType) -> pa.Array:
    fields = {f.name: f.type for f in kind.value_type}
    added = {name: pa.string() for name in _ADDED if name in fields or name in side[0]}
    return pa.array([side], pa.list_(pa.struct(list({**fields, **added}.items()))))


def _described(
    table: str, sides: Sequence[Sequence[Column]], connection: Connection
) -> list[Sequence[Column]]:
    """Columns with the descriptions of a table: table_name, column_name, description.

    A row without a column describes the table. What it says takes the place of comments.
    """
    rows = _read(
        connection,
        "SELECT table_name::VARCHAR, column_name::VARCHAR, description::VARCHAR "
        f"FROM query_table({_literal(table)}) WHERE description IS NOT NULL",
    )
    columns = {(str(c["qualified"]), str(c["column"]).lower()) for side in sides for c in side}
    said: dict[tuple[str, str], str] = {}
    for name, column, description in rows:
        place = _place(table, str(name), str(column or "").lower(), columns)
        if place in said:
            raise InputError(
                f"option 'descriptions': {table} describes {_name(place)!r} twice",
                hint="leave one description for each column",
            )
        said[place] = str(description)
    return [
        [
            {
                **c,
                "description": said.get(
                    (c["qualified"], str(c["column"]).lower()), c["description"]
                ),
                "table_description": said.get((c["qualified"], ""), c["table_description"]),
            }
            for c in side
        ]
        for side in sides
    ]


def _place(
    source: str, name: str, column: str, columns: Collection[tuple[str, str]]
) -> tuple[str, str]:
    """The one table that goes by a name, with or without schema and database; and the column."""
    wanted = f".{name.lower()}"
    tables = sorted({t for t, _ in columns if f".{t.lower()}".endswith(wanted)})
    found = [t for t in tables if not column or (t, column) in columns]
    if len(found) == 1:
        return found[0], column
    what = ".".join(part for part in (name, column) if part)
    if found:
        raise InputError(
            f"option 'descriptions': {source} describes {what!r}, which is in {', '.join(found)}",
            hint=f"write the table as {found[0]!r}",
        )
    raise InputError(
        f"option 'descriptions': {source} describes {what!r}, which neither schema has",
        hint="table_name is a table, schema.table or database.schema.table; column_name is NULL "
        "for a table",
    )


def _name(place: tuple[str, str]) -> str:
    return ".".join(part for part in place if part)


def _samples(column: Column, n_samples: int, connection: Connection) -> str:
    """The most frequent values of a column, as a JSON list of texts."""
    name = _quoted(column["column"])
    table = ".".join(_quoted(part) for part in column["path"])
    rows = _read(
        connection,
        f"SELECT {name}::VARCHAR FROM {table} WHERE {name} IS NOT NULL"
        f" GROUP BY ALL ORDER BY count(*) DESC, {name}::VARCHAR LIMIT {n_samples}",
    )
    return json.dumps([value_text(value) or "" for (value,) in rows], ensure_ascii=False)


def _read(connection: Connection, sql: str) -> list[tuple[object, ...]]:
    opened = connection()
    if opened is None:
        raise InputError(
            "the database cannot be read: the connection that registered meld is closed",
            hint="keep that connection open, or leave samples and descriptions out",
        )
    try:
        with opened.cursor() as cursor:
            rows: list[tuple[object, ...]] = cursor.execute(sql).fetchall()
            return rows
    except duckdb.Error as error:
        raise InputError(
            f"the database cannot be read: {error}",
            hint="temporary tables of the connection cannot be seen from here; make plain ones",
        ) from error


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
