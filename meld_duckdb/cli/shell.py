"""The interactive shell: history, completion of meld functions, statements end with ``;``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import duckdb

from meld_duckdb import interrupt
from meld_duckdb.cli.run import one_line, run_statements
from meld_duckdb.register import load_functions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

_LEAVE = frozenset({"exit", "quit", "exit;", "quit;"})
_HISTORY = Path.home() / ".meld_history"
_GREETING = """meld shell on {database}. End statements with ;
FROM meld.help();  lists the functions,  quit  leaves."""


def run_shell(connection: duckdb.DuckDBPyConnection, database: str) -> None:
    """Read and run statements until the end of the input or ``quit``.

    An error ends a piped input with a failure, and is only shown in an interactive shell.
    """
    if not sys.stdin.isatty():
        run_statements(connection, sys.stdin.read())
        return
    click.echo(_GREETING.format(database=database))
    session = _prompt_session(connection)
    while True:
        try:
            text = session.prompt("meld> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.strip().lower() in _LEAVE:
            return
        _run(connection, text)


def _run(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    try:
        run_statements(connection, text)
    except KeyboardInterrupt:
        click.echo(interrupt.STOPPED, err=True)
    except Exception as error:  # noqa: BLE001  (a shell shows every error and goes on)
        stopped = interrupt.is_set()
        click.echo(interrupt.STOPPED if stopped else f"error: {one_line(error)}", err=True)


def completions(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Words the shell completes: meld functions and macros, tables, columns, SQL keywords."""
    words = [f.name for f in load_functions() if not f.name.startswith("__")]
    macros = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE database_name = 'meld'"
        " AND function_name <> 'registration'"
        " AND function_type IN ('macro', 'table_macro')"
    ).fetchall()
    words += [f"meld.{name}" for (name,) in macros]
    for query in (
        "SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views()"
        " WHERE NOT internal",
        "SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal",
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'",
    ):
        words += [name for (name,) in connection.execute(query).fetchall()]
    return sorted(set(words))


def _prompt_session(connection: duckdb.DuckDBPyConnection):  # type: ignore[no-untyped-def]
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

    class MeldCompleter(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            words = WordCompleter(completions(connection), ignore_case=True, WORD=True)
            yield from words.get_completions(document, event)

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if not text or text.endswith(";") or text.lower() in _LEAVE:
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return PromptSession(
        history=FileHistory(str(_HISTORY)),
        completer=MeldCompleter(),
        complete_while_typing=False,
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  ... ",
    )
