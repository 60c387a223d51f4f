from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.tasks.base import Answer, Evidence

ANSWER = Answer("x", 0.25, 2, (Evidence("label", "é", 0.5),), ("expert",), raw="A")


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite")
    cache.put({"k": ANSWER, "bad": Answer(error="unparsable: x")})
    assert cache.get(["k", "bad", "absent"]) == {"k": ANSWER}
    assert AnswerCache(tmp_path / "c.sqlite").get(["k"]) == {"k": ANSWER}
    cache.clear()
    assert cache.count() == 0


def test_many_keys_at_once(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.sqlite")
    cache.put({str(i): Answer(str(i)) for i in range(3_000)})
    found = cache.get(str(i) for i in range(0, 6_000, 2))
    assert sorted(found, key=int) == [str(i) for i in range(0, 3_000, 2)]
    assert found["42"].value == "42"


def test_a_damaged_file_is_set_aside_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"this is no database" * 100)
    cache = AnswerCache(path)
    cache.put({"k": ANSWER})
    assert cache.get(["k"]) == {"k": ANSWER}
    assert (tmp_path / "c.damaged").read_bytes().startswith(b"this is no database")
    assert "damaged" in caplog.text


def _write_forever(path: Path) -> None:
    cache = AnswerCache(path)
    number = 0
    while True:
        cache.put({f"{number}/{i}": Answer(str(number)) for i in range(100)})
        number += 1


def test_kill_in_the_middle_of_writing_keeps_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    AnswerCache(path)
    process = multiprocessing.get_context("spawn").Process(target=_write_forever, args=(path,))
    process.start()
    deadline = time.monotonic() + 60
    while AnswerCache(path).count() < 1_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    cache = AnswerCache(path)
    assert cache.count() >= 1_000
    assert cache.count() % 100 == 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
