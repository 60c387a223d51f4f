"""``meld index``: index tables of a DuckDB file, with progress; a killed run can go on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meld_duckdb.progress import duration
from meld_duckdb.screen import visible

if TYPE_CHECKING:
    from meld_duckdb.planner.indexing import Indexed
    from meld_duckdb.records import Record

_PLAIN_EVERY_S = 10.0
_TERMINAL_EVERY_S = 0.1
_BATCH = 10_000


@click.command("index")
@click.argument("tables", nargs=-1, required=True)
@click.option("--db", "database", required=True, help="DuckDB file that has the tables.")
@click.option("--no-embed", is_flag=True, help="Store the rows without embedding them.")
@click.option("--split", metavar="COLUMN", help="Column that says which split a row belongs to.")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per table.")
def index(
    tables: tuple[str, ...],
    database: str,
    no_embed: bool,
    split: str | None,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Index tables or views; run again after a kill, it goes on where it stopped."""
    from meld_duckdb.service import LocalService
    from meld_duckdb.settings import resolve

    settings, _ = resolve({"workspace": workspace})
    session = LocalService(settings).session
    for name in tables:
        records = read_records(database, name)
        progress = Progress(name, sys.stderr.isatty(), say_over) if settings.progress else None
        done = session.index(name, records, embed=not no_embed, split=split, progress=progress)
        if progress is not None:
            progress.end()
        click.echo(as_line(done) if as_json else as_text(done))


def read_records(database: str, name: str) -> list[Record]:
    """All rows of a table or view of a DuckDB file, which is opened for reading only.

    Raises:
        ConfigError: There is no such file.
    """
    import duckdb

    from meld_duckdb.arrow import python_values
    from meld_duckdb.errors import ConfigError
    from meld_duckdb.handlers.base import table_records
    from meld_duckdb.register import register

    if not Path(database).is_file():
        raise ConfigError(f"--db {database}: there is no such file")
    records: list[Record] = []
    with duckdb.connect(database, read_only=True) as connection:
        register(connection)  # a view may call the functions
        quoted = name.replace("'", "''")
        connection.execute("SET enable_progress_bar = false")  # it would write to standard output
        rows = connection.sql(f"SELECT __meld_row FROM query_table('{quoted}') AS __meld_row")
        for batch in rows.to_arrow_reader(_BATCH):
            records.extend(table_records(python_values(batch.column(0))))
    return records


class Progress:
    """Tells how far an index is: one line that is written over on a terminal, else now and then.

    Args:
        name: Name of the table.
        terminal: Whether a line can be written over.
        say: Writes a text, and whether a line ends with it.
        clock: Seconds, for tests.
        unit: What is counted.
    """

    def __init__(
        self,
        name: str,
        terminal: bool,
        say: Callable[[str, bool], None],
        clock: Callable[[], float] = time.monotonic,
        unit: str = "rows",
    ) -> None:
        self._unit = unit
        self._name = name
        self._terminal = terminal
        self._say = say
        self._clock = clock
        self._started: tuple[float, int] | None = None
        self._told = clock()
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` rows are stored."""
        now = self._clock()
        if self._started is None:
            self._started = (now, done)
            return
        every = _TERMINAL_EVERY_S if self._terminal else _PLAIN_EVERY_S
        if now - self._told < every:
            return
        self._told = now
        self._open = self._terminal
        self._say(self._line(now, done, total), not self._terminal)

    def _line(self, now: float, done: int, total: int) -> str:
        began, before = self._started or (now, done)
        rate = (done - before) / max(now - began, 1e-9)
        left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
        resumed = f" ({before} from before)" if before else ""
        speed = f"{rate:.0f}" if rate >= 10 or not rate else f"{rate:.2g}"
        unit = self._unit
        return f"meld: {self._name}: {done}/{total} {unit}{resumed}, {speed} {unit}/s{left}"

    def end(self) -> None:
        """End the line that was written over."""
        if self._open:
            self._say("", True)
            self._open = False


def say_over(text: str, ends: bool) -> None:
    """Write a line to standard error, on a terminal over the one before."""
    line = visible(text)
    click.echo(f"\r{line}\x1b[K" if sys.stderr.isatty() and line else line, nl=ends, err=True)


def as_text(done: Indexed) -> str:
    """One line about an indexed table for people."""
    resumed = f", {done.n_resumed} were there from a run before" if done.n_resumed else ""
    return (
        f"{done.name}: {done.n_entries} rows indexed, {done.n_embedded} embedded{resumed}, "
        f"{done.seconds:.1f} s"
    )


def as_line(done: Indexed) -> str:
    """One line about an indexed table for programs."""
    return json.dumps(
        {
            "table": done.name,
            "entries": done.n_entries,
            "embedded": done.n_embedded,
            "resumed": done.n_resumed,
            "digest": done.digest,
            "seconds": round(done.seconds, 3),
        },
        ensure_ascii=False,
    )
