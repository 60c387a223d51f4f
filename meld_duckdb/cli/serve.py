"""``meld serve`` and ``meld shell --duckdb``: the functions for the DuckDB shell, by Quack."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource

from meld_duckdb import interrupt
from meld_duckdb.cli.engine_process import leave
from meld_duckdb.daemon.options import check_private
from meld_duckdb.errors import ConfigError
from meld_duckdb.settings import environment_with

TOKEN_VARIABLE = "MELD_SERVE_TOKEN"
_EXAMPLE = "FROM m.query($$ SELECT meld_match('red apple', 'apple, red') $$);"


@click.command("serve")
@click.option(
    "--db", "database", default=":memory:", show_default=True, help="DuckDB file to serve."
)
@click.option("--port", type=click.IntRange(1, 65_535), default=9494, show_default=True)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"File with the token; or give it in {TOKEN_VARIABLE}. Default: a random one, printed.",
)
@click.option("--token", envvar=TOKEN_VARIABLE, hidden=True)
@click.option("--read-write", is_flag=True, help="Let clients change tables.")
@click.option("--allow-learn", is_flag=True, help="Let clients call meld_learn and meld.index.")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
@click.pass_context
def serve(
    context: click.Context,
    database: str,
    port: int,
    token_file: Path | None,
    token: str | None,
    read_write: bool,
    allow_learn: bool,
    workspace: Path | None,
) -> None:
    """Serve a database with all functions to the DuckDB shell, on this machine only."""
    from meld_duckdb.serve import new_token, serving

    if context.get_parameter_source("token") is ParameterSource.COMMANDLINE:
        raise ConfigError(
            "a token on the command line is seen by every user of the machine",
            hint=f"give it in {TOKEN_VARIABLE} or by --token-file",
        )
    if token_file is not None:
        check_private(token_file)
        token = token_file.read_text("utf-8").strip()
    used = token or new_token()
    ended = _ended_by_signals()
    with serving(
        database, used, port=port, read_write=read_write, learn=allow_learn, workspace=workspace
    ) as served:
        mode = "for reading and writing" if read_write else "for reading only"
        click.echo(f"serving {database} {mode} at {served.uri}; Ctrl-C ends it")
        if token is None:
            click.echo(f"token, shown this once: {used}")
        click.echo("\nIn the DuckDB shell, with the token in the variable of that name:")
        attach = f"ATTACH '{served.uri}' AS m (TOKEN getenv('{TOKEN_VARIABLE}'))"
        click.echo("".join(f"  {text};\n" for text in (*served.load, attach)) + f"  {_EXAMPLE}")
        ended.wait()
    click.echo("stopped")
    leave()  # a thread of DuckDB may still be inside a function


def _ended_by_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set; a second signal ends the process at once."""
    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        if ended.is_set():
            os._exit(128 + number)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return ended


def run_duckdb_shell(database: str, workspace: Path | None) -> NoReturn:
    """Run the ``duckdb`` program on a database that this process serves to it as ``m``.

    It may do what ``meld shell`` may: it is the same person at the same keyboard. Ends this process
    with the exit code of the program.
    """
    from meld_duckdb.serve import find_shell, free_port, new_token, serving

    program, load = find_shell()
    token = new_token()
    with serving(
        database, token, port=free_port(), read_write=True, learn=True, workspace=workspace
    ) as served:
        attach = f"ATTACH '{served.uri}' AS m (TOKEN getenv('{TOKEN_VARIABLE}'))"
        start = "".join(f"{text};" for text in (*load, attach))
        with subprocess.Popen(
            [program, "-cmd", start], env=environment_with(**{TOKEN_VARIABLE: token})
        ) as shell:
            code = _wait(shell)
    leave(code)


def _wait(shell: subprocess.Popen[bytes]) -> int:
    """Wait for the shell; Ctrl-C stops its statement, and SIGTERM ends it.

    The shell gets Ctrl-C as well, but hears nothing while it waits for the server.
    """
    handlers = {
        signal.SIGINT: lambda number, frame: interrupt.interrupt(),
        signal.SIGTERM: lambda number, frame: shell.terminate(),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return shell.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
