"""The catalogue: which tables are indexed, and which record stands in which of them.

It lies in SQLite beside the LanceDB tables so that a query answered from the cache can resolve the
context of its records without loading LanceDB (a second or more). LanceDB stays the source: the
catalogue is written after it, and a table not in the catalogue is not used.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb.records import Record, digest, is_key_column
from meld_duckdb.workspace import unusable

_LOOKUP = 500


@dataclass(frozen=True, slots=True)
class IndexedTable:
    """One indexed table: ``name`` as given, ``digest`` of its content, rows, whether embedded."""

    name: str
    digest: str
    n_rows: int
    embedded: bool


class Catalogue:
    """Indexed tables, their members, and the state of the labels. Safe for threads, processes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._labels: dict[str, dict[str, str]] = {}
        self._read_at: tuple[int, int] | None = None
        try:
            self._connection = _open(path)
        except sqlite3.Error as error:
            raise unusable(path, error) from error

    def tables(self) -> list[IndexedTable]:
        """All indexed tables, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT name, digest, n_rows, embedded FROM tables ORDER BY ordinal"
            ).fetchall()
        return [IndexedTable(name, key, n_rows, bool(e)) for name, key, n_rows, e in rows]

    def add_table(
        self, name: str, table_digest: str, records: Sequence[Record], *, embedded: bool
    ) -> list[str]:
        """Enter a table under its name, replacing what that name meant before.

        Returns:
            Digests of contents that no name means any more.
        """
        members = {key for r in records for key in (r.digest, content_digest(r))}
        with self._lock, self._connection:
            (ordinal,) = self._connection.execute(
                "SELECT coalesce(max(ordinal), 0) + 1 FROM tables"
            ).fetchone()
            self._connection.execute(
                "INSERT OR REPLACE INTO tables VALUES (?, ?, ?, ?, ?, ?)",
                (
                    name,
                    table_digest,
                    len(records),
                    ordinal,
                    _shape(records[0]) if records else "",
                    int(embedded),
                ),
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO members VALUES (?, ?)",
                ((member, table_digest) for member in members),
            )
            orphans = self._connection.execute(
                "SELECT DISTINCT table_digest FROM members"
                " WHERE table_digest NOT IN (SELECT digest FROM tables)"
            ).fetchall()
            self._connection.executemany("DELETE FROM members WHERE table_digest = ?", orphans)
        return [orphan for (orphan,) in orphans]

    def memberships(self, records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
        """For each record digest the digests of the tables that hold it, newest table first.

        A record that is not found as a whole is looked up by its content without key columns, so
        that a STRUCT of the other columns of an indexed table finds its context too.
        """
        wanted = {r.digest: content_digest(r) for r in records}
        keys = list(dict.fromkeys([*wanted, *wanted.values()]))
        with self._lock:
            found: dict[str, dict[str, None]] = {}
            for start in range(0, len(keys), _LOOKUP):
                part = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                for member, table in self._connection.execute(
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
        with self._lock:
            row = self._connection.execute(
                "SELECT digest FROM tables WHERE shape = ? ORDER BY ordinal DESC LIMIT 1",
                (_shape(record),),
            ).fetchone()
        return row[0] if row else None

    def set_labels(self, task: str, answers: dict[str, str]) -> None:
        """Enter labels: query digest to answer, replacing an earlier answer to the same query."""
        with self._lock, self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO labels VALUES (?, ?, ?)",
                ((task, query, answer) for query, answer in answers.items()),
            )

    def labels(self, task: str) -> dict[str, str]:
        """All labels of a task: query digest to answer. Read again only when something changed."""
        with self._lock:
            (others,) = self._connection.execute("PRAGMA data_version").fetchone()
            version = (int(others), self._connection.total_changes)
            if self._read_at != version:
                self._labels.clear()
                self._read_at = version
            if task not in self._labels:
                self._labels[task] = dict(
                    self._connection.execute(
                        "SELECT query, answer FROM labels WHERE task = ? ORDER BY query", (task,)
                    ).fetchall()
                )
            return self._labels[task]


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(
        """
        CREATE TABLE IF NOT EXISTS tables (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL, n_rows INTEGER NOT NULL,
            ordinal INTEGER NOT NULL, shape TEXT NOT NULL, embedded INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS members (
            record TEXT NOT NULL, table_digest TEXT NOT NULL,
            PRIMARY KEY (record, table_digest)) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS labels (
            task TEXT NOT NULL, query TEXT NOT NULL, answer TEXT NOT NULL,
            PRIMARY KEY (task, query)) WITHOUT ROWID;
        """
    )
    return connection


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
