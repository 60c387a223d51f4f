"""Bind the SQL functions to a DuckDB database: fast, idempotent, importing nothing heavy.

Functions live in ``system.main`` and are seen by every connection to the same database in this
process. Macros live in an attached in-memory catalogue ``meld``. Nothing is written to the user's
file.
"""

from __future__ import annotations

import importlib
import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from meld_duckdb import interrupt, progress
from meld_duckdb.daemon.remote import Remote, joined_lines
from meld_duckdb.errors import ConfigError, MeldError
from meld_duckdb.locks import ThreadLock
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.udfs import SqlFunction

if TYPE_CHECKING:
    from meld_duckdb.estimate.run import Asked, Twins
    from meld_duckdb.estimate.service import EstimateLine
    from meld_duckdb.handlers import Handlers

CATALOGUE = "meld"
FAMILIES = (
    "match",
    "detect_error",
    "repair",
    "impute",
    "annotate_column",
    "extract_relation",
    "link_entity",
    "schema_match",
    "extract_attribute",
    "kcmf",
    "retrieval",
    "tables",
    "explain",
    "estimate",
    "certify",
    "admin",
)
_IDENTITY = "registration"
_LOCKED = (
    "close it in the process that is named; open it there and here for reading only; or ask the "
    "process that has it, by meld serve"
)
_OF_BOTH = ("stats", "errors")
"""Handlers that show what an engine did and what was done here."""


# DuckDB keeps no reference to the callables of a cursor that died, and crashes when it calls one
# (duckdb-python#530): every registration is kept for the life of the process.
_REGISTRATIONS: dict[str, Registration] = {}
_NUMBERS = itertools.count(1)
_LOCK = ThreadLock()


def register(
    connection: duckdb.DuckDBPyConnection, **settings: object
) -> duckdb.DuckDBPyConnection:
    """Make the ``meld_*`` functions and the ``meld`` catalogue available on a connection.

    Calling it again, also on a cursor or another connection to the same database, does nothing
    unless settings are given that differ; then later calls use the new settings.

    Args:
        connection: Any DuckDB connection.
        **settings: Settings by name (see `meld_duckdb.Settings`), over ``MELD_*`` variables and
            ``meld.toml``.

    Returns:
        The same connection.

    Raises:
        ConfigError: A setting is unknown or has a bad value, or the user's own database already
            goes by the name ``meld``.
    """
    found, _ = resolve(settings)
    # The same directory for as long as the registration lives, wherever the process goes.
    resolved = replace(found, workspace=found.workspace.absolute())
    with _LOCK:
        present = _present(connection)
        if present is not None:
            if settings:
                present.use(resolved, settings)
            return connection
        registration = Registration(
            f"{next(_NUMBERS)}", resolved, settings, weakref.ref(connection)
        )
        # All on a cursor of its own: an open transaction of the user's is neither joined nor ended.
        with connection.cursor() as cursor:
            _attach(cursor)
            try:
                for function in load_functions():
                    _create(cursor, registration.callable(function), function)
                _create_macros(cursor)
                cursor.execute(f"CREATE MACRO {CATALOGUE}.{_IDENTITY}() AS '{registration.name}'")
            except duckdb.Error as error:
                cursor.execute(f"DETACH {CATALOGUE}")
                raise MeldError(
                    f"the functions cannot be registered: {error}",
                    hint=f"do not detach {CATALOGUE!r}; open the database anew",
                ) from error
        _REGISTRATIONS[registration.name] = registration
    return connection


def connect(
    database: str | Path = ":memory:", *, read_only: bool = False, **settings: object
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database with all functions registered.

    Args:
        database: File or ``":memory:"``.
        read_only: Whether the file is opened for reading only; several processes may at once.
        **settings: See `register`.

    Raises:
        ConfigError: The file cannot be opened, or as `register`.
    """
    try:
        connection = duckdb.connect(str(database), read_only=read_only)
    except duckdb.Error as error:
        raise ConfigError(
            f"{database} cannot be opened: {' '.join(str(error).split())}",
            hint=_LOCKED if "Could not set lock" in str(error) else None,
        ) from error
    return register(connection, **settings)


def load_functions() -> list[SqlFunction]:
    """All SQL functions of all families, in a fixed order."""
    functions: list[SqlFunction] = []
    for family in FAMILIES:
        functions.extend(importlib.import_module(f"meld_duckdb.udfs.{family}").FUNCTIONS)
    return functions


def estimate(
    connection: duckdb.DuckDBPyConnection, statement: str, *, sample: int | None = None
) -> list[EstimateLine]:
    """Tell what a statement will cost, without asking a language model or keeping anything.

    Args:
        connection: A connection on which the functions are registered.
        statement: One SQL statement.
        sample: Different inputs of a task that are all looked at; of more, a sample is.

    Returns:
        A line per function, then one for loading models; see ``FROM meld.estimate``.

    Raises:
        ConfigError: The functions are not registered.
        InputError: The statement cannot be estimated, or fails.
    """
    from meld_duckdb.estimate.run import Asked

    present = _present(connection)
    if present is None:
        raise ConfigError(
            "the functions are not registered on this connection",
            hint="meld_duckdb.register(connection)",
        )
    return present.estimate(Asked(statement, sample))


def begin_statement(connection: duckdb.DuckDBPyConnection) -> None:
    """Tell that a new statement begins, so that ``meld.stats()`` counts it on lines of its own."""
    present = _present(connection)
    if present is not None:
        present.begin_statement()


class Registration:
    """The functions of one database; its handlers are made at the first call.

    Args:
        name: Identity of the registration in this process.
        settings: Resolved settings.
        overrides: What the caller gave, to tell where settings came from.
        connection: The connection, as long as it lives.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        overrides: dict[str, object],
        connection: Callable[[], duckdb.DuckDBPyConnection | None],
    ) -> None:
        self.name = name
        self._settings = settings
        self._overrides = overrides
        self._connection = connection
        self._lock = ThreadLock()
        self._handlers: Handlers | None = None
        self._remote = _remote(settings)
        self._statement = 0
        self._calls: list[Callable[..., Any]] = []
        self._twins: Twins | None = None

    def use(self, settings: Settings, overrides: dict[str, object]) -> None:
        """Switch to other settings; the models of the old ones are let go."""
        with self._lock:
            if settings != self._settings:
                self._settings = settings
                self._overrides = overrides
                self._handlers = None
                self._remote = _remote(settings)

    def begin_statement(self) -> None:
        """Start new lines in the statistics, if anything was counted yet."""
        with self._lock:
            self._statement += 1
            if self._handlers is not None:
                self._handlers.service.stats.begin_statement()

    def callable(self, function: SqlFunction) -> Callable[..., Any]:
        """The Python callable behind one SQL function."""

        # DuckDB reads the signature and evaluates its annotations: no names of lazy imports here.
        def call(*columns: Any) -> Any:
            return self._answer(function, columns)

        def call_without_arguments() -> Any:
            return call()

        chosen = call if function.arguments else call_without_arguments
        self._calls.append(chosen)
        return chosen

    def _answer(self, function: SqlFunction, columns: Sequence[Any]) -> Any:
        """Have a call answered, so that Ctrl-C can stop it."""
        shown, whole = self._settings.progress, function.task is None
        with interrupt.answering(), progress.calling(function.name, whole=whole, shown=shown):
            try:
                return self._answered(function, columns)
            except (MemoryError, RuntimeError) as error:
                from meld_duckdb.engine.backend import is_out_of_memory, no_memory

                if not is_out_of_memory(error):
                    raise
                raise no_memory(function.name.removeprefix("__"), error) from error

    def _answered(self, function: SqlFunction, columns: Sequence[Any]) -> Any:
        """Have a call answered by the engine of the workspace, or here."""
        if function.stores and not self._settings.learn:
            raise ConfigError(
                f"{function.name.removeprefix('__')} is shut off: the setting 'learn' is false",
                hint="learn and index where it is true, or start meld serve with --allow-learn",
            )
        if function.runs:
            return self._estimated(columns)
        if function.reads:
            from meld_duckdb.reading import read_schemas

            columns = read_schemas(columns, self._connection)
        found = None
        if not function.local:
            found = self._remote.call(function.name, columns, self._statement)
            if found is not None and function.handler not in _OF_BOTH:
                return found
        own = self._handlers if found is not None else self._current_handlers()
        if own is None:
            return found
        here = getattr(own, function.handler)(function, columns)
        return here if found is None else joined_lines(found, here)

    def _estimated(self, columns: Sequence[Any]) -> Any:
        """Behind ``FROM meld.estimate``."""
        interrupt.import_apart("meld_duckdb.estimate.run")
        from meld_duckdb.estimate.run import read_asked
        from meld_duckdb.estimate.service import as_list

        asked = read_asked(columns)
        return as_list(self.estimate(asked) if asked is not None else [])

    def estimate(self, asked: Asked) -> list[EstimateLine]:
        """Tell what a statement will cost; see `estimate.run.Twins.estimate`."""
        from meld_duckdb import __version__
        from meld_duckdb.estimate.run import Twins

        with self._lock:
            if self._twins is None:
                self._twins = Twins(load_functions(), self._connection)
            twins, settings, engine_is_up = self._twins, self._settings, self._remote.is_there()
        return twins.estimate(asked, settings, __version__, engine_is_up)

    def _current_handlers(self) -> Handlers:
        with self._lock:
            if self._handlers is None:
                interrupt.import_apart("meld_duckdb.handlers")
                from meld_duckdb import __version__
                from meld_duckdb.handlers import Handlers
                from meld_duckdb.service import LocalService

                _, origins = resolve(self._overrides)
                self._handlers = Handlers(
                    LocalService(self._settings),
                    origins,
                    load_functions(),
                    __version__,
                )
            return self._handlers


def _remote(settings: Settings) -> Remote:
    """The engine of some settings; their relative paths are of the working directory of now."""
    from meld_duckdb import __version__

    return Remote(settings, __version__)


def _present(connection: duckdb.DuckDBPyConnection) -> Registration | None:
    """The registration of a connection's database, if there is one."""
    # A cursor of its own: the user's connection may hold a result that is not read to its end.
    # No query parameters: to bind them, DuckDB 1.5 imports pandas if it is installed.
    with connection.cursor() as cursor:
        if not cursor.execute(
            "SELECT 1 FROM duckdb_functions()"
            f" WHERE database_name = '{CATALOGUE}' AND function_name = '{_IDENTITY}'"
        ).fetchall():
            return None
        [(name,)] = cursor.execute(f"SELECT {CATALOGUE}.{_IDENTITY}()").fetchall()
    return _REGISTRATIONS.get(name)


def _create(
    connection: duckdb.DuckDBPyConnection, call: Callable[..., Any], function: SqlFunction
) -> None:
    connection.create_function(
        function.name,
        call,
        None if function.arguments else [],
        function.returns,
        type="arrow",
        null_handling="special",
        side_effects=function.volatile,
    )


def _attach(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute(
        f"SELECT path FROM duckdb_databases() WHERE database_name = '{CATALOGUE}'"
    ).fetchall()
    if rows:
        path = rows[0][0] or ":memory:"
        raise ConfigError(
            f"a database called {CATALOGUE!r} is already attached from {path}",
            hint=f"attach it under another name: ATTACH '{path}' AS my_data",
        )
    schemas = connection.execute(
        "SELECT database_name FROM duckdb_schemas() WHERE database_name = current_database()"
        f" AND lower(schema_name) = '{CATALOGUE}'"
    ).fetchall()
    if schemas:
        raise ConfigError(
            f"the database {schemas[0][0]!r} has a schema called {CATALOGUE!r}, so that "
            f"{CATALOGUE}.match could mean either",
            hint="rename the schema, or register on another database and ATTACH this one there",
        )
    try:
        connection.execute(f"ATTACH ':memory:' AS {CATALOGUE} (READ_WRITE)")
    except duckdb.Error as error:
        raise ConfigError(
            f"the catalogue {CATALOGUE!r} cannot be attached: {error}",
            hint="the connection must be allowed to attach a database in memory; no file is "
            "written",
        ) from error


def _create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    folder = resources.files("meld_duckdb.sql")
    for family in FAMILIES:
        connection.execute((folder / f"{family}.sql").read_text("utf-8"))
