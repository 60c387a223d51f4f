"""Make a report: ask, judge, put the sections together, write one file."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from meld_duckdb import __version__
from meld_duckdb.report.asked import Asked, ask
from meld_duckdb.report.judged import judge
from meld_duckdb.report.page import render
from meld_duckdb.report.sections import (
    asked_section,
    failures_section,
    run_section,
    stored_section,
)
from meld_duckdb.report.view import Report
from meld_duckdb.report.wanted import Wanted
from meld_duckdb.service import LocalService
from meld_duckdb.settings import Settings
from meld_duckdb.workspace import is_workspace, write_atomic

if TYPE_CHECKING:
    import duckdb


def make_report(
    con: duckdb.DuckDBPyConnection, settings: Settings, wanted: Wanted, title: str, out: Path
) -> None:
    """Run what is wanted and write the page.

    Args:
        con: A connection with the functions registered; gets temporary tables.
        settings: The settings it was registered with.
        wanted: What the page shows.
        title: Its heading.
        out: The file to write; it appears once it is whole.

    Raises:
        InputError: A table or its key column is not there.
    """
    started = time.perf_counter()
    asked: list[Asked] = [ask(con, call, wanted, i) for i, call in enumerate(wanted.calls, 1)]
    seconds = time.perf_counter() - started
    sections = []
    for i, one in enumerate(asked, 1):
        judged = None
        if is_workspace(settings.workspace):
            judged = judge(LocalService(settings).session, con, one.call, one.cut)
        sections.append(asked_section(con, one, judged, wanted, f"asked-{i}"))
    sections.append(stored_section(settings))
    if asked:
        sections.append(failures_section(asked, messages=wanted.show_rows))
    sections.append(run_section(con, settings, asked, seconds))
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    lead = f"Made by meld-duckdb {__version__}, {made}."
    if asked and not wanted.show_rows:
        lead += " Statistics only: contents of rows were left out (--no-rows)."
    write_atomic(out, render(Report(title, lead, sections)))
