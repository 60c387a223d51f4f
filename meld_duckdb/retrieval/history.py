"""What happened to a workspace: one entry per finished operation, with the versions to go back to.

It lies in the catalogue's SQLite file, so that an operation and its entry become visible together.
"""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from meld_duckdb import safe_json

KEPT = 20
"""Operations that can be undone; what only older ones need is removed from the disk."""

_Guard = Callable[[], AbstractContextManager[sqlite3.Connection]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A finished operation.

    Attributes:
        version: Its number; higher is later.
        at: When it was finished, in UTC.
        what: What it did, in a few words.
        lance: LanceDB version of every table after it.
        n_rows: Number of rows of every LanceDB table after it.
    """

    version: int
    at: dt.datetime
    what: str
    lance: Mapping[str, int]
    n_rows: Mapping[str, int]


class History:
    """The operations of a workspace, and the one that is under way.

    Args:
        reading: Guards reading.
        writing: Guards a transaction, and joins one that is open.
    """

    TABLES = (
        """CREATE TABLE IF NOT EXISTS history (
            version INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, what TEXT NOT NULL,
            lance TEXT NOT NULL, n_rows TEXT NOT NULL)""",
        "CREATE TABLE IF NOT EXISTS pending (what TEXT NOT NULL)",
    )

    def __init__(self, reading: _Guard, writing: _Guard) -> None:
        self._reading = reading
        self._writing = writing

    @staticmethod
    def present(connection: sqlite3.Connection) -> bool:
        """Tell whether the tables of the history are there."""
        query = "SELECT count(*) FROM sqlite_master WHERE name IN ('history', 'pending')"
        return bool(connection.execute(query).fetchone()[0] == len(History.TABLES))

    @staticmethod
    def mark(connection: sqlite3.Connection, what: str) -> None:
        """Mark an operation as under way, in the open transaction."""
        connection.execute("DELETE FROM pending")
        connection.execute("INSERT INTO pending VALUES (?)", (what,))

    def begin(self, what: str) -> None:
        """Mark an operation as under way: whoever finds the mark later, finishes it."""
        with self._writing() as connection:
            self.mark(connection, what)

    def give_up(self) -> None:
        """Take the mark away: nothing was changed."""
        with self._writing() as connection:
            connection.execute("DELETE FROM pending")

    def pending(self) -> str | None:
        """The operation that was begun and not finished, if there is one."""
        with self._reading() as connection:
            row = connection.execute("SELECT what FROM pending").fetchone()
        return row[0] if row else None

    def finish(self, what: str, lance: Mapping[str, int], n_rows: Mapping[str, int]) -> None:
        """Enter a finished operation, take the mark away, and forget the oldest operations."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO history (at, what, lance, n_rows) VALUES (?, ?, ?, ?)",
                (now, what, json.dumps(dict(lance)), json.dumps(dict(n_rows))),
            )
            connection.execute("DELETE FROM pending")
            connection.execute(
                "DELETE FROM history WHERE version <= (SELECT max(version) FROM history) - ?",
                (KEPT,),
            )

    def forget(self, keep: int) -> None:
        """Forget all operations but the latest ``keep``."""
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM history WHERE version NOT IN"
                " (SELECT version FROM history ORDER BY version DESC LIMIT ?)",
                (keep,),
            )

    def version(self) -> int:
        """Number of the latest operation; 0 where there is none."""
        with self._reading() as connection:
            row = connection.execute("SELECT coalesce(max(version), 0) FROM history").fetchone()
        return int(row[0])

    def latest(self) -> dict[str, int]:
        """LanceDB version of every table after the latest operation; empty where there is none."""
        with self._reading() as connection:
            query = "SELECT lance FROM history ORDER BY version DESC LIMIT 1"
            row = connection.execute(query).fetchone()
        return dict(safe_json.loads(row[0])) if row else {}

    def operations(self) -> list[Operation]:
        """The operations that can be gone back to, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT version, at, what, lance, n_rows FROM history ORDER BY version"
            ).fetchall()
        return [
            Operation(
                v, dt.datetime.fromisoformat(at), what, safe_json.loads(lance), safe_json.loads(n)
            )
            for v, at, what, lance, n in rows
        ]

    def oldest_kept(self, table: str) -> int | None:
        """The oldest LanceDB version of a table that an operation needs; None where none does."""
        needed = [op.lance[table] for op in self.operations() if table in op.lance]
        return min(needed, default=None)
