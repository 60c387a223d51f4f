"""kill -9 in the middle of a statement: what was finished is kept and used."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from meld_duckdb import connect
from tests.scripted import ScriptedBackend

SLOW = """
import sys, time
from pathlib import Path
from meld_duckdb import connect
from meld_duckdb.planner import loaded
from tests.scripted import ScriptedBackend, first_choice

def slow(prompt):
    time.sleep(0.05)
    return first_choice(prompt)

loaded.BACKENDS["transformers"] = loaded.BackendKind(
    lambda *given: "scripted", lambda *given: ScriptedBackend(slow, batch_size=5))
loaded.models.locate = lambda *arguments: Path(sys.argv[1])
loaded.models.model_digest = lambda path: "scripted"
connect(workspace=sys.argv[1]).sql(sys.argv[2]).fetchall()
"""
QUERY = """SELECT count(*) FROM (SELECT meld_match(
    {'t': 'thing ' || i}, {'t': 'other ' || i}, {'tier': 't2'}) AS m FROM range(400) AS t(i)) WHERE m"""


def answers(workspace: Path) -> int:
    if not (workspace / "cache.sqlite").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{workspace / 'cache.sqlite'}?mode=ro", uri=True) as connection:
            found = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    connection.close()
    return int(found)


def test_the_next_run_reuses_every_finished_batch(tmp_path: Path, backend: ScriptedBackend) -> None:
    workspace = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(workspace), QUERY], env={**os.environ, "PYTHONPATH": "."}
    )
    deadline = time.monotonic() + 120
    while answers(workspace) < 40:
        assert time.monotonic() < deadline and process.poll() is None, "nothing was answered"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = answers(workspace)
    assert 40 <= kept < 400 and kept % 5 == 0

    con = connect(workspace=workspace)
    assert con.sql(QUERY).fetchall() == [(400,)]
    assert len(backend.asked) == 400 - kept
    [(hits, evaluations)] = con.sql("SELECT cache_hits, evaluations FROM meld.stats()").fetchall()
    assert (hits, evaluations) == (kept, 400 - kept)
    with sqlite3.connect(workspace / "cache.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
