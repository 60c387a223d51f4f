"""The process behind ``meld engine start``: ``python -m meld_duckdb.cli.engine_process``."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

import meld_duckdb
from meld_duckdb.daemon import lifecycle
from meld_duckdb.daemon.lifecycle import Tell
from meld_duckdb.daemon.options import Options
from meld_duckdb.daemon.report import Report
from meld_duckdb.errors import EngineError, MeldError
from meld_duckdb.register import load_functions
from meld_duckdb.settings import Settings, resolve

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--workspace", type=_PATH, required=True)
@click.option("--idle-timeout", type=float, default=0.0)
@click.option("--tcp", default="")
@click.option("--token-file", type=_PATH)
@click.option("--tls-cert", type=_PATH)
@click.option("--tls-key", type=_PATH)
@click.option("--ready-fd", type=int, required=True)
def main(
    workspace: Path,
    idle_timeout: float,
    tcp: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    ready_fd: int,
) -> None:
    """Serve a workspace and tell the process that waits on a pipe when it is ready."""
    faulthandler.enable()
    report = Report(ready_fd)
    options = Options(idle_timeout, tcp, token_file, tls_cert, tls_key)
    try:
        settings, _ = resolve({"workspace": workspace})
        serve(settings, options, report)
    except MeldError as error:
        report.fail(error)
        leave(1)
    except Exception as error:
        logging.getLogger(__name__).exception("the engine failed")
        report.fail(EngineError(f"the engine failed: {type(error).__name__}: {error}"))
        leave(1)
    leave()


def serve(settings: Settings, options: Options, tell: Tell) -> None:
    """Serve a workspace in this process; see `lifecycle.serve`."""
    lifecycle.serve(settings, options, load_functions(), meld_duckdb.__version__, tell)


def leave(code: int = 0) -> NoReturn:
    """End the process at once: threads may still be inside native code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
