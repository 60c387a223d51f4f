"""Tables on disk in chunks of equally many rows, which every process maps into its memory.

A table of Parquet files or of DuckDB is read once, by the driver. From then on a row is known by
its position, and a partition of the work is a chunk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from meld_duckdb.errors import InputError
from meld_duckdb.records import Record, digest
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.workspace import write_atomic

_TABLE = "table.json"


@dataclass(frozen=True, slots=True)
class Chunks:
    """A table in chunks.

    Attributes:
        folder: Where they are, ``000000.arrow`` and so on.
        chunk_rows: Rows of every chunk but the last.
        n_rows: Rows of all.
        digests: Content of each chunk.
    """

    folder: Path
    chunk_rows: int
    n_rows: int
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return self.n_rows

    @property
    def digest(self) -> str:
        """Content of the table and how it is cut."""
        return digest(str(self.chunk_rows), *self.digests)

    def bounds(self, number: int) -> tuple[int, int]:
        """The positions of a chunk's first row and of that after its last."""
        start = number * self.chunk_rows
        return start, min(start + self.chunk_rows, self.n_rows)

    def chunk(self, number: int) -> pa.Table:
        """The rows of a chunk."""
        with pa.memory_map(str(_path(self.folder, number))) as source:
            return pa.ipc.open_file(source).read_all()

    def whole(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables([self.chunk(i) for i in range(len(self.digests))])

    def take(self, positions: np.ndarray) -> pa.Table:
        """The rows at some positions, which ascend."""
        number = positions // self.chunk_rows
        parts = [
            self.chunk(i).take(pa.array(positions[number == i] - i * self.chunk_rows))
            for i in np.unique(number).tolist()
        ]
        return pa.concat_tables(parts) if parts else self.chunk(0).slice(0, 0)


def records_of(rows: pa.Table) -> list[Record]:
    """Rows as records; one that cannot be read keeps its place as an empty record."""
    return list(TableRows(array=rows.to_struct_array()).records)


def texts_of(rows: pa.Table) -> list[str]:
    """The text by which each row is compared."""
    return TableRows(array=rows.to_struct_array()).texts


def write_chunks(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, chunk_rows: int, stamp: str
) -> Chunks:
    """Write a table in chunks, or take the one that is there.

    Args:
        batches: Its rows; only read where there is no table of this stamp.
        schema: Their columns.
        folder: Where the chunks go.
        chunk_rows: Rows of a chunk.
        stamp: What the table was made from; one of another stamp is written anew.
    """
    present = _read(folder, stamp, chunk_rows)
    if present is not None:
        return present
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _TABLE).unlink(missing_ok=True)
    digests: list[str] = []
    n_rows = 0
    for table in _equal_parts(batches, schema, chunk_rows):
        _write(table, _path(folder, len(digests)))
        digests.append(content_digest(table))
        n_rows += len(table)
    found = Chunks(folder, chunk_rows, n_rows, tuple(digests))
    content = {"stamp": stamp, "chunk_rows": chunk_rows, "n_rows": n_rows, "digests": digests}
    write_atomic(folder / _TABLE, json.dumps(content))
    return found


def content_digest(table: pa.Table) -> str:
    """The content of some rows, whatever lies in memory where there is no value."""
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(
            table, sink, compression="none", use_dictionary=False, write_statistics=False
        )
    except pa.ArrowNotImplementedError as error:
        raise InputError(
            f"a column has a type that Parquet has not: {error}",
            hint="cast it to a text in a view, or leave it out",
        ) from error
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


def _read(folder: Path, stamp: str, chunk_rows: int) -> Chunks | None:
    try:
        content = json.loads((folder / _TABLE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if (content["stamp"], content["chunk_rows"]) != (stamp, chunk_rows):
        return None
    return Chunks(folder, chunk_rows, content["n_rows"], tuple(content["digests"]))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.arrow"


def _equal_parts(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, n_rows: int
) -> Iterator[pa.Table]:
    """Cut a stream into tables of equally many rows; one that is empty if the stream is."""
    held: list[pa.RecordBatch] = []
    n_held, some = 0, False
    for batch in batches:
        rest = batch
        while len(rest):
            part = rest.slice(0, n_rows - n_held)
            rest = rest.slice(len(part))
            held.append(part)
            n_held += len(part)
            if n_held == n_rows:
                yield _plain(held, schema)
                held, n_held, some = [], 0, True
    if held or not some:
        yield _plain(held, schema)


def _plain(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Batches as one table, dictionaries left out: they differ from chunk to chunk."""
    table = pa.Table.from_batches(batches, schema)
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table[i].cast(field.type.value_type))
    return table.combine_chunks()


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))
    os.replace(temporary, path)
