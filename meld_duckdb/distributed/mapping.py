"""A SELECT over every partition of a table: the task functions, and all else that DuckDB can."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import duckdb
import pyarrow as pa

from meld_duckdb.distributed.chunks import Chunks
from meld_duckdb.distributed.worker import Answering, Computed
from meld_duckdb.errors import InputError
from meld_duckdb.records import digest
from meld_duckdb.register import begin_statement, register
from meld_duckdb.service import LocalService, use_session

PART = "part"
"""What a statement calls the rows of its partition."""


@dataclass
class MapStage:
    """Runs a statement over each chunk of a table.

    Attributes:
        statement: A SELECT from `PART`.
        chunks: The table.
        answering: How the functions answer.
        identity: Of settings and workspace.
    """

    asks: ClassVar[bool] = True
    statement: str
    chunks: Chunks
    answering: Answering
    identity: str
    name: str = "map"

    def key(self, number: int) -> str:
        """See `Stage.key`: other partitions have no part in it."""
        return digest(self.name, self.identity, self.statement, self.chunks.digests[number])

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        use_session(service.session)
        connection = self._connection
        [before] = _one(connection, "SELECT coalesce(max(statement), 0) FROM meld.stats()")
        rows = self._run(self.chunks.chunk(number))
        [failures] = _one(
            connection,
            "SELECT coalesce(sum(failures), 0)::BIGINT FROM meld.stats() "
            f"WHERE statement > {before}",
        )
        if not failures:
            return Computed(rows)
        said = connection.execute("SELECT code, message FROM meld.errors()").fetchall()
        return Computed(rows, failures, ": ".join(map(str, said[-1])) if said else "")

    def check(self) -> None:
        """Look at the statement without running it.

        Raises:
            InputError: It cannot be run.
        """
        try:
            self._run(self.chunks.chunk(0).slice(0, 0))
        except duckdb.Error as error:
            raise InputError(
                f"the statement fails: {' '.join(str(error).split())}",
                hint=f"the rows are called {PART}: SELECT id, meld_impute(t, 'brand') FROM "
                f"{PART} AS t",
            ) from error

    def _run(self, rows: pa.Table) -> pa.Table:
        begin_statement(self._connection)
        self._connection.register(PART, rows)
        found = self._connection.sql(self.statement)
        if found is None:
            raise InputError("the statement gives no rows", hint=f"SELECT ... FROM {PART} AS t")
        return found.to_arrow_table()

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return register(duckdb.connect(), **self.answering.settings)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_connection"}


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    [row] = connection.execute(query).fetchall()
    return tuple(row)
