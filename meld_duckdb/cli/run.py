"""What the commands share: open a database, run statements, print results, word errors."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import duckdb

from meld_duckdb.errors import ConfigError
from meld_duckdb.register import begin_statement, connect

if TYPE_CHECKING:
    import pyarrow as pa

_OWN_MESSAGE = re.compile(r"\[MELD-E\d+\].*", re.DOTALL)
_COMMENTS_BEHIND = re.compile(r";((?:[ \t]*\n\s*--[^\n]*)+)\s*\Z")
_COMMENTS_AHEAD = re.compile(r"\A\s*((?:--[^\n]*\n\s*)+)")
_TRACEBACK = re.compile(r"\n+(At:|Traceback)\b.*", re.DOTALL)


def open_database(database: str, workspace: Path | None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file (or memory) with all functions registered."""
    if database != ":memory:" and not Path(database).absolute().parent.is_dir():
        raise ConfigError(f"--db {database}: there is no such directory")
    return connect(database, **({"workspace": workspace} if workspace else {}))


def run_statements(
    connection: duckdb.DuckDBPyConnection,
    statements: str,
    output: str = "table",
    *,
    echo: bool = False,
) -> None:
    """Run statements one after the other and print the result of each that has one."""
    ahead = _COMMENTS_AHEAD.match(statements)
    heading = ahead.group(1).rstrip() + "\n" if ahead else ""
    for statement in connection.extract_statements(statements):
        text, comments = _split_comments(statement.query)
        if echo:
            above = "" if text.startswith("--") else heading  # DuckDB 1.5 keeps it, 2.0 does not
            click.secho(f"\n{above}{text.rstrip(';')};", fg="cyan")
        heading = comments
        begin_statement(connection)
        if statement.expected_result_type == [duckdb.ExpectedResultType.QUERY_RESULT]:
            # Fetched once: a relation would run its statement again for every use.
            result = connection.sql(text).to_arrow_table()
            click.echo(render(connection, result, output).rstrip("\n"))
        else:
            connection.execute(text).fetchall()


def _split_comments(text: str) -> tuple[str, str]:
    """Part a statement from the comments behind its semicolon, which belong to the next one."""
    found = _COMMENTS_BEHIND.search(text)
    if not found:
        return text.strip(), ""
    return text[: found.start()].strip(), found.group(1).strip() + "\n"


def render(connection: duckdb.DuckDBPyConnection, result: pa.Table, output: str) -> str:
    """Render a result as a text table (cut in the middle when long), CSV or JSON lines."""
    if output == "table":
        return str(connection.from_arrow(result))
    rows = result.to_pylist()
    if output == "json":
        return "\n".join(json.dumps(row, default=str, ensure_ascii=False) for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.column_names)
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns."""
    table = [tuple(names), *rows]
    widths = [max(len(str(row[i])) for row in table) for i in range(len(names))]
    for row in table:
        cells = (str(c).ljust(w) for c, w in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def one_line(error: BaseException) -> str:
    """Word an error for the command line: this product's own message where there is one inside."""
    text = str(error)
    own = _OWN_MESSAGE.search(text)
    text = own.group(0) if own else text
    text = _TRACEBACK.sub("", text)
    return " ".join(text.split()) or type(error).__name__
