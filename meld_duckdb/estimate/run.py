"""Run a statement for an estimate: on a cursor on which our functions only count.

Temporary macros of the functions' names hide the functions from that cursor alone, also inside the
macros of ``meld`` and inside views. They call twins that are told which estimate they belong to:

    meld_match(a, b)  ->  __estimate_meld_match(17, a, b)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from meld_duckdb import interrupt
from meld_duckdb.arrow import as_array, python_values
from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.estimate.handlers import Estimate
from meld_duckdb.estimate.service import EstimateLine, EstimatingService
from meld_duckdb.estimate.statement import Trial, trial_of
from meld_duckdb.locks import ThreadLock
from meld_duckdb.planner.estimating import Sampler
from meld_duckdb.reading import read_schemas
from meld_duckdb.settings import Settings
from meld_duckdb.udfs import SqlFunction

_MOST_ARGUMENTS = 8
_TWIN = "__estimate_"

_SEEN = (
    "an estimate sees tables and views of the database, no temporary ones, no frames of Python and "
    "nothing that is not committed"
)

_RUNNING: dict[int, Estimate] = {}
_NUMBERS = itertools.count(1)
_LOCK = ThreadLock()

Connection = Callable[[], duckdb.DuckDBPyConnection | None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be estimated, and how.

    Attributes:
        statement: One SQL statement.
        sample: Different inputs of a task that are all looked at; None for the default.
        seed: Where chance begins.
        database: Database that names are looked up in first; None for that of a new cursor.
        schema: Its schema.
    """

    statement: str
    sample: int | None = None
    seed: int = 0
    database: str | None = None
    schema: str | None = None


def read_asked(columns: Sequence[pa.Array]) -> Asked | None:
    """Read the arguments of ``__meld_estimate``; None where the statement is NULL.

    Raises:
        InputError, ConfigError: They are not as expected.
    """
    values = [python_values(as_array(column)) for column in columns]
    if len(values) not in {1, 2} or len(values[0]) != 1:
        raise InputError("meld.estimate expects one statement", hint="FROM meld.estimate('...')")
    statement = values[0][0]
    options = values[1][0] if len(values) > 1 else None
    given: Mapping[str, Any] = options if isinstance(options, Mapping) else {}
    if statement is None:
        return None
    return Asked(
        str(statement),
        _whole("sample", given.get("sample"), 1),
        _whole("seed", given.get("seed"), 0) or 0,
        given.get("database"),
        given.get("schema"),
    )


def _whole(name: str, value: object, least: int) -> int | None:
    if value is None or (isinstance(value, int) and value >= least):
        return value
    raise ConfigError(f"option {name!r} is {value!r}, expected a whole number from {least} on")


class Twins:
    """The functions of one database that stand in for the real ones on a cursor.

    Args:
        functions: All SQL functions; those about the process itself have no twin.
        connection: A connection to the database, None once it is gone.
    """

    def __init__(self, functions: Sequence[SqlFunction], connection: Connection) -> None:
        self._functions = functions
        self._twins = [function for function in functions if not function.local]
        self._connection = connection
        self._lock = ThreadLock()
        self._calls: list[Callable[..., Any]] = []  # DuckDB keeps no reference to them

    def estimate(
        self, asked: Asked, settings: Settings, version: str, engine_is_up: bool
    ) -> list[EstimateLine]:
        """Run a statement on a cursor of its own; what it gives is thrown away.

        Args:
            asked: What is to be estimated.
            settings: Settings of the functions.
            version: Version of the package.
            engine_is_up: Whether an engine with loaded models will answer the statement.

        Raises:
            InputError: The statement cannot be estimated, or fails.
            MeldError: As the statement itself would.
        """
        connection = self._connection()
        if connection is None:
            raise InputError(
                "the connection on which the functions were registered is closed",
                hint="register them again: meld_duckdb.register(connection)",
            )
        service = EstimatingService(settings, Sampler(asked.sample, asked.seed))
        estimate = Estimate(service, self._functions, version)
        number = next(_NUMBERS)
        _RUNNING[number] = estimate
        try:
            with connection.cursor() as cursor:
                trial = trial_of(cursor, asked.statement)
                self._create(cursor)
                for function in self._twins:
                    cursor.execute(_macro(function, number))
                try:
                    _run(cursor, trial, asked)
                except InputError as error:
                    raise estimate.failure or error from None
            return service.lines(engine_is_up)
        finally:
            del _RUNNING[number]
            service.close()

    def _create(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Register the twins, once."""
        with self._lock:
            if self._calls:
                return
            for function in self._twins:
                call = self._twin(function)
                cursor.create_function(
                    f"{_TWIN}{function.name}",
                    call,
                    None,
                    function.returns,
                    type="arrow",
                    null_handling="special",
                    side_effects=function.volatile,
                )
                self._calls.append(call)

    def _twin(self, function: SqlFunction) -> Callable[..., Any]:
        # DuckDB reads the signature and evaluates its annotations: no names of lazy imports here.
        def call(*columns: Any) -> Any:
            numbers, *arguments = columns
            if not len(numbers):
                return pa.nulls(0)
            estimate = _RUNNING[as_array(numbers)[0].as_py()]
            with interrupt.answering():
                if function.reads:
                    arguments = list(read_schemas(arguments, self._connection))
                return estimate.answer(function, arguments)

        return call


def _macro(function: SqlFunction, number: int) -> str:
    """The macro that hides a function, for any number of arguments."""
    least = 1 if function.arguments else 0
    most = _MOST_ARGUMENTS if function.arguments else 0
    forms = []
    for n in range(least, most + 1):
        names = [f"a{i}" for i in range(n)]
        given = ", ".join([str(number), *names])
        forms.append(f"({', '.join(names)}) AS {_TWIN}{function.name}({given})")
    return f"CREATE TEMP MACRO {function.name}{', '.join(forms)}"


def _run(cursor: duckdb.DuckDBPyConnection, trial: Trial, asked: Asked) -> None:
    """Run what is tried; results are not even fetched.

    Raises:
        InputError: It fails.
    """
    try:
        _look_up_as(cursor, asked)
        if not trial.rolled_back:
            cursor.execute(f"EXPLAIN ANALYZE {trial.text}")
            return
        cursor.execute("BEGIN")
        try:
            cursor.execute(trial.text)
        finally:
            cursor.execute("ROLLBACK")
    except duckdb.Error as error:
        interrupt.check()  # DuckDB makes an error of that
        missing = isinstance(error, duckdb.CatalogException)
        raise InputError(
            f"the statement fails: {error}", hint=_SEEN if missing else None
        ) from error


def _look_up_as(cursor: duckdb.DuckDBPyConnection, asked: Asked) -> None:
    """Look names up where the caller does; nothing is set, which may be forbidden, without need."""
    if asked.database in {None, "system", "temp"}:
        return
    here = cursor.execute("SELECT current_database(), current_schema()").fetchone()
    if here != (asked.database, asked.schema):
        cursor.execute(f"USE {_quoted(asked.database)}.{_quoted(asked.schema)}")


def _quoted(name: str | None) -> str:
    return '"' + str(name or "main").replace('"', '""') + '"'
