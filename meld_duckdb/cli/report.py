"""``meld report``: what the functions say of some tables, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meld_duckdb.errors import ConfigError

if TYPE_CHECKING:
    import duckdb

    from meld_duckdb.report.wanted import Wanted


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--db", "database", help="DuckDB file with the tables; it is only read.")
@click.option("--join", "joins", nargs=2, metavar="L R", multiple=True, help="Show meld.join.")
@click.option("--dedupe", "dedupes", metavar="TABLE", multiple=True, help="Show meld.dedupe.")
@click.option("--find-errors", metavar="TABLE", multiple=True, help="Show meld.find_errors.")
@click.option("--repairs", metavar="TABLE", multiple=True, help="Show meld.repairs.")
@click.option("--impute", metavar="TABLE", multiple=True, help="Show meld.impute_nulls.")
@click.option(
    "--id",
    "ids",
    metavar="[TABLE=]COLUMN",
    multiple=True,
    help="Column that names the rows, of all tables or of one (default id).",
)
@click.option("--column", "columns", multiple=True, help="Look at cells of this column only.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Accept from this probability on, instead of the bound of each function.",
)
@click.option(
    "--tier", type=click.Choice(["t0", "t1", "t2"]), help="Have one tier answer all questions."
)
@click.option(
    "--rows",
    "n_rows",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Most rows of a table of the page.",
)
@click.option("--no-rows", is_flag=True, help="Statistics only, nothing of the contents of rows.")
@click.option("--title", help="Heading of the page.")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
def report(
    out: Path,
    database: str | None,
    joins: tuple[tuple[str, str], ...],
    dedupes: tuple[str, ...],
    find_errors: tuple[str, ...],
    repairs: tuple[str, ...],
    impute: tuple[str, ...],
    ids: tuple[str, ...],
    columns: tuple[str, ...],
    threshold: float | None,
    tier: str | None,
    n_rows: int,
    no_rows: bool,
    title: str | None,
    workspace: Path | None,
) -> None:
    """Write OUT, one HTML page that works offline, on what the functions say of tables.

    Every option that names a table may be repeated. What was answered before comes from the
    workspace. Without a table the page shows the answers that the workspace keeps.
    """
    from meld_duckdb.report.wanted import KINDS, Call, Wanted

    singles = {
        "dedupe": dedupes,
        "find_errors": find_errors,
        "repairs": repairs,
        "impute_nulls": impute,
    }
    calls = [Call(KINDS["join"], pair) for pair in joins]
    calls += [Call(KINDS[name], (t,)) for name, tables in singles.items() for t in tables]
    wanted = Wanted(tuple(calls), _ids(ids), threshold, tier, columns, n_rows, not no_rows)
    shown = title or (f"Report on {Path(database).name}" if database else "Report on a workspace")
    _write(out, database, wanted, shown, workspace)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def _write(
    out: Path, database: str | None, wanted: Wanted, title: str, workspace: Path | None
) -> None:
    """Make the page, once it is known that it can be made."""
    from dataclasses import replace

    from meld_duckdb.cli.run import interruptible
    from meld_duckdb.report.make import make_report
    from meld_duckdb.report.page import check_libraries
    from meld_duckdb.settings import resolve
    from meld_duckdb.workspace import is_workspace

    check_libraries()
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: there is no such directory")
    settings, _ = resolve({"workspace": workspace})
    settings = replace(settings, workspace=settings.workspace.absolute())
    if not wanted.calls and not is_workspace(settings.workspace):
        raise ConfigError(
            f"there is no workspace at {settings.workspace}",
            hint="name another one with --workspace, or tables to report on",
        )
    with _open(database, wanted, workspace) as con, interruptible():
        make_report(con, settings, wanted, title, out)


def _ids(given: tuple[str, ...]) -> dict[str, str]:
    """Key column by table; the one that names no table is for all others."""
    found: dict[str, str] = {}
    for text in given:
        table, _, column = text.rpartition("=")
        if not column or table in found:
            raise click.UsageError(f"--id {text}: give COLUMN or TABLE=COLUMN, once for a table")
        found[table] = column
    return found


def _open(
    database: str | None, wanted: Wanted, workspace: Path | None
) -> duckdb.DuckDBPyConnection:
    """Open the database for reading, or none where no table is asked for."""
    from meld_duckdb.register import connect

    if wanted.calls and database is None:
        raise click.UsageError("say with --db which DuckDB file has the tables")
    if database is not None and not Path(database).is_file():
        raise ConfigError(f"--db {database}: there is no such file")
    given = {"workspace": workspace} if workspace else {}
    connection = connect(database or ":memory:", read_only=database is not None, **given)
    # Its bar would write to standard output, and a variable of this program must not be a table.
    connection.execute("SET enable_progress_bar = false; SET python_enable_replacements = false")
    return connection
