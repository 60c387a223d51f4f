"""What the commands share: open a database, run statements, print results, word errors."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import duckdb

from meld_duckdb import interrupt, progress
from meld_duckdb.errors import ConfigError
from meld_duckdb.register import begin_statement, connect
from meld_duckdb.screen import visible

_OWN_MESSAGE = re.compile(r"\[MELD-E\d+\].*", re.DOTALL)
_COMMENTS_AHEAD = re.compile(r"\A\s*((?:--[^\n]*\n\s*)+)")
_TRACEBACK = re.compile(r"\n+(At:|Traceback)\b.*", re.DOTALL)


def open_database(database: str, workspace: Path | None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file (or memory) with all functions registered."""
    if database != ":memory:" and not Path(database).absolute().parent.is_dir():
        raise ConfigError(f"--db {database}: there is no such directory")
    connection = connect(database, workspace=workspace)
    # A table that is not there must not turn out to be a variable of this program.
    connection.execute("SET python_enable_replacements = false")
    # It would go to standard output, among the results, and knows nothing of calls; see `progress`.
    connection.execute("SET enable_progress_bar = false")
    return connection


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
        text, beside, below = split_comments(statement.query)
        if echo:
            above = "" if text.startswith("--") else heading  # DuckDB 1.5 keeps it, 2.0 does not
            click.secho(f"\n{above}{text};{beside}", fg="cyan")
        heading = f"{below}\n" if below else ""
        begin_statement(connection)
        interrupt.clear()
        with interruptible(), progress.statement():
            result = run_one(connection, statement, text, output)
        if result:  # a file gets it as it is
            click.echo(visible(result) if sys.stdout.isatty() else result)


def run_one(connection: duckdb.DuckDBPyConnection, statement: Any, text: str, output: str) -> str:
    """Run one statement; gives its result as text, empty if it has none."""
    kinds = statement.expected_result_type
    if output == "table" and kinds == [duckdb.ExpectedResultType.QUERY_RESULT]:
        return str(connection.sql(text)).rstrip("\n")
    cursor = connection.execute(text)
    names = [column[0] for column in cursor.description or ()]
    rows = cursor.fetchall()
    if not names or (names == ["Count"] and kinds != [duckdb.ExpectedResultType.QUERY_RESULT]):
        return ""
    return render(names, rows, "csv" if output == "table" else output)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C stop the statement that runs, also inside a long call of a function."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGINT, interrupt.stop_all)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def render(names: Sequence[str], rows: Sequence[Sequence[object]], output: str) -> str:
    """Render a result as CSV, or as JSON lines in which a repeated name gets a number."""
    if output == "json":
        keys = [n if n not in names[:i] else f"{n}_{i}" for i, n in enumerate(names)]
        return "\n".join(
            json.dumps(
                {k: _json_value(v) for k, v in zip(keys, row, strict=True)},
                default=str,
                ensure_ascii=False,
            )
            for row in rows
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _json_value(value: object) -> object:
    """JSON has no NaN and no infinity: null, as in DuckDB's own JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    return value


def split_comments(text: str) -> tuple[str, str, str]:
    """Part a statement from the comments behind its semicolon.

    Returns:
        The statement without semicolon, the comment on its last line, and the comments below,
        which belong to the next statement.
    """
    data = text.encode()  # DuckDB counts bytes
    tokens = [offset for offset, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    if not tokens or data[tokens[-1] : tokens[-1] + 1] != b";":
        return text.strip(), "", ""
    beside, _, below = data[tokens[-1] + 1 :].decode().partition("\n")
    return data[: tokens[-1]].decode().strip(), beside.rstrip(), below.strip()


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns."""
    table = [tuple(names), *rows]
    widths = [max(len(str(row[i])) for row in table) for i in range(len(names))]
    for row in table:
        cells = (str(c).ljust(w) for c, w in zip(row, widths, strict=True))
        click.echo(visible("  ".join(cells).rstrip()))


def one_line(error: BaseException) -> str:
    """Word an error for the command line: this product's own message where there is one inside."""
    text = str(error)
    own = _OWN_MESSAGE.search(text)
    text = own.group(0) if own else text
    text = _TRACEBACK.sub("", text)
    return visible(" ".join(text.split())) or type(error).__name__
