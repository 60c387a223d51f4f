"""What remote services answered: SQLite in WAL mode, safe for many processes.

Entries stay until the file is removed. A fault of the file costs requests, never a query: it is
logged, and the process goes on without the file.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.retrieval.remote_sources import VERSION
from meld_duckdb.workspace import set_aside

_LOG = logging.getLogger(__name__)
_LOOKUP = 500
_WAIT_S = 10
_MALFORMED = ("file is not a database", "malformed", "no such column", "has no column")
_KEY = "service = ? AND endpoint = ? AND version = ?"


class _Off(Exception):
    """The file is not used any more."""


class RemoteCache:
    """Sentences by service, endpoint and keyword. Methods may be called from any thread.

    Args:
        path: The file; made on first use.
        version: Entries of another version are not seen.
    """

    def __init__(self, path: Path, version: int = VERSION) -> None:
        self._path = path
        self._version = version
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._off = False

    def get(
        self, service: str, endpoint: str, keywords: Iterable[str]
    ) -> dict[str, tuple[str, ...]]:
        """Look up keywords; those without an entry are absent from the result."""
        wanted = list(dict.fromkeys(keywords))
        found: dict[str, tuple[str, ...]] = {}
        with self._guard():
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                rows = self._opened().execute(
                    f"SELECT keyword, sentences FROM facts WHERE {_KEY} AND keyword IN ({marks})",
                    [service, endpoint, self._version, *part],
                )
                found.update((key, s) for key, text in rows if (s := _decode(text)) is not None)
        return found

    def put(self, service: str, endpoint: str, keyword: str, sentences: tuple[str, ...]) -> None:
        """Store what a service said of a keyword; no sentence is an answer, too."""
        row = (service, endpoint, keyword, self._version, json.dumps(sentences))
        with self._guard(), self._opened() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", row)

    def count(self) -> int:
        """Number of stored answers, of all versions."""
        with self._guard():
            return int(self._opened().execute("SELECT count(*) FROM facts").fetchone()[0])
        return 0

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            self._forget()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Serialise access; a fault ends the block, a damaged file is set aside and made anew."""
        with self._lock:
            try:
                yield
            except _Off:
                pass
            except sqlite3.Error as error:
                self._forget()
                if any(word in str(error) for word in _MALFORMED):
                    self._set_aside()
                else:
                    self._off = True
                    _LOG.warning("goes on without the cache %s: %s", self._path, error)

    def _set_aside(self) -> None:
        try:
            _LOG.warning("the cache %s is damaged; moved to %s", self._path, set_aside(self._path))
        except OSError as error:
            self._off = True
            _LOG.warning("goes on without the damaged cache %s: %s", self._path, error)

    def _opened(self) -> sqlite3.Connection:
        if self._off:
            raise _Off
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, timeout=_WAIT_S, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS facts (service TEXT, endpoint TEXT, keyword TEXT,"
                " version INTEGER, sentences TEXT NOT NULL,"
                " PRIMARY KEY (service, endpoint, keyword, version)) WITHOUT ROWID"
            )
        return self._connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _decode(text: str) -> tuple[str, ...] | None:
    """Read stored sentences; what is damaged counts as not stored."""
    try:
        sentences = safe_json.loads(text)
    except (ValueError, TypeError):
        return None
    good = isinstance(sentences, list) and all(isinstance(s, str) for s in sentences)
    return tuple(sentences) if good else None
