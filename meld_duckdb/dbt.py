"""The functions in dbt: a plugin of dbt-duckdb, named in a profile by ``module: meld_duckdb.dbt``.

dbt-duckdb opens a database once (and again after it was closed), and hands every node of a project
a cursor of it. Functions and the catalogue ``meld`` are seen by all of them.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from meld_duckdb.errors import ConfigError, MeldError
from meld_duckdb.progress import NOTICES
from meld_duckdb.register import begin_statement, register
from meld_duckdb.settings import AnswerSettings, Settings, resolve

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

try:
    from dbt.adapters.duckdb.plugins import BasePlugin
    from dbt.adapters.events.logging import AdapterLogger
    from dbt_common.exceptions import DbtRuntimeError
except ImportError as error:
    raise ConfigError(
        "dbt-duckdb is not installed", hint="pip install 'meld-duckdb[dbt]'"
    ) from error


class Plugin(BasePlugin):
    """Registers the functions on the database of a dbt project.

    The options under ``config`` are those of `meld_duckdb.Settings`. Progress is off unless it is
    switched on: dbt's own lines would be written into it. Notices go through dbt's logger, to its
    console and its log file, what every call did to its log file only.
    """

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Check the options, before anything is opened.

        Raises:
            DbtRuntimeError: One is unknown or has a bad value, or stands in the wrong place.
        """
        with _failing_as_dbt_does():
            self._settings = {"progress": False, **self._own(plugin_config)}
            resolve(self._settings)
        _log_through_dbt()

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Register the functions; on a database that has them, take over the options.

        Raises:
            DbtRuntimeError: The database goes by the name ``meld``, or has that one attached.
        """
        with _failing_as_dbt_does():
            register(conn, **self._settings)

    def configure_cursor(self, cursor: DuckDBPyConnection) -> None:
        """Count what the next node asks on lines of its own in ``meld.stats()``."""
        begin_statement(cursor)

    def _own(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options under ``config``; dbt-duckdb hands over DuckDB's ``settings`` among them."""
        of_duckdb = (self.creds.settings if self.creds else None) or {}
        for field in (*fields(Settings), *fields(AnswerSettings)):
            if field.name in of_duckdb:
                raise ConfigError(
                    f"{field.name!r} stands under 'settings' of the profile, which are DuckDB's",
                    hint=f"put it under 'config' of the plugin {__name__}",
                )
        return {key: value for key, value in config.items() if key not in of_duckdb}


@contextmanager
def _failing_as_dbt_does() -> Iterator[None]:
    """Let dbt show the message of an error; of errors that are not its own it shows the trace."""
    try:
        yield
    except MeldError as error:
        raise DbtRuntimeError(f"plugin {__name__}: {error}") from error


class _ThroughDbt(logging.Handler):
    """Hands what this package logs on to the running dbt."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to dbt's log."""
        logger, text = AdapterLogger("meld"), record.getMessage()
        if record.levelno >= logging.WARNING:
            logger.warning(text)
        elif record.name == NOTICES.name:
            logger.info(text)
        else:
            logger.debug(text)


def _log_through_dbt() -> None:
    log = logging.getLogger(__package__)
    if any(isinstance(handler, _ThroughDbt) for handler in log.handlers):
        return
    handler = _ThroughDbt()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # some library gives the root a handler that writes to standard error
    # Threads that outlive the interpreter keep loggers, and by the handler the module of DuckDB,
    # which then complains of leaks.
    atexit.register(log.removeHandler, handler)
