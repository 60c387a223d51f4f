"""The store: rows of indexed tables, learned labels and facts, in LanceDB.

Every method sees what other processes have written; every write takes the workspace's write lock,
so that any number of processes may read while one writes and the others wait.
Paper: MELD §4.1, the corpus behind M_RAG.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from meld_duckdb.records import Record
from meld_duckdb.retrieval import schema
from meld_duckdb.retrieval.knowledge import Knowledge
from meld_duckdb.retrieval.schema import (
    Entry,
    Fact,
    FoundFact,
    Label,
    Neighbour,
    StoredTable,
    sql_in,
    sql_text,
)
from meld_duckdb.retrieval.search import search
from meld_duckdb.tasks.base import Demonstration, Query

if TYPE_CHECKING:
    from meld_duckdb.retrieval.lance import LanceTable

__all__ = ["Entry", "Fact", "FoundFact", "Label", "Neighbour", "Store", "StoredTable"]

_LOOKUP = 500
_SCANNED = 5_000
"""Records from which on their vectors are looked up in one pass over the table."""

_EARLIER = 20
"""Versions looked through for a table that was replaced while it was about to be read."""

_ROUNDING = 1e-3


class Store(Knowledge):
    """Entries, labels, facts and the list of tables of one workspace; see `RowStore`."""

    def entry_vectors(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Vectors already stored for records of any table, by record digest.

        Raises:
            ArtefactCorrupt: A stored vector is none.
        """
        table = self._open("entries")
        digests = list(dict.fromkeys(r.digest for r in records))
        found: dict[str, np.ndarray] = {}
        if table is None:
            return found
        own = f"encoder = {sql_text(self._encoder)} AND vector IS NOT NULL"
        if len(digests) > _SCANNED:
            wanted, filters = set(digests), [own]
        else:
            parts = (digests[i : i + _LOOKUP] for i in range(0, len(digests), _LOOKUP))
            wanted, filters = None, [f"{sql_in('record_digest', p)} AND {own}" for p in parts]
        for where in filters:
            for batch in self._batches("entries", table, where, ["record_digest", "vector"]):
                keys = batch.column("record_digest").to_pylist()
                vectors = self._checked(batch.column("vector"))
                for key, vector in zip(keys, vectors, strict=True):
                    if wanted is None or key in wanted:
                        found[key] = vector.copy() if wanted else vector
        return found

    def embedded_records(self, records: Sequence[Record]) -> set[str]:
        """Digests of those records, of any table, that have a vector."""
        table = self._open("entries")
        if table is None:
            return set()
        own = f"encoder = {sql_text(self._encoder)} AND vector IS NOT NULL"
        wanted = {r.digest for r in records}
        found: set[str] = set()
        for batch in self._batches("entries", table, own, ["record_digest"]):
            found.update(wanted.intersection(batch.column("record_digest").to_pylist()))
        return found

    def add_entries(
        self,
        table_digest: str,
        start: int,
        records: Sequence[Record],
        vectors: np.ndarray | None,
        splits: Sequence[str | None] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Add rows ``start`` onwards of a table; rows already there are replaced.

        Args:
            table_digest: Digest of the whole table's content.
            start: Position of the first record in the table.
            records: The rows, in table order.
            vectors: float32 [n, d], or None to store no vectors.
            splits: Split of each row, None for none.
            fresh: None of these rows is there yet: they are appended, three times as fast.
        """
        n_rows = len(records)
        encoder = None if vectors is None else self._encoder
        rows = self._rows(
            "entries",
            {
                "key": [f"{table_digest}/{start + i}" for i in range(n_rows)],
                "table_digest": [table_digest] * n_rows,
                "position": list(range(start, start + n_rows)),
                "record_digest": [r.digest for r in records],
                "fields": [schema.encode_record(r) for r in records],
                "text": [schema.storable(r.text) for r in records],
                "split": [None] * n_rows if splits is None else list(map(schema.storable, splits)),
                "encoder": [encoder] * n_rows,
            },
            [None] * n_rows if vectors is None else vectors,
        )
        self._write("entries", rows, fresh=fresh)

    def stored_rows(self, table_digest: str) -> dict[int, tuple[str, str | None, bool]]:
        """Rows of a table that are there: position to record digest, split, whether embedded."""
        table = self._open("entries")
        found: dict[int, tuple[str, str | None, bool]] = {}
        if table is None:
            return found
        names = ["position", "record_digest", "split", "encoder"]
        where = f"table_digest = {sql_text(table_digest)}"
        for batch in self._batches("entries", table, where, names):
            columns = (batch.column(name).to_pylist() for name in names)
            for position, record, split, encoder in zip(*columns, strict=True):
                found[position] = (record, split, encoder == self._encoder)
        return found

    def set_splits(self, table_digest: str, start: int, splits: Sequence[str | None]) -> None:
        """Change the splits of stored rows ``start`` onwards, and nothing else of them."""
        kinds = [("key", pa.string()), ("split", pa.string())]
        keys = [f"{table_digest}/{start + i}" for i in range(len(splits))]
        rows = pa.table({"key": keys, "split": list(splits)}, schema=pa.schema(kinds))
        self._update("entries", rows)

    def entries(self, table_digest: str, n_rows: int | None = None) -> list[Record]:
        """The records of an indexed table, in order.

        Args:
            table_digest: Digest of its content.
            n_rows: How many there must be, if the catalogue said so. A table that was replaced
                since then is read as it was.

        Raises:
            ArtefactCorrupt: Rows are missing or changed.
        """
        table = self._open("entries")
        if table is None:
            return []
        records = self._read_entries(table, table_digest)
        if not records and n_rows:
            for earlier in self.lance.earlier("entries", _EARLIER):
                records = self._read_entries(earlier, table_digest)
                if records:
                    break
        if records and n_rows not in {None, len(records)}:
            raise self.damaged("entries", f"{len(records)} of the {n_rows} rows of a table left")
        return records

    def count_entries(self, table_digest: str) -> int:
        """Number of stored rows of a table."""
        return self._count("entries", f"table_digest = {sql_text(table_digest)}")

    def remove_entries(self, table_digests: Sequence[str]) -> None:
        """Forget the rows of tables that no name means any more."""
        if table_digests:
            self._delete("entries", sql_in("table_digest", table_digests))

    def keep_entries(self, table_digests: Sequence[str]) -> int:
        """Forget the rows of all tables but these; gives how many rows that were."""
        where = f"NOT ({sql_in('table_digest', table_digests)})"
        n_rows = self._count("entries", where)
        if n_rows:
            self._delete("entries", where)
        return n_rows

    def search_entries(
        self,
        vectors: np.ndarray | None,
        k: int,
        *,
        text: Sequence[str] | None = None,
        tables: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        without_splits: Sequence[str] | None = None,
    ) -> list[list[Entry]]:
        """Search the rows of indexed tables by vectors, by words, or by both.

        Args:
            vectors: float32 [n, d], L2-normalised, one per query; None to search by words alone.
            k: How many rows at most per query.
            text: Words of each query; with vectors the two rankings are fused by reciprocal rank.
            tables: Digests of the tables searched; None for all that are indexed.
            splits: Only rows of these splits.
            without_splits: No rows of these splits; rows without a split are searched.

        Returns:
            The rows found for each query, best first, ties by key.
        """
        n_queries = len(text or ()) if vectors is None else len(vectors)
        digests = [t.digest for t in self.tables()] if tables is None else list(tables)
        table = self._open("entries")
        if table is None or not digests or k < 1 or not n_queries:
            return [[] for _ in range(n_queries)]
        filters = [sql_in("table_digest", digests)]
        if splits is not None:
            filters.append(sql_in("split", splits))
        if without_splits:
            filters.append(f"(split IS NULL OR NOT ({sql_in('split', without_splits)}))")
        columns = ["key", "table_digest", "position", "fields"]
        where = " AND ".join(filters)
        with self.lance.guard("entries"):
            rows = search(table, k, columns, where, self._encoder, vectors, text)
        return [[_entry(row) for row in found] for found in rows]

    def add_labels(self, labels: Sequence[Label]) -> None:
        """Store labels; a label for a query already labelled replaces the earlier one."""
        self._write("labels", self._label_rows(labels))

    def set_label_vectors(self, labels: Sequence[Label]) -> None:
        """Store the vectors of labels that are still there with the same answer."""
        if self._open("labels") is not None and labels:
            rows = self._label_rows(labels).select(["key", "answer", "encoder", "vector"])
            self._update("labels", rows, "target.answer = source.answer")

    def labels(self, task: str) -> list[Demonstration]:
        """All labels of a task, in order of their keys.

        Raises:
            ArtefactCorrupt: A label is changed.
        """
        return [Demonstration(x.query, x.answer) for x in self._labels(f"task = {sql_text(task)}")]

    def all_labels(self) -> dict[str, dict[str, str]]:
        """Answers by task and digest of the query."""
        found: dict[str, dict[str, str]] = {}
        for label in self._labels("true"):
            found.setdefault(label.task, {})[label.query.digest] = label.answer
        return found

    def labels_to_embed(self, task: str) -> list[Label]:
        """Labels of a task without a vector of this encoder, in order of their keys."""
        missing = f"(encoder IS NULL OR encoder <> {sql_text(self._encoder)} OR vector IS NULL)"
        return self._labels(f"task = {sql_text(task)} AND {missing}")

    def nearest_labels(
        self, task: str, vectors: np.ndarray, k: int, answer: str | None = None
    ) -> list[list[Neighbour]]:
        """The ``k`` labels of a task most similar to each query; best first, ties by key.

        Args:
            task: Name of the task.
            vectors: float32 [n, d], L2-normalised, one per query.
            k: How many at most.
            answer: Only labels with this answer, if given.
        """
        table = self._open("labels")
        if table is None:
            return [[] for _ in vectors]
        where = f"task = {sql_text(task)}"
        if answer is not None:
            where += f" AND answer = {sql_text(answer)}"
        columns = ["key", "task", "query", "answer"]
        with self.lance.guard("labels"):
            rows = search(table, k, columns, where, self._encoder, vectors, None)
        return [[self._neighbour(row) for row in found] for found in rows]

    def tables(self) -> list[StoredTable]:
        """All indexed tables, oldest first."""
        rows = self._dicts("tables", "true", schema.columns("tables"))
        return sorted((StoredTable(row.pop("key"), **row) for row in rows), key=lambda t: t.ordinal)

    def put_table(self, table: StoredTable) -> None:
        """Enter a table whose rows are all there, replacing what its name meant before."""
        rows: dict[str, list[object]] = {
            "key": [table.name],
            "digest": [table.digest],
            "n_rows": [table.n_rows],
            "ordinal": [table.ordinal],
            "encoder": [table.encoder],
            "split_column": [table.split_column],
        }
        self._write("tables", self._rows("tables", rows, None))

    def drop_table(self, name: str) -> None:
        """Forget a table's name."""
        self._delete("tables", f"key = {sql_text(name)}")

    def remove_damaged(self) -> dict[str, int]:
        """Forget labels and rows that are not what was stored; gives how many of each."""
        columns = ("position", "record_digest", "fields")
        return {
            "labels": self.remove_where_damaged("labels", ("task", "query"), self._label_query),
            "rows": self.remove_where_damaged(
                "entries", columns, lambda row: self._stored_record(*(row[c] for c in columns))
            ),
        }

    def migrate(self, encoder: str) -> None:
        """Give rows of version 1 the columns of today; their vectors are those of ``encoder``."""
        for name in ("entries", "labels"):
            table = self.lance.open(name)
            if table is None or "encoder" in table.schema.names:
                continue
            wanted = schema.schema(name, self._dimension)
            with self.lance.guard(name):
                batches = table.search().limit(None).to_batches()
                rows = pa.RecordBatchReader.from_batches(
                    wanted, (schema.migrated(batch, wanted, encoder) for batch in batches)
                )
                self.lance.replace(name, rows)
            if name in schema.SEARCHED:
                self.lance.index_words(name, schema.SEARCHED[name])

    def _read_entries(self, table: LanceTable, table_digest: str) -> list[Record]:
        names = ["position", "record_digest", "fields"]
        where = f"table_digest = {sql_text(table_digest)}"
        found: dict[int, Record] = {}
        for batch in self._batches("entries", table, where, names):
            columns = (batch.column(name).to_pylist() for name in names)
            for position, record_digest, fields in zip(*columns, strict=True):
                found[position] = self._stored_record(position, record_digest, fields)
        return [found[position] for position in sorted(found)]

    def _stored_record(self, position: int, record_digest: str, fields: str) -> Record:
        try:
            record = schema.decode_record(fields)
        except ValueError as error:
            raise self.damaged("entries", f"row {position} cannot be read") from error
        if record.digest != record_digest:
            raise self.damaged("entries", f"row {position} is not what was stored")
        return record

    def _checked(self, column: pa.Array) -> np.ndarray:
        """Vectors of a column, float32 [n, d]; each must be of length 1, or nothing but zeros."""
        vectors = schema.vector_matrix(pa.chunked_array([column]), self._dimension)
        norms = np.linalg.norm(vectors, axis=1)
        good = (np.abs(norms - 1.0) < _ROUNDING) | (norms == 0.0)
        if not good.all():
            raise self.damaged("entries", f"{int((~good).sum())} vectors are not of length 1")
        return vectors

    def _label_rows(self, labels: Sequence[Label]) -> pa.Table:
        return self._rows(
            "labels",
            {
                "key": [schema.label_key(x.task, x.query) for x in labels],
                "task": [x.task for x in labels],
                "query": [schema.encode_query(x.query) for x in labels],
                "answer": [x.answer for x in labels],
                "learned_at": [dt.datetime.now(dt.UTC)] * len(labels),
                "encoder": [None if x.vector is None else self._encoder for x in labels],
            },
            [x.vector for x in labels],
        )

    def _labels(self, where: str) -> list[Label]:
        return [
            Label(row["task"], self._label_query(row), row["answer"])
            for row in self._dicts("labels", where, ["key", "task", "query", "answer"])
        ]

    def _label_query(self, row: dict[str, Any]) -> Query:
        try:
            query = schema.decode_query(row["query"])
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged("labels", f"label {row['key']} cannot be read") from error
        if schema.label_key(row["task"], query) != row["key"]:
            raise self.damaged("labels", f"label {row['key']} is not what was stored")
        return query

    def _neighbour(self, row: dict[str, Any]) -> Neighbour:
        return Neighbour(Demonstration(self._label_query(row), row["answer"]), row["similarity"])


def _entry(row: dict[str, Any]) -> Entry:
    record = schema.decode_record(row["fields"])
    return Entry(record, row["table_digest"], row["position"], row["similarity"])
