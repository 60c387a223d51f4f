"""``meld engine``: the process that keeps the models loaded and answers every DuckDB process."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from meld_duckdb.daemon import lifecycle
from meld_duckdb.daemon.options import Options, last_options
from meld_duckdb.daemon.places import places_of
from meld_duckdb.errors import EngineUnavailable
from meld_duckdb.settings import resolve

PROGRAM = (sys.executable, "-m", "meld_duckdb.cli.engine_process")
"""The command that serves."""

_WORKSPACE = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_SHOWN = (
    "workspace", "pid", "version", "model", "encoder", "backend", "device", "uptime_s", "idle_s",
    "clients", "running", "waiting", "calls", "failed", "rows", "seconds", "prompts",
    "merged_prompts", "models", "rss_bytes",
)  # fmt: skip


@click.group("engine")
def engine() -> None:
    """Run one process that keeps the models loaded for all others."""


@engine.command()
@click.option(
    "--idle-timeout",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Stop after so many seconds without a call (default: never).",
)
@click.option("--tcp", default="", metavar="HOST:PORT", help="Serve other machines, too.")
@click.option("--token-file", type=_FILE, help="File with the token that these have to name.")
@click.option("--tls-cert", type=_FILE, help="Certificate for these (PEM).")
@click.option("--tls-key", type=_FILE, help="Key of the certificate (PEM).")
@click.option("--foreground", is_flag=True, help="Serve in this process, until Ctrl-C.")
@_WORKSPACE
@_JSON
def start(
    idle_timeout: float,
    tcp: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    foreground: bool,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Start the engine of the workspace and wait until it is ready."""
    settings, _ = resolve({"workspace": workspace})
    options = Options(idle_timeout, tcp, token_file, tls_cert, tls_key)
    if foreground:
        from meld_duckdb.cli.engine_process import leave, serve

        serve(settings, options, _tell)
        leave()
    _say(lifecycle.start(settings, options, PROGRAM, _tell), as_json)


@engine.command()
@_WORKSPACE
def stop(workspace: Path | None) -> None:
    """Stop the engine of the workspace; calls that run are finished."""
    stopped = lifecycle.stop(resolve({"workspace": workspace})[0])
    click.echo("stopped" if stopped else "no engine was running")


@engine.command()
@_WORKSPACE
@_JSON
def restart(workspace: Path | None, as_json: bool) -> None:
    """Stop the engine if one runs; start it with the settings of now and the options of then."""
    settings, _ = resolve({"workspace": workspace})
    options = last_options(settings)
    lifecycle.stop(settings)
    _say(lifecycle.start(settings, options, PROGRAM, _tell), as_json)


@engine.command()
@_WORKSPACE
@_JSON
def status(workspace: Path | None, as_json: bool) -> None:
    """Show how the engine of the workspace is; ends with 1 if none runs."""
    settings, _ = resolve({"workspace": workspace})
    try:
        found = lifecycle.status(settings)
    except EngineUnavailable as error:
        if not as_json:
            raise
        click.echo(json.dumps({"running": None, "error": error.what}))
        raise click.exceptions.Exit(1) from error
    _say(found, as_json)


@engine.command()
@click.option("--lines", "-n", type=click.IntRange(min=1), default=50, show_default=True)
@_WORKSPACE
def logs(lines: int, workspace: Path | None) -> None:
    """Show the end of the engine's log."""
    where = places_of(resolve({"workspace": workspace})[0])
    for path in (where.crash_log, where.log):
        click.echo(f"# {path}", err=True)
        for line in _last(path, lines):
            click.echo(line)


def _last(path: Path, n_lines: int) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, n_lines)]
    except FileNotFoundError:
        return []


def _say(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    for name in _SHOWN:
        value = found.get(name)
        text = ", ".join(value) or "none" if isinstance(value, list) else str(value)
        click.echo(f"{name:<15}{text}")


def _tell(text: str) -> None:
    click.echo(f"meld: {text}", err=True)
