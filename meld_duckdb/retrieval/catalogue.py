"""The catalogue: which tables are indexed, and which record stands in which of them.

It lies in SQLite beside the LanceDB tables so that a query answered from the cache can resolve the
context of its records without loading LanceDB (a second or more). LanceDB stays the source: the
catalogue is written after it, and a table not in the catalogue is not used.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb.records import Record, digest, is_key_column
from meld_duckdb.retrieval.history import History
from meld_duckdb.workspace import unusable

_LOOKUP = 500


@dataclass(frozen=True, slots=True)
class IndexedTable:
    """One indexed table.

    Attributes:
        name: As given.
        digest: Digest of its content.
        n_rows: Number of its rows.
        embedded: Whether its rows have vectors.
        encoder: Digest of the encoder of these; empty where there are none.
        split_column: Column whose values are the splits of its rows; empty where there is none.
    """

    name: str
    digest: str
    n_rows: int
    embedded: bool
    encoder: str = ""
    split_column: str = ""


class Catalogue:
    """Indexed tables, their members, the labels, and what happened. Safe for threads, processes.

    Args:
        path: The SQLite file; made on first use.
        source: Directory of the LanceDB tables. If they are there and the file is not, the
            catalogue was lost: it is marked for being rebuilt.
    """

    def __init__(self, path: Path, source: Path | None = None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._depth = 0
        self._labels: dict[str, dict[str, str]] = {}
        self._read_at: tuple[int, int] | None = None
        lost = source is not None and any(source.glob("*.lance"))
        try:
            self._connection = _open(path, "the catalogue was lost" if lost else None)
        except sqlite3.Error as error:
            raise unusable(path, error) from error
        self.history = History(self.reading, self.writing)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection; errors of SQLite are worded."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise unusable(self._path, error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Make all changes inside one transaction: all are seen at its end, or none ever."""
        with self.reading() as connection:
            if self._depth == 0:
                connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield connection
                if self._depth == 1:
                    connection.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def tables(self) -> list[IndexedTable]:
        """All indexed tables, oldest first."""
        with self.reading() as connection:
            found = connection.execute(
                "SELECT name, digest, n_rows, embedded, encoder, split_column FROM tables"
                " ORDER BY ordinal"
            ).fetchall()
        return [
            IndexedTable(n, d, rows, bool(e), enc, split) for n, d, rows, e, enc, split in found
        ]

    def next_ordinal(self) -> int:
        """Number of the next table that is entered."""
        with self.reading() as connection:
            query = "SELECT coalesce(max(ordinal), 0) + 1 FROM tables"
            return int(connection.execute(query).fetchone()[0])

    def add_table(
        self,
        name: str,
        table_digest: str,
        records: Sequence[Record],
        *,
        embedded: bool,
        encoder: str = "",
        split_column: str = "",
        ordinal: int | None = None,
    ) -> list[str]:
        """Enter a table under its name, replacing what that name meant before.

        Args:
            name: As given.
            table_digest: Digest of its content.
            records: Its rows.
            embedded: Whether they have vectors.
            encoder: Digest of the encoder of these.
            split_column: Column whose values are the splits of the rows.
            ordinal: The higher, the later indexed; by default the highest.

        Returns:
            Digests of contents that no name means any more.
        """
        members = {key for r in records for key in (r.digest, content_digest(r))}
        with self.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO tables VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    table_digest,
                    len(records),
                    self.next_ordinal() if ordinal is None else ordinal,
                    _shape(records[0]) if records else "",
                    int(embedded),
                    encoder,
                    split_column,
                ),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO members VALUES (?, ?)",
                ((member, table_digest) for member in sorted(members)),  # in order: 3 times as fast
            )
            return self._forget_orphans(connection)

    def remove_table(self, name: str) -> list[str]:
        """Forget a name; gives the digests of contents that no name means any more."""
        with self.writing() as connection:
            connection.execute("DELETE FROM tables WHERE name = ?", (name,))
            return self._forget_orphans(connection)

    def _forget_orphans(self, connection: sqlite3.Connection) -> list[str]:
        orphans = connection.execute(
            "SELECT DISTINCT table_digest FROM members"
            " WHERE table_digest NOT IN (SELECT digest FROM tables)"
        ).fetchall()
        connection.executemany("DELETE FROM members WHERE table_digest = ?", orphans)
        return [orphan for (orphan,) in orphans]

    def memberships(self, records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
        """For each record digest the digests of the tables that hold it, newest table first.

        A record that is not found as a whole is looked up by its content without key columns, so
        that a STRUCT of the other columns of an indexed table finds its context too.
        """
        wanted = {r.digest: content_digest(r) for r in records}
        keys = list(dict.fromkeys([*wanted, *wanted.values()]))
        with self.reading() as connection:
            found: dict[str, dict[str, None]] = {}
            for start in range(0, len(keys), _LOOKUP):
                part = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                for member, table in connection.execute(
                    "SELECT m.record, m.table_digest FROM members m JOIN tables t"
                    " ON t.digest = m.table_digest"
                    f" WHERE m.record IN ({marks}) ORDER BY t.ordinal DESC",
                    part,
                ):
                    found.setdefault(member, {})[table] = None
        hits = {d: found.get(d) or found.get(content) for d, content in wanted.items()}
        return {d: tuple(tables) for d, tables in hits.items() if tables}

    def same_shape(self, record: Record) -> str | None:
        """Digest of the newest table whose columns, keys aside, are those of a record."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT digest FROM tables WHERE shape = ? ORDER BY ordinal DESC LIMIT 1",
                (_shape(record),),
            ).fetchone()
        return row[0] if row else None

    def set_labels(self, task: str, answers: dict[str, str]) -> None:
        """Enter labels: query digest to answer, replacing an earlier answer to the same query."""
        with self.writing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO labels VALUES (?, ?, ?)",
                ((task, query, answer) for query, answer in answers.items()),
            )

    def replace_labels(self, answers: Mapping[str, Mapping[str, str]]) -> None:
        """Enter all labels there are: task to query digest to answer; forget all others."""
        with self.writing() as connection:
            connection.execute("DELETE FROM labels")
            for task, labels in answers.items():
                self.set_labels(task, dict(labels))

    def state(self) -> tuple[int, int]:
        """A pair that is another one after any change, here or in another process."""
        with self.reading() as connection:
            (others,) = connection.execute("PRAGMA data_version").fetchone()
            return int(others), connection.total_changes

    def labels(self, task: str) -> dict[str, str]:
        """All labels of a task: query digest to answer. Read again only when something changed."""
        with self.reading() as connection:
            version = self.state()
            if self._read_at != version:
                self._labels.clear()
                self._read_at = version
            if task not in self._labels:
                self._labels[task] = dict(
                    connection.execute(
                        "SELECT query, answer FROM labels WHERE task = ? ORDER BY query", (task,)
                    ).fetchall()
                )
            return self._labels[task]


_TABLES = (
    """CREATE TABLE IF NOT EXISTS tables (
        name TEXT PRIMARY KEY, digest TEXT NOT NULL, n_rows INTEGER NOT NULL,
        ordinal INTEGER NOT NULL, shape TEXT NOT NULL, embedded INTEGER NOT NULL,
        encoder TEXT NOT NULL DEFAULT '', split_column TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE IF NOT EXISTS members (
        record TEXT NOT NULL, table_digest TEXT NOT NULL,
        PRIMARY KEY (record, table_digest)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS labels (
        task TEXT NOT NULL, query TEXT NOT NULL, answer TEXT NOT NULL,
        PRIMARY KEY (task, query)) WITHOUT ROWID""",
    *History.TABLES,
)


def _open(path: Path, pending: str | None) -> sqlite3.Connection:
    """Open the file and make its tables; a new one is marked ``pending``."""
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(tables)")]
    if "encoder" in columns and History.present(connection):
        return connection
    connection.execute("BEGIN IMMEDIATE")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(tables)")]
    for statement in _TABLES:
        connection.execute(statement)
    if columns and "encoder" not in columns:  # of version 1
        for name in ("encoder", "split_column"):
            connection.execute(f"ALTER TABLE tables ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
    if not columns and pending is not None:
        History.mark(connection, pending)
    connection.execute("COMMIT")
    return connection


def is_whole(path: Path) -> bool:
    """Whether the file can be read to its end; one that is not there is."""
    if not path.exists():
        return True
    connection = sqlite3.connect(path, timeout=60)
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        return "not a database" not in str(error) and "malformed" not in str(error)
    finally:
        connection.close()


def content_digest(record: Record) -> str:
    """Digest of a record without its key columns (see `is_key_column`), names included."""
    content = {k: v for k, v in record.fields.items() if not is_key_column(k) and v is not None}
    return digest("content", *(part for item in content.items() for part in item))


def _shape(record: Record) -> str:
    """Digest of the column names without keys, in any order."""
    return digest("shape", *sorted(name for name in record.fields if not is_key_column(name)))


def table_digest(records: Sequence[Record]) -> str:
    """Digest of a table's content: its records, in whatever order a query hands them over."""
    return digest("table", *sorted(r.digest for r in records))
