"""The LanceDB store: tables ``entries`` (rows of indexed tables) and ``labels`` (learned answers).

The only module that imports lancedb. Search is exact: below 100,000 rows a scan takes milliseconds.
Paper: MELD §4.1, the corpus behind M_RAG.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.records import Record, digest, make_record
from meld_duckdb.tasks.base import Demonstration, Query

if TYPE_CHECKING:
    import lancedb

_LOOKUP = 500
_SPARE = 4
"""Neighbours fetched beyond those wanted, so that ties are broken by key and not by chance."""


@dataclass(frozen=True, slots=True)
class Label:
    """A learned answer with the embedding of its query (float32 [d], L2-normalised).

    The embedding is None until somebody looks for similar labels.
    """

    task: str
    query: Query
    answer: str
    vector: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A label found by similarity, with its cosine to the query in [-1, 1]."""

    demonstration: Demonstration
    similarity: float


class Store:
    """Entries and labels of one workspace.

    Args:
        path: Directory of the LanceDB database; made on first write.
        dimension: Length of the vectors.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        import lancedb

        self._db = lancedb.connect(str(path))
        self._dimension = dimension

    def entry_vectors(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Vectors already stored for records of any table, by record digest."""
        table = self._table("entries")
        found: dict[str, np.ndarray] = {}
        digests = list(dict.fromkeys(r.digest for r in records))
        for start in range(0, len(digests), _LOOKUP):
            part = ", ".join(f"'{d}'" for d in digests[start : start + _LOOKUP])
            rows = (
                table.search()
                .where(f"record_digest IN ({part}) AND vector IS NOT NULL")
                .select(["record_digest", "vector"])
                .limit(None)
                .to_arrow()
            )
            vectors = _matrix(rows.column("vector"), self._dimension)
            found.update(zip(rows.column("record_digest").to_pylist(), vectors, strict=True))
        return found

    def add_entries(
        self,
        table_digest: str,
        start: int,
        records: Sequence[Record],
        vectors: np.ndarray | None,
    ) -> None:
        """Add rows ``start`` onwards of a table; rows already there are replaced.

        Args:
            table_digest: Digest of the whole table's content.
            start: Position of the first record in the table.
            records: The rows, in table order.
            vectors: float32 [n, d], or None to store no vectors.
        """
        rows = pa.table(
            {
                "key": [f"{table_digest}/{start + i}" for i in range(len(records))],
                "table_digest": [table_digest] * len(records),
                "position": pa.array(range(start, start + len(records)), pa.int64()),
                "record_digest": [r.digest for r in records],
                "fields": [json.dumps(list(r.fields.items())) for r in records],
                "vector": _vector_array(vectors, len(records), self._dimension),
            },
            schema=self._schema("entries"),
        )
        self._upsert("entries", rows)

    def entries(self, table_digest: str) -> list[Record]:
        """The records of an indexed table, in order."""
        rows = (
            self._table("entries")
            .search()
            .where(f"table_digest = '{table_digest}'")
            .select(["position", "fields"])
            .limit(None)
            .to_arrow()
            .sort_by("position")
        )
        return [make_record(dict(json.loads(f))) for f in rows.column("fields").to_pylist()]

    def count_entries(self, table_digest: str) -> int:
        """Number of stored rows of a table."""
        return int(self._table("entries").count_rows(f"table_digest = '{table_digest}'"))

    def remove_entries(self, table_digest: str) -> None:
        """Forget the rows of a table that no name means any more."""
        self._table("entries").delete(f"table_digest = '{table_digest}'")

    def add_labels(self, labels: Sequence[Label]) -> None:
        """Store labels; a label for a query already labelled replaces the earlier one."""
        rows = pa.table(
            {
                "key": [digest(label.task, label.query.digest) for label in labels],
                "task": [label.task for label in labels],
                "query": [_encode_query(label.query) for label in labels],
                "answer": [label.answer for label in labels],
                "vector": pa.array(
                    [None if x.vector is None else x.vector.tolist() for x in labels],
                    pa.list_(pa.float32(), self._dimension),
                ),
                "learned_at": [dt.datetime.now(dt.UTC)] * len(labels),
            },
            schema=self._schema("labels"),
        )
        self._upsert("labels", rows)

    def labels(self, task: str) -> list[Demonstration]:
        """All labels of a task, in order of their keys."""
        rows = (
            self._table("labels")
            .search()
            .where(f"task = {_sql_text(task)}")
            .select(["key", "query", "answer"])
            .limit(None)
            .to_arrow()
            .sort_by("key")
            .to_pylist()
        )
        return [Demonstration(_decode_query(row["query"]), row["answer"]) for row in rows]

    def labels_to_embed(self, task: str) -> list[Label]:
        """Labels of a task without an embedding, in order of their keys."""
        rows = (
            self._table("labels")
            .search()
            .where(f"task = {_sql_text(task)} AND vector IS NULL")
            .select(["key", "query", "answer"])
            .limit(None)
            .to_arrow()
            .sort_by("key")
            .to_pylist()
        )
        return [Label(task, _decode_query(row["query"]), row["answer"]) for row in rows]

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
        where = f"task = {_sql_text(task)}"
        if answer is not None:
            where += f" AND answer = {_sql_text(answer)}"
        rows = (
            self._table("labels")
            .search(list(vectors), vector_column_name="vector")
            .distance_type("cosine")
            .where(where, prefilter=True)
            .limit(k + _SPARE)
            .select(["key", "query", "answer", "_distance"])
            .to_list()
        )
        found: list[list[tuple[float, str, Neighbour]]] = [[] for _ in vectors]
        for row in rows:
            similarity = round(1.0 - float(row["_distance"]), 4)
            demonstration = Demonstration(_decode_query(row["query"]), row["answer"])
            found[row.get("query_index", 0)].append(
                (-similarity, row["key"], Neighbour(demonstration, similarity))
            )
        return [[n for _, _, n in sorted(near, key=lambda x: x[:2])][:k] for near in found]

    def _schema(self, name: str) -> pa.Schema:
        vector = pa.field("vector", pa.list_(pa.float32(), self._dimension))
        text = pa.string()
        if name == "entries":
            return pa.schema(
                [
                    ("key", text),
                    ("table_digest", text),
                    ("position", pa.int64()),
                    ("record_digest", text),
                    ("fields", text),
                    vector,
                ]
            )
        moment = pa.timestamp("us", tz="UTC")
        return pa.schema(
            [
                ("key", text),
                ("task", text),
                ("query", text),
                ("answer", text),
                vector,
                ("learned_at", moment),
            ]
        )

    def _table(self, name: str) -> lancedb.table.Table:
        try:
            return self._db.create_table(name, schema=self._schema(name), exist_ok=True)
        except (RuntimeError, ValueError, OSError) as error:
            raise ArtefactCorrupt(
                f"the LanceDB table {name!r} of the workspace cannot be opened: {error}",
                hint="remove index.lance and catalogue.sqlite, then index and learn again",
            ) from error

    def _upsert(self, name: str, rows: pa.Table) -> None:
        (
            self._table(name)
            .merge_insert("key")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(rows, on_bad_vectors="null")  # NULL vectors of tables not embedded
        )


def _vector_array(vectors: np.ndarray | None, n_rows: int, dimension: int) -> pa.Array:
    kind = pa.list_(pa.float32(), dimension)
    if vectors is None:
        return pa.nulls(n_rows, kind)
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)


def _matrix(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    chunks = [c.flatten().to_numpy() for c in column.chunks if len(c)]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.float32)
    return flat.reshape(-1, dimension)


def _encode_query(query: Query) -> str:
    return json.dumps(
        {
            "records": [list(r.fields.items()) for r in query.records],
            "target": query.target,
            "domain": query.domain,
        },
        ensure_ascii=False,
    )


def _decode_query(text: str) -> Query:
    fields: dict[str, Any] = json.loads(text)
    domain = fields["domain"]
    return Query(
        tuple(make_record(dict(items)) for items in fields["records"]),
        fields["target"],
        tuple(domain) if domain is not None else None,
    )


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
