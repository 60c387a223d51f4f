"""The answer cache: SQLite in WAL mode, content-addressed, safe for many processes.

A key covers everything that can change the answer (see `planner.plan.look_up_cache`), so entries
are never invalidated, only no longer looked up. Only successes are stored. A fault of the file
costs work, never a query: it is told once, and the process goes on without the file for a while.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactError
from meld_duckdb.tasks.base import Answer, Evidence
from meld_duckdb.workspace import set_aside, unusable

_LOG = logging.getLogger(__name__)
_LOOKUP = 500
_MALFORMED = ("file is not a database", "malformed", "no such column", "has no column")
_WAIT_S = 10
"""How long another process may keep the file locked."""

_PAUSE_S = 60.0
"""After a fault, how long nothing is looked up or stored."""

_SUM = ',"sum":"'
"""What parts a stored answer from its checksum: SQLite does not notice a bit that flips."""

_T = TypeVar("_T")


class AnswerCache:
    """Answers by key. Methods may be called from any thread.

    Args:
        path: The file; made on first use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._off_until = 0.0
        self._fault: ArtefactError | None = None

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Look up keys; those without an entry are absent from the result."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}

        def look_up(connection: sqlite3.Connection) -> None:
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT key, answer FROM answers WHERE key IN ({marks})", part
                )
                found.update((key, a) for key, text in rows if (a := _decode(text)) is not None)

        with suppress(ArtefactError):
            self._use(look_up)
        return found

    def put(self, answers: Mapping[str, Answer], task: str = "") -> None:
        """Store answers in one transaction; those with an error are left out.

        Args:
            answers: Answers by key.
            task: The task they answer, for `summary`; empty for replies that are no answer yet.
        """
        rows = [(key, _encode(a, task)) for key, a in answers.items() if a.error is None]
        if not rows:
            return

        def store(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

        with suppress(ArtefactError):
            self._use(store)

    def count(self) -> int:
        """Number of stored answers.

        Raises:
            ArtefactError: The file cannot be used; so do the methods below.
        """
        return int(self._rows("SELECT count(*) FROM answers")[0][0])

    def expert_counts(self) -> dict[str, int]:
        """How many stored answers each expert gave or had a part in, by name."""
        rows = self._rows(
            "SELECT expert.value, count(*) FROM answers, json_each(answer, '$.experts') expert"
            " WHERE json_valid(answer) GROUP BY 1"
        )
        return {str(name): int(n) for name, n in rows}

    def summary(self, bins: int) -> list[tuple[str, int, int, int]]:
        """Count the stored answers that have a probability, by task, tier and probability.

        Args:
            bins: Parts of equal width into which the probabilities fall; 1 is in the last.

        Returns:
            Rows of (task, tier, bin from 0, answers); an empty task for those that name none.
        """
        rows = self._rows(
            "SELECT coalesce(json_extract(answer, '$.task'), ''),"
            " coalesce(json_extract(answer, '$.tier'), 0),"
            " min(CAST(json_extract(answer, '$.probability') * ? AS INTEGER), ?), count(*)"
            " FROM (SELECT iif(json_valid(answer), answer, '{}') AS answer FROM answers)"
            " WHERE json_extract(answer, '$.probability') IS NOT NULL"
            " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            (bins, bins - 1),
        )
        return [(str(task), int(tier), int(at), int(n)) for task, tier, at, n in rows]

    def clear(self) -> None:
        """Remove all stored answers."""

        def remove(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("DELETE FROM answers")

        self._use(remove)

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return self._use(lambda connection: connection.execute(query, values).fetchall())

    def _use(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do something with the file, one thread at a time; on a new one if it was damaged.

        Raises:
            ArtefactError: The file cannot be used now.
        """
        with self._lock:
            if self._fault is not None and time.monotonic() < self._off_until:
                raise self._fault
            try:
                try:
                    return work(self._opened())
                except sqlite3.DatabaseError as error:
                    if not any(word in str(error) for word in _MALFORMED):
                        raise
                    self._set_aside()
                    return work(self._opened())
            except (sqlite3.Error, OSError) as error:
                raise self._pause(error) from error

    def _pause(self, error: sqlite3.Error | OSError) -> ArtefactError:
        """Leave the file alone for a while; gives what is wrong with it."""
        self._close()
        fault = unusable(self._path, error)
        if self._fault is None:
            _LOG.warning("goes on without the answer cache: %s", fault)
        self._fault, self._off_until = fault, time.monotonic() + _PAUSE_S
        return fault

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self._path)
            self._inode = self._path.stat().st_ino
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _set_aside(self) -> None:
        """Put the damaged file aside, unless another process did so and made a new one."""
        known, self._inode = self._inode if self._connection is not None else 0, 0
        self._close()
        if self._path.exists() and known in {0, self._path.stat().st_ino}:
            _LOG.warning(
                "the answer cache %s is damaged; moved to %s", self._path, set_aside(self._path)
            )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
            " WITHOUT ROWID"
        )
        connection.execute("SELECT key, answer FROM answers LIMIT 0")
    except BaseException:
        connection.close()
        raise
    return connection


def _encode(answer: Answer, task: str) -> str:
    text = json.dumps(
        {
            "task": task,
            "value": answer.value,
            "probability": answer.probability,
            "tier": answer.tier,
            "evidence": [[e.kind, e.text, e.weight] for e in answer.evidence],
            "ranking": [list(item) for item in answer.ranking],
            "experts": list(answer.experts),
            "raw": answer.raw,
        },
        ensure_ascii=False,
    )
    return f'{text[:-1]}{_SUM}{_checksum(text[:-1])}"}}'


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _decode(text: str) -> Answer | None:
    """Read a stored answer; one that is damaged counts as not stored."""
    content, _, end = text.rpartition(_SUM)
    if content and end != f'{_checksum(content)}"}}':
        return None
    try:
        return _answer(safe_json.loads(text))
    except (ValueError, KeyError, TypeError):
        return None


def _answer(fields: dict[str, Any]) -> Answer:
    return Answer(
        value=fields["value"],
        probability=fields["probability"],
        tier=fields["tier"],
        evidence=tuple(Evidence(*item) for item in fields["evidence"]),
        ranking=tuple((value, share) for value, share in fields["ranking"]),
        experts=tuple(fields["experts"]),
        raw=fields["raw"],
    )
