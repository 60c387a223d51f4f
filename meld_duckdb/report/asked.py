"""Run table functions for a report; what they say stays in temporary tables of the connection.

Every function is asked twice: with the bound of the call, which tells what is accepted, and
without one, which tells the probabilities of all it looked at. What the first asked, the second
finds in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meld_duckdb.arrow import python_values
from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.handlers.base import table_records
from meld_duckdb.records import Record
from meld_duckdb.report.wanted import KINDS, Call, Wanted

if TYPE_CHECKING:
    import duckdb

_BATCH = 10_000
_CELLS = {
    "find_errors": ("value", "NULL::VARCHAR", "NULL::VARCHAR"),
    "repairs": ('"old"', '"new"', "NULL::VARCHAR"),
    "impute_nulls": ("NULL::VARCHAR", "value", "error"),
}
"""Old value, new value and error of a cell, by function."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Rows that a function could not answer, for one reason.

    Attributes:
        function: SQL name.
        code: The reason.
        message: What is said of the first of them.
        n_rows: How many.
    """

    function: str
    code: str
    message: str
    n_rows: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What one function said.

    Attributes:
        call: The function and its tables.
        said: Temporary table of all that was judged: probability, tier, accepted, and l_id, r_id
            or id, column, old, new, evidence, error.
        clusters: Temporary table of id, cluster_id, cluster_size; None unless rows were clustered.
        cut: The given bound, else the least probability that was accepted; None if nothing was.
        stats: The lines of ``meld.stats()`` that the accepted answers took, by column.
        failures: Why rows have no answer.
        repeated_ids: Tables whose key column names several rows.
    """

    call: Call
    said: str
    clusters: str | None
    cut: float | None
    stats: list[dict[str, Any]]
    failures: list[Failure]
    repeated_ids: tuple[str, ...]


def ask(con: duckdb.DuckDBPyConnection, call: Call, wanted: Wanted, number: int) -> Asked:
    """Run one function.

    Args:
        con: A connection with the functions registered.
        call: The function and its tables.
        wanted: What the report shows.
        number: Of the call in the report; names its temporary tables.

    Raises:
        InputError: There is no such table, or it has no such key column.
    """
    repeated = tuple(t for t in dict.fromkeys(call.tables) if _repeats(con, t, wanted.id_of(t)))
    kept, everything, said = (f"__meld_{part}_{number}" for part in ("kept", "all", "said"))
    clusters = None
    lines, errors = Counter(_lines(con)), Counter(dict(_errors(con)))
    if call.kind.function == "dedupe":
        clusters = f"__meld_clusters_{number}"
        macro = _macro(call, wanted, wanted.threshold)
        con.execute(f"CREATE OR REPLACE TEMP TABLE {clusters} AS FROM {macro}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE {kept} AS {_query(call, wanted, wanted.threshold)}")
    stats = [dict(line) for line in (Counter(_lines(con)) - lines).elements()]
    failures = _grouped((Counter(dict(_errors(con))) - errors).items())
    con.execute(f"CREATE OR REPLACE TEMP TABLE {everything} AS {_query(call, wanted, 0.0)}")
    same = " AND ".join(f"k.{key} IS NOT DISTINCT FROM a.{key}" for key in call.kind.keys)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {said} AS SELECT a.*,"
        f" EXISTS (FROM {kept} AS k WHERE k.worth AND {same}) AS accepted"
        f" FROM {everything} AS a WHERE probability IS NOT NULL"
    )
    [(least,)] = con.execute(f"SELECT min(probability) FROM {kept} WHERE worth").fetchall()
    cut = wanted.threshold if wanted.threshold is not None else least
    return Asked(call, said, clusters, cut, stats, failures, repeated)


def read_records(con: duckdb.DuckDBPyConnection, table: str) -> list[Record]:
    """All rows of a table or view."""
    rows = con.sql(f"SELECT __meld_row FROM query_table({literal(table)}) AS __meld_row")
    return [
        record
        for batch in rows.to_arrow_reader(_BATCH)
        for record in table_records(python_values(batch.column(0)))
    ]


def rows_by_id(
    con: duckdb.DuckDBPyConnection, table: str, key: str, ids: Sequence[str]
) -> dict[str, Record]:
    """The first row of each of some keys, which are given as texts."""
    if not ids:
        return {}
    listed = ", ".join(f"({literal(i)})" for i in dict.fromkeys(ids))
    rows = con.sql(
        f"SELECT struct_extract(__meld_row, {literal(key)})::VARCHAR AS __meld_key, __meld_row"
        f" FROM query_table({literal(table)}) AS __meld_row"
        f" WHERE __meld_key IN (SELECT wanted FROM (VALUES {listed}) AS w(wanted))"
    )
    found: dict[str, Record] = {}
    for batch in rows.to_arrow_reader(_BATCH):
        records = table_records(python_values(batch.column(1)))
        for text, record in zip(batch.column(0).to_pylist(), records, strict=True):
            found.setdefault(text, record)
    return found


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _macro(call: Call, wanted: Wanted, bound: float | None) -> str:
    """The call of the table function."""
    ids = [literal(wanted.id_of(table)) for table in call.tables]
    options = {"l_id": ids[0], "r_id": ids[1]} if len(ids) == 2 else {"id": ids[0]}
    if call.kind.task != "match" and wanted.columns:
        options["columns"] = f"[{', '.join(map(literal, wanted.columns))}]"
    if wanted.tier is not None:
        options["tier"] = literal(wanted.tier)
    if bound is not None:
        options[call.kind.bound] = repr(bound)
    arguments = [*map(literal, call.tables), *(f"{k} := {v}" for k, v in options.items())]
    return f"meld.{call.kind.function}({', '.join(arguments)})"


def _query(call: Call, wanted: Wanted, bound: float | None) -> str:
    """What is judged, in the form of `Asked.said`; a pair of rows of one table is there once."""
    if call.kind.function == "join":
        return (
            "SELECT l_id, r_id, probability, tier, true AS worth"
            f" FROM {_macro(call, wanted, bound)}"
        )
    if call.kind.function == "dedupe":
        table = call.tables[0]
        pairs = _macro(Call(KINDS["join"], (table, table)), wanted, bound)
        return (
            "SELECT least(l_id, r_id) AS l_id, greatest(l_id, r_id) AS r_id,"
            " max(probability) AS probability, any_value(tier) AS tier, true AS worth"
            f" FROM {pairs} GROUP BY 1, 2"
        )
    old, new, error = _CELLS[call.kind.function]
    worth = "value IS NOT NULL" if call.kind.function == "impute_nulls" else "true"
    return (
        f'SELECT id, "column", {old} AS "old", {new} AS "new", probability, tier, evidence,'
        f" {error} AS error, {worth} AS worth FROM {_macro(call, wanted, bound)}"
    )


def _repeats(con: duckdb.DuckDBPyConnection, table: str, key: str) -> bool:
    """Whether a key column names several rows; fails if there is no such table or column."""
    import duckdb

    name = literal(table)
    try:
        described = con.execute(f"DESCRIBE FROM query_table({name})").fetchall()
    except duckdb.CatalogException as error:
        known = con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal UNION"
            " SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        what, hint = unknown_name("table", table, [t for (t,) in known if t[:2] != "__"])
        raise InputError(what, hint=hint) from error
    columns = [column[0] for column in described]
    if key.lower() not in [column.lower() for column in columns]:
        what, hint = unknown_name("column", key, columns)
        raise InputError(
            f"{what} of {table}, to name its rows by", hint=f"--id {table}=COLUMN; {hint}"
        )
    [(n_rows, n_keys)] = con.execute(
        f"SELECT count(*), count(DISTINCT struct_extract(t, {literal(key)}))"
        f" FROM query_table({name}) AS t"
    ).fetchall()
    return bool(n_keys < n_rows)


def _lines(con: duckdb.DuckDBPyConnection) -> list[tuple[tuple[str, Any], ...]]:
    """The lines of ``meld.stats()``; what is counted from now on stands on others."""
    cursor = con.execute("FROM meld.stats()")
    names = [column[0] for column in cursor.description or ()]
    return [tuple(zip(names, line, strict=True)) for line in cursor.fetchall()]


def _errors(con: duckdb.DuckDBPyConnection) -> list[tuple[tuple[str, ...], int]]:
    return [(tuple(key), n) for *key, n in con.execute("FROM meld.errors()").fetchall()]


def _grouped(errors: Iterable[tuple[tuple[str, ...], int]]) -> list[Failure]:
    """Failures by reason, the commonest first."""
    found: dict[tuple[str, str], Failure] = {}
    for (function, _, code, message), n in errors:
        first = found.get((function, code), Failure(function, code, message, 0))
        found[function, code] = Failure(function, code, first.message, first.n_rows + n)
    return sorted(found.values(), key=lambda failure: -failure.n_rows)
