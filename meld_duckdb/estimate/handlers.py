"""The handlers of an estimate: those of every answer, but for what changes the workspace."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from meld_duckdb.arrow import as_array
from meld_duckdb.errors import MeldError
from meld_duckdb.estimate.service import EstimatingService
from meld_duckdb.handlers import Handlers
from meld_duckdb.handlers.base import only_rows, table_records
from meld_duckdb.udfs import SqlFunction

_INDEXED = pa.struct(
    [
        ("table_name", pa.string()),
        ("entries", pa.int64()),
        ("embedded", pa.int64()),
        ("digest", pa.string()),
        ("seconds", pa.float64()),
    ]
)


class EstimatingHandlers(Handlers):
    """Handlers over a service that estimates."""

    service: EstimatingService

    def index(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.index(t)``: nothing is indexed."""
        name, rows, _ = only_rows(function, columns)
        n_rows = len(table_records(rows))
        self.service.leave_out("meld.index", n_rows)
        return pa.array([{"table_name": str(name), "entries": n_rows}], _INDEXED)

    def learn(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_learn(task, query, answer)``: no label is stored."""
        n_rows = len(as_array(columns[0]))
        self.service.leave_out("meld_learn", n_rows)
        return pa.nulls(n_rows, pa.bool_())


class Estimate:
    """One statement that is being estimated: what answers its functions instead.

    Args:
        service: Counts what they cost.
        functions: All SQL functions, for help.
        version: Version of the package.

    Attributes:
        service: The same.
        failure: Why a function could not answer; DuckDB hands on no more than its text.
    """

    def __init__(
        self, service: EstimatingService, functions: Sequence[SqlFunction], version: str
    ) -> None:
        self.service = service
        self.failure: MeldError | None = None
        self._handlers = EstimatingHandlers(service, [], functions, version)

    def answer(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Answer a call of a function as if it were real, and count what that would cost."""
        try:
            with self.service.calling(function) as note_rows:
                result: pa.Array = getattr(self._handlers, function.handler)(function, columns)
                is_list = pa.types.is_list(result.type) and function.name.startswith("__")
                note_rows(len(result.flatten()) if is_list else len(result))
                return result
        except MeldError as error:
            self.failure = error
            raise
