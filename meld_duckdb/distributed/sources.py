"""What a job reads: Parquet files, or a table or view of a DuckDB file."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import duckdb

from meld_duckdb.distributed.chunks import Chunks, write_chunks
from meld_duckdb.errors import InputError
from meld_duckdb.records import digest

_EXPECTED = "a Parquet file, folder or pattern, or FILE.duckdb:TABLE"
_STREAM = 16_384


@dataclass(frozen=True, slots=True)
class Source:
    """A table to be read.

    Attributes:
        files: The Parquet files in their order, or the one DuckDB file.
        table: Name of the table or view of the DuckDB file; None for Parquet files.
    """

    files: tuple[Path, ...]
    table: str | None

    @property
    def stamp(self) -> str:
        """Another text once a file is another."""
        facts = [(path, path.stat()) for path in self.files]
        return digest(self.table or "", *(f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in facts))

    def read(self, folder: Path, chunk_rows: int) -> Chunks:
        """Bring the table into chunks, unless it is there from a run before.

        Raises:
            InputError: It cannot be read.
        """
        database = ":memory:" if self.table is None else str(self.files[0])
        try:
            with duckdb.connect(database, read_only=self.table is not None) as connection:
                connection.execute("SET enable_progress_bar = false")
                if self.table is None:
                    rows = connection.read_parquet([str(path) for path in self.files])
                else:
                    quoted = self.table.replace("'", "''")
                    rows = connection.sql(f"FROM query_table('{quoted}')")
                reader = rows.to_arrow_reader(_STREAM)
                return write_chunks(reader, reader.schema, folder, chunk_rows, self.stamp)
        except duckdb.Error as error:
            where = self.table or ", ".join(str(path) for path in self.files[:3])
            raise InputError(
                f"{where} cannot be read: {' '.join(str(error).split())}",
                hint="a view must not call the functions; close the file where it is open to write",
            ) from error


def find_source(text: str | Path) -> Source:
    """Find the files that an argument names.

    Raises:
        InputError: There are none.
    """
    given = str(text)
    path = Path(given)
    if path.is_dir():
        found = sorted(
            p for p in path.rglob("*.parquet") if not any(part[0] in "._" for part in p.parts[-1:])
        )
    elif path.is_file():
        found = [path]
    else:
        file, colon, table = given.rpartition(":")
        if colon and Path(file).is_file():
            return Source((Path(file).absolute(),), table)
        found = sorted(Path(name) for name in glob.glob(given, recursive=True))
    if not found:
        raise InputError(f"{given!r} names no file, expected {_EXPECTED}")
    return Source(tuple(p.absolute() for p in found), None)
