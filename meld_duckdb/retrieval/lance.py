"""The door to LanceDB: tables of one database, their versions, their upkeep, and what can go wrong.

The only module that imports lancedb. What a table means is told by `retrieval.store`.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from meld_duckdb import interrupt
from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, is_full, no_space
from meld_duckdb.settings import prepare_lance

if TYPE_CHECKING:
    from lancedb.table import LanceTable

__all__ = ["EXACT_BELOW", "MENDING", "Lance", "LanceTable", "words_query"]

EXACT_BELOW = 100_000
"""Rows from which on a vector index is made; below, a scan is exact and takes milliseconds."""

SMALL_FRAGMENTS = 24
"""Small files of a table from which on they are merged into one."""

_GRACE_S = 60.0
"""Age below which a version is never removed: somebody may be reading it."""

_NEVER = dt.timedelta(days=100_000)
_LAST = 2**64 - 1
MENDING = (
    "go back to an earlier state (meld workspace versions, meld workspace rollback), or keep what "
    "can be read: meld workspace rebuild"
)
"""The hint for a table that is damaged."""

_REFUSED = ("permission denied", "os error 13", "read-only file system", "os error 30")


class Lance:
    """The LanceDB tables below one directory. Every call sees the newest version of a table.

    Args:
        path: Directory of the database; made on first write.
    """

    def __init__(self, path: Path) -> None:
        prepare_lance()
        interrupt.import_apart("lancedb")
        import lancedb

        self.path = path
        with self.guard("tables"):
            self._db = lancedb.connect(str(path))

    def names(self) -> list[str]:
        """Names of the tables that exist, in order of the alphabet."""
        return sorted(f.name.removesuffix(".lance") for f in self.path.glob("*.lance"))

    def open(self, name: str) -> LanceTable | None:
        """The newest version of a table; None where it was never written.

        Raises:
            ArtefactCorrupt: The table is there, but cannot be read.
        """
        folder = self.path / f"{name}.lance"
        if not any(folder.glob("*/*")):  # not made, or killed before its first version
            return None
        with self.guard(name):
            return self._db.open_table(name)

    def make(self, name: str, schema: pa.Schema, text_column: str | None = None) -> LanceTable:
        """The newest version of a table, made empty where there is none.

        Args:
            name: Name of the table.
            schema: Its columns.
            text_column: Column to be searched by words. Its index starts empty: rows that it does
                not cover yet are searched all the same, one by one.
        """
        table = self.open(name)
        if table is not None:
            return table
        from lancedb.index import FTS

        with self.guard(name):
            table = self._db.create_table(name, schema=schema, exist_ok=True)
            if text_column is not None:
                words = FTS(stem=False, remove_stop_words=False)  # data of any language
                table.create_index(text_column, config=words)
            return table

    def replace(self, name: str, rows: pa.RecordBatchReader | pa.Table) -> None:
        """Replace a table and its columns at once; the earlier version is kept below the new."""
        with self.guard(name):
            self._db.create_table(name, rows, mode="overwrite", on_bad_vectors="null")

    def index_words(self, name: str, column: str) -> None:
        """Make the full text index of a column that has none."""
        from lancedb.index import FTS

        with self.guard(name):
            table = self._db.open_table(name)
            table.create_index(column, config=FTS(stem=False, remove_stop_words=False))

    def versions(self) -> dict[str, int]:
        """Present version of every table."""
        found = {}
        for name in self.names():
            table = self.open(name)
            if table is not None:
                found[name] = int(table.version)
        return found

    def counts(self) -> dict[str, int]:
        """Number of rows of every table."""
        found = {}
        for name in self.names():
            table = self.open(name)
            if table is not None:
                with self.guard(name):
                    found[name] = int(table.count_rows())
        return found

    def check(self, versions: Mapping[str, int]) -> None:
        """Look whether versions of tables are there.

        Raises:
            ArtefactCorrupt: One is not, or cannot be read.
        """
        for name, version in versions.items():
            with self.guard(name):
                folder = self.path / f"{name}.lance"
                if not any(int(path.stem) in {version, _LAST - version} for path in _made(folder)):
                    raise ValueError(f"version {version} is gone")

    def restore(self, versions: Mapping[str, int]) -> None:
        """Bring tables back to earlier versions; a table that is not named becomes empty.

        What a table held until now stays readable as a version below the new one. Versions that
        cannot be read are put aside.
        """
        for name in self.names():
            table = self._open_past_damage(name)
            if table is None:
                continue
            with self.guard(name):
                if name in versions:
                    table.restore(versions[name])
                elif table.count_rows():
                    table.delete("true")

    def _open_past_damage(self, name: str) -> LanceTable | None:
        """Open a table; a newest version whose list of files is damaged is renamed."""
        while True:
            try:
                return self.open(name)
            except ArtefactCorrupt:
                made = sorted(_made(self.path / f"{name}.lance"), key=_age)
                if len(made) < 2:
                    raise
                made[0].rename(made[0].with_suffix(".damaged"))

    def put_aside_unreadable(self) -> dict[str, Path]:
        """Rename the tables that cannot be read to their end; gives their new places by name."""
        found = {}
        for name in self.names():
            try:
                table = self.open(name)
                if table is not None:
                    with self.guard(name):
                        for _ in table.search().limit(None).to_batches():
                            interrupt.check()
            except ArtefactCorrupt:
                found[name] = self.path / f"{name}.damaged"
                shutil.rmtree(found[name], ignore_errors=True)
                (self.path / f"{name}.lance").rename(found[name])
        return found

    def earlier(self, name: str, depth: int) -> Iterator[LanceTable]:
        """Up to ``depth`` versions before the newest, newest first."""
        newest = self.open(name)
        if newest is None:
            return
        with self.guard(name):
            numbers = sorted((int(v["version"]) for v in newest.list_versions()), reverse=True)
        for number in numbers[1 : depth + 1]:
            with self.guard(name):
                table = self._db.open_table(name)
                table.checkout(number)
            yield table

    def optimise(self, name: str, *, force: bool = False) -> bool:
        """Merge small files and bring indexes up to date.

        A table of `EXACT_BELOW` vectors gets a vector index.

        Args:
            name: Name of the table.
            force: Do it also where the table has few small files.

        Returns:
            Whether there was something to do.
        """
        table = self.open(name)
        if table is None:
            return False
        with self.guard(name):
            small = table.stats()["fragment_stats"]["num_small_fragments"]
            if not force and small < SMALL_FRAGMENTS:
                return False
            if _vectors_lack_index(table):
                _index_vectors(table)
            # Left to itself, LanceDB would remove what is older than a week, needed or not.
            table.optimize(cleanup_older_than=_NEVER)
        return True

    def forget_before(self, name: str, oldest: int | None) -> None:
        """Remove the versions of a table before one that is still needed; None needs all.

        The youngest stay in any case: somebody may be reading them.
        """
        table = self.open(name)
        if table is None or oldest is None:
            return
        with self.guard(name):
            made = {int(v["version"]): v["timestamp"] for v in table.list_versions()}
            if oldest not in made or min(made) == oldest:
                return
            # The clock may have been set back since: what is needed may look older than it is.
            needed = min(at.timestamp() for version, at in made.items() if version >= oldest)
            age = time.time() - needed + 0.001
            table.optimize(cleanup_older_than=dt.timedelta(seconds=max(age, _GRACE_S)))

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Word what LanceDB raises.

        Raises:
            ArtefactError: The disk is full, or the files may not be written.
            ArtefactCorrupt: Anything else: the files are not what they should be.
        """
        try:
            yield
        except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
            raise self._worded(name, error) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of LanceDB's Rust, on damaged files
                raise
            raise self._worded(name, error) from error

    def _worded(self, name: str, error: BaseException) -> ArtefactError:
        text, path = " ".join(str(error).split()), self.path / f"{name}.lance"
        lower = text.lower()
        if is_full(error):
            return no_space(str(path))
        if any(word in lower for word in _REFUSED):
            return ArtefactError(
                f"{path} cannot be written: {_short(text)}",
                hint="the workspace must be a directory that can be written; see meld doctor",
            )
        return ArtefactCorrupt(
            f"the LanceDB table {path} is damaged: {_short(text)}",
            hint=MENDING,
        )


def _index_vectors(table: LanceTable) -> None:
    from lancedb.index import IvfSq

    table.create_index("vector", config=IvfSq(distance_type="cosine"))


def _vectors_lack_index(table: LanceTable) -> bool:
    if "vector" not in table.schema.names:
        return False
    if any(index.columns == ["vector"] for index in table.list_indices()):
        return False
    return int(table.count_rows("vector IS NOT NULL")) >= EXACT_BELOW


def _made(folder: Path) -> list[Path]:
    """The lists of files of all versions of a table."""
    return [p for p in (folder / "_versions").glob("*.manifest") if p.stem.isdecimal()]


def _age(manifest: Path) -> int:
    """Newer is less; names count downwards from 2^64 - 1 (or upwards, before LanceDB 0.16)."""
    number = int(manifest.stem)
    return number if number > _LAST // 2 else -number


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def words_query(words: str, column: str) -> Any:
    """A full text query for rows that hold any of some words."""
    from lancedb.query import MatchQuery

    return MatchQuery(words, column)
