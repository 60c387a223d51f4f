"""The answer cache: SQLite in WAL mode, content-addressed, safe for many processes.

A key covers everything that can change the answer (see `planner.plan.cache_key`), so entries are
never invalidated, only no longer looked up. Only successes are stored.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meld_duckdb.tasks.base import Answer, Evidence
from meld_duckdb.workspace import unusable

_LOG = logging.getLogger(__name__)
_LOOKUP = 500
_MALFORMED = ("file is not a database", "malformed", "no such column", "has no column")


class AnswerCache:
    """Answers by key. Methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = self._open()

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Look up keys; those without an entry are absent from the result."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}
        with self._guard():
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, answer FROM answers WHERE key IN ({marks})", part
                )
                found.update((key, a) for key, text in rows if (a := _decode(text)) is not None)
        return found

    def put(self, answers: Mapping[str, Answer]) -> None:
        """Store answers in one transaction; those with an error are left out."""
        rows = [(key, _encode(a)) for key, a in answers.items() if a.error is None]
        if not rows:
            return
        with self._guard(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def count(self) -> int:
        """Number of stored answers."""
        with self._guard():
            return int(self._connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def expert_counts(self) -> dict[str, int]:
        """How many stored answers each expert gave or had a part in, by name."""
        with self._guard():
            rows = self._connection.execute(
                "SELECT expert.value, count(*) FROM answers, json_each(answer, '$.experts') expert"
                " WHERE json_valid(answer) GROUP BY 1"
            ).fetchall()
        return {str(name): int(n) for name, n in rows}

    def clear(self) -> None:
        """Remove all stored answers."""
        with self._guard(), self._connection:
            self._connection.execute("DELETE FROM answers")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Serialise access; a damaged file is set aside, since a cache may always be rebuilt."""
        with self._lock:
            try:
                yield
            except sqlite3.DatabaseError as error:
                if not any(word in str(error) for word in _MALFORMED):
                    raise
                self._connection.close()
                self._set_aside()
                self._connection = self._open()
                raise

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.DatabaseError as error:
            if not any(word in str(error) for word in _MALFORMED):
                raise unusable(self._path, error) from error
            self._set_aside()
            return _connect(self._path)

    def _set_aside(self) -> None:
        aside = self._path.with_suffix(".damaged")
        _LOG.warning("the answer cache %s is damaged; moved to %s", self._path, aside)
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.replace(aside.with_name(aside.name + suffix))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
        " WITHOUT ROWID"
    )
    connection.execute("SELECT key, answer FROM answers LIMIT 0")
    return connection


def _encode(answer: Answer) -> str:
    return json.dumps(
        {
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


def _decode(text: str) -> Answer | None:
    """Read a stored answer; one that is damaged counts as not stored."""
    try:
        return _answer(json.loads(text))
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
