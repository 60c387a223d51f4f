"""Columns of the LanceDB tables, and how labels, rows and facts are written into them.

    entries    rows of indexed tables: key = table digest / position
    labels     learned answers:        key = digest of task and query
    knowledge  facts of named bases:   key = digest of base and fact
    tables     one row per indexed table, written when all its entries are: key = its name

A vector belongs to the encoder whose digest stands beside it; both are NULL where nothing was
embedded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from meld_duckdb import safe_json
from meld_duckdb.records import Record, digest, make_record, plain_text
from meld_duckdb.tasks.base import Demonstration, Query

ALIAS = "alias"
"""Relation of a fact whose object is another name of its term."""

_COLUMNS: dict[str, tuple[tuple[str, pa.DataType], ...]] = {
    "entries": (
        ("key", pa.string()),
        ("table_digest", pa.string()),
        ("position", pa.int64()),
        ("record_digest", pa.string()),
        ("fields", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("encoder", pa.string()),
    ),
    "labels": (
        ("key", pa.string()),
        ("task", pa.string()),
        ("query", pa.string()),
        ("answer", pa.string()),
        ("learned_at", pa.timestamp("us", tz="UTC")),
        ("encoder", pa.string()),
    ),
    "knowledge": (
        ("key", pa.string()),
        ("base", pa.string()),
        ("term", pa.string()),
        ("relation", pa.string()),
        ("object", pa.string()),
        ("text", pa.string()),
        ("term_key", pa.string()),
        ("alias_key", pa.string()),
        ("encoder", pa.string()),
    ),
    "tables": (
        ("key", pa.string()),
        ("digest", pa.string()),
        ("n_rows", pa.int64()),
        ("ordinal", pa.int64()),
        ("encoder", pa.string()),
        ("split_column", pa.string()),
    ),
}
SEARCHED = {"entries": "text", "knowledge": "text"}
"""Tables that are searched by words, and in which column."""


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


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of an indexed table found by a search.

    Attributes:
        record: The row.
        table_digest: Digest of its table's content.
        position: Its position in that table, from 0.
        similarity: Cosine to the query in [-1, 1]; None where it was found by its words and has
            no vector, or none was asked for.
    """

    record: Record
    table_digest: str
    position: int
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of a knowledge base; ``text`` is what is embedded and searched by words."""

    term: str
    relation: str
    object: str
    text: str


@dataclass(frozen=True, slots=True)
class FoundFact:
    """A fact found by a search.

    Attributes:
        fact: The fact.
        similarity: Cosine to the query in [-1, 1], None where there is no vector to compare.
        exact: The query is the fact's term, or another name of it.
    """

    fact: Fact
    similarity: float | None
    exact: bool


@dataclass(frozen=True, slots=True)
class StoredTable:
    """An indexed table as LanceDB knows it.

    Attributes:
        name: Its name, as given.
        digest: Digest of its content.
        n_rows: Number of its rows.
        ordinal: The higher, the later indexed.
        encoder: Digest of the encoder of its vectors; empty where it is not embedded.
        split_column: Column whose values are the splits of its rows; empty where there is none.
    """

    name: str
    digest: str
    n_rows: int
    ordinal: int
    encoder: str = ""
    split_column: str = ""


def schema(name: str, dimension: int) -> pa.Schema:
    """Columns of a table; ``dimension`` is the length of the vectors."""
    fields = list(_COLUMNS[name])
    if name != "tables":
        fields.append(("vector", pa.list_(pa.float32(), dimension)))
    return pa.schema(fields)


def columns(name: str) -> list[str]:
    """Names of the columns of a table, its vectors left out."""
    return [column for column, _ in _COLUMNS[name]]


def migrated(batch: pa.RecordBatch, wanted: pa.Schema, encoder: str) -> pa.RecordBatch:
    """Rows of version 1 with the columns of today."""
    given = dict(zip(batch.schema.names, batch.columns, strict=True))
    n_rows = batch.num_rows
    added: dict[str, list[str | None]] = {"split": [None] * n_rows}
    valid = given["vector"].is_valid().to_pylist()
    added["encoder"] = [encoder if embedded else None for embedded in valid]
    if "fields" in given:
        records = [decode_record(text) for text in given["fields"].to_pylist()]
        added["text"] = [storable(record.text) for record in records]
    arrays = [given[f.name] if f.name in given else pa.array(added[f.name], f.type) for f in wanted]
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def without_vectors(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    """Rows of which no encoder has vectors; those they had are not read."""
    given = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in ("encoder", "vector"):
        given[name] = pa.nulls(batch.num_rows, wanted.field(name).type)
    return pa.RecordBatch.from_arrays([given[name] for name in wanted.names], schema=wanted)


def vector_array(vectors: Sequence[np.ndarray | None] | np.ndarray, dimension: int) -> pa.Array:
    """Vectors as a column; None becomes NULL."""
    if isinstance(vectors, np.ndarray):
        flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)
    if all(v is None for v in vectors):
        return pa.nulls(len(vectors), pa.list_(pa.float32(), dimension))
    return pa.array(
        [None if v is None else v.tolist() for v in vectors], pa.list_(pa.float32(), dimension)
    )


def vector_matrix(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    """A column of vectors without NULL as float32 [n, d]."""
    chunks = [c.flatten().to_numpy() for c in column.chunks if len(c)]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.float32)
    return flat.reshape(-1, dimension)


def encode_record(record: Record) -> str:
    """A record as JSON (ASCII) that keeps NULL and the order of columns."""
    return json.dumps(list(record.fields.items()))


def decode_record(text: str) -> Record:
    """The record of `encode_record`."""
    return make_record(dict(safe_json.loads(text)))


def encode_query(query: Query) -> str:
    """A query as JSON."""
    return json.dumps(
        {
            "records": [list(r.fields.items()) for r in query.records],
            "target": query.target,
            "domain": query.domain,
        },
        ensure_ascii=False,
    )


def decode_query(text: str) -> Query:
    """The query of `encode_query`."""
    fields: dict[str, Any] = safe_json.loads(text)
    domain = fields["domain"]
    return Query(
        tuple(make_record(dict(items)) for items in fields["records"]),
        fields["target"],
        tuple(domain) if domain is not None else None,
    )


def label_key(task: str, query: Query) -> str:
    """Key of a label: there is one answer per task and query."""
    return digest(task, query.digest)


def term_key(text: str) -> str:
    """A name as it is compared with others: case, underscores and runs of space do not count."""
    return plain_text(text.replace("_", " ")).casefold()


def storable(text: str | None) -> str | None:
    """A text without halves of surrogate pairs, which Arrow cannot hold."""
    return text if text is None else text.encode("utf-8", "replace").decode("utf-8")


def sql_text(text: str) -> str:
    """A text as a literal of a LanceDB filter."""
    return "'" + text.replace("'", "''") + "'"


def sql_in(column: str, texts: Sequence[str]) -> str:
    """A filter for the rows whose column is one of some texts; none of them if there are none."""
    return f"{column} IN ({', '.join(map(sql_text, texts))})" if texts else "false"
