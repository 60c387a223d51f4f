"""Reading and writing rows of the LanceDB tables: what the parts of the store share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible
from meld_duckdb.locks import FileLock
from meld_duckdb.retrieval import schema
from meld_duckdb.retrieval.lance import MENDING, Lance

if TYPE_CHECKING:
    from meld_duckdb.retrieval.lance import LanceTable

_UNKNOWN_DIMENSION = 1


class RowStore:
    """Tables of a LanceDB database whose writes take turns. Safe for processes.

    Args:
        path: Directory of the LanceDB database; made on first write. The lock lies beside it.
        dimension: Length of the vectors; None takes that of the stored ones.
        encoder: Digest of the encoder: vectors of other encoders count as not there.
        lock: Lock of all writes; by default the file ``write.lock`` beside the database.
    """

    def __init__(
        self,
        path: Path,
        dimension: int | None = None,
        encoder: str = "",
        lock: FileLock | None = None,
    ) -> None:
        self.lance = Lance(path)
        self.lock = lock or FileLock(path.with_name("write.lock"), f"which is writing to {path}")
        self._encoder = encoder
        self._given_dimension = dimension

    @property
    def _dimension(self) -> int:
        """Length of the vectors: as given, else of those that are stored now."""
        if self._given_dimension is not None:
            return self._given_dimension
        for name in self.lance.names():
            table = self.lance.open(name)
            if table is not None and "vector" in table.schema.names:
                return int(table.schema.field("vector").type.list_size)
        return _UNKNOWN_DIMENSION  # nothing is stored, and nothing will be without an encoder

    def _open(self, name: str) -> LanceTable | None:
        """The newest version of a table, None where there is none.

        Raises:
            ArtefactIncompatible: Its vectors have another length.
        """
        table = self.lance.open(name)
        if table is not None and "vector" in table.schema.names:
            stored = table.schema.field("vector").type.list_size
            if stored != self._dimension:
                raise ArtefactIncompatible(
                    f"the vectors of {self.lance.path} have {stored} numbers, those of the "
                    f"encoder {self._dimension}",
                    hint="go back to an encoder with vectors of that length, or forget these: "
                    "meld workspace rebuild --vectors",
                )
        return table

    def _rows(
        self,
        name: str,
        columns: Mapping[str, Sequence[object]],
        vectors: Sequence[np.ndarray | None] | np.ndarray | None,
    ) -> pa.Table:
        """Columns of a table as Arrow, in the order of its schema."""
        kinds = schema.schema(name, self._dimension)
        arrays = {
            name: pa.array(values, kinds.field(name).type) for name, values in columns.items()
        }
        if vectors is not None:
            arrays["vector"] = schema.vector_array(vectors, self._dimension)
        return pa.table([arrays[name] for name in kinds.names], schema=kinds)

    def _write(self, name: str, rows: pa.Table, *, fresh: bool = False) -> None:
        """Insert rows, or replace those with the same key; ``fresh`` rows have no double."""
        if not len(rows):
            return
        kinds = schema.schema(name, self._dimension)
        with self.lock.hold():
            self._open(name)
            table = self.lance.make(name, kinds, schema.SEARCHED.get(name))
            with self.lance.guard(name):
                if fresh:
                    table.add(rows, on_bad_vectors="null")  # NULL where nothing is embedded
                    return
                (
                    table.merge_insert("key")
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .execute(rows, on_bad_vectors="null")
                )

    def _update(self, name: str, rows: pa.Table, where: str | None = None) -> None:
        """Change some columns of rows that are there, by key; others are not made."""
        with self.lock.hold():
            table = self._open(name)
            if table is not None and len(rows):
                with self.lance.guard(name):
                    merge = table.merge_insert("key").when_matched_update_all(where=where)
                    merge.execute(rows, on_bad_vectors="null")

    def _delete(self, name: str, where: str) -> None:
        with self.lock.hold():
            table = self._open(name)
            if table is not None:
                with self.lance.guard(name):
                    table.delete(where)

    def _count(self, name: str, where: str) -> int:
        table = self._open(name)
        if table is None:
            return 0
        with self.lance.guard(name):
            return int(table.count_rows(where))

    def _batches(
        self, name: str, table: LanceTable, where: str, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """The rows that pass a filter, some columns of them, part by part."""
        with self.lance.guard(name):
            query = table.search().where(where).select(list(columns)).limit(None)
            yield from query.to_batches()

    def _dicts(self, name: str, where: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows that pass a filter, in order of their keys; none where there is no table."""
        table = self._open(name)
        if table is None:
            return []
        batches = self._batches(name, table, where, columns)
        rows: list[dict[str, Any]] = [row for batch in batches for row in batch.to_pylist()]
        return sorted(rows, key=lambda row: str(row["key"]))

    def remove_where_damaged(
        self, name: str, columns: Sequence[str], read: Callable[[dict[str, Any]], object]
    ) -> int:
        """Forget the rows that a reader of some columns finds damaged; gives how many."""
        table = self._open(name)
        keys: list[str] = []
        for batch in () if table is None else self._all(name, table, ["key", *columns]):
            for row in batch.to_pylist():
                try:
                    read(row)
                except ArtefactCorrupt:
                    keys.append(row["key"])
        if keys:
            self._delete(name, schema.sql_in("key", keys))
        return len(keys)

    def forget_vectors(self, dimension: int) -> None:
        """Forget the vectors of all tables: from now on they have another length."""
        for name in self.lance.names():
            table = self.lance.open(name)
            if table is None or "vector" not in table.schema.names:
                continue
            wanted = schema.schema(name, dimension)
            kept = [column for column in wanted.names if column != "vector"]
            batches = (schema.without_vectors(b, wanted) for b in self._all(name, table, kept))
            self.lance.replace(name, pa.RecordBatchReader.from_batches(wanted, batches))
            if name in schema.SEARCHED:
                self.lance.index_words(name, schema.SEARCHED[name])

    def _all(
        self, name: str, table: LanceTable, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        with self.lance.guard(name):
            yield from table.search().select(list(columns)).limit(None).to_batches()

    def damaged(self, name: str, what: str) -> ArtefactCorrupt:
        """Word the damage of a table that LanceDB itself does not see."""
        return ArtefactCorrupt(
            f"the LanceDB table {self.lance.path / f'{name}.lance'} is damaged: {what}",
            hint=MENDING,
        )
