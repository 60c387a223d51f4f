"""Answers on their way to the cache of the workspace.

SQLite is for processes of one machine. So actors read a copy of the cache that nobody changes, and
write what they answer for a partition to a file of their own, which the driver takes in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.tasks.base import Answer


class PartitionCache(AnswerCache):
    """The cache of an actor.

    Args:
        known: A copy of the workspace's cache; None for none.
        folder: Where the files of partitions are made, of this process alone.
    """

    def __init__(self, known: Path | None, folder: Path) -> None:
        super().__init__(folder / "answers.sqlite")
        self._known = None if known is None else _Copy(known)

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Look up keys in what the partition brought, then in the copy."""
        wanted = list(keys)
        found = super().get(wanted)
        missing = [key for key in wanted if key not in found]
        if self._known is not None and missing:
            found.update(self._known.get(missing))
        return found

    def begin(self) -> None:
        """Start an empty file."""
        with self._lock:
            self._close()
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def end(self) -> Path | None:
        """Finish the file and tell where it is; None if nothing was written."""
        some = self._path.exists() and self.count() > 0
        with self._lock:
            self._close()  # the last connection brings everything into the one file
        return self._path if some else None


class _Copy(AnswerCache):
    """A file that nobody writes to: no locks are needed, on any file system."""

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False
            )
        return self._connection


class WorkspaceCache(AnswerCache):
    """The cache of the workspace, for the driver."""

    def copy_to(self, path: Path) -> None:
        """Write a copy.

        Raises:
            ArtefactError: The file cannot be used.
        """

        def copy(connection: sqlite3.Connection) -> None:
            target = sqlite3.connect(path)
            try:
                connection.backup(target)
                target.execute("PRAGMA journal_mode=DELETE")
            finally:
                target.close()

        path.unlink(missing_ok=True)
        self._use(copy)

    def take(self, path: Path) -> None:
        """Take in the answers of a partition and remove their file; those known already stay.

        Raises:
            ArtefactError: The file cannot be used.
        """

        def merge(connection: sqlite3.Connection) -> None:
            connection.execute("ATTACH ? AS partition", (str(path),))
            try:
                with connection:
                    connection.execute(
                        "INSERT OR IGNORE INTO answers SELECT key, answer FROM partition.answers"
                    )
            finally:
                connection.execute("DETACH partition")

        self._use(merge)
        path.unlink(missing_ok=True)
