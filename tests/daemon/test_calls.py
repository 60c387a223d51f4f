"""Queries through a real engine: several clients, deadlines, kills, interruptions."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb import interrupt
from meld_duckdb.daemon import lifecycle
from meld_duckdb.register import begin_statement
from meld_duckdb.settings import resolve
from tests.daemon.conftest import Start
from tests.daemon.test_lifecycle import wait_until
from tests.scripted import ScriptedBackend

MATCH = "SELECT meld_match('a b', 'a b')"


def ask(n: int, word: str = "x") -> str:
    """A query whose every row goes to the language model."""
    return (
        f"SELECT count(meld_match({{'t': '{word} ' || i}}, {{'t': 'y ' || i}}, {{'tier': 't2'}})) "
        f"FROM range({n}) AS t(i)"
    )


def answered(path: Path) -> int:
    """Answers that are kept; none while the cache is being made."""
    if not (path / "cache.sqlite").exists():
        return 0
    with contextlib.closing(sqlite3.connect(path / "cache.sqlite")) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'answers'").fetchone():
            return 0
        return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])


def kill_once_it_answers(pid: int, workspace: Path) -> None:
    """Kill an engine as soon as the first answers are kept."""

    def run() -> None:
        wait_until(lambda: answered(workspace))
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=run).start()


def status() -> dict[str, object]:
    return lifecycle.status(resolve()[0])


def test_a_process_with_an_engine_loads_no_model_library(start: Start) -> None:
    start()
    code = (
        "import sys, meld_duckdb\n"
        "con = meld_duckdb.connect(engine='required')\n"
        f"assert con.sql({MATCH!r}).fetchall() == [(True,)]\n"
        "heavy = ('torch', 'transformers', 'lancedb', 'pandas', 'sklearn', 'scipy', 'peft')\n"
        "print([m for m in (*heavy, 'meld_duckdb.service') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_two_clients_at_once_have_their_own_statistics(start: Start) -> None:
    start()
    one, two = (meld_duckdb.connect(engine="required") for _ in range(2))
    results: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda c=c, w=w: results.update({w: c.sql(ask(300, w)).fetchall()}))
        for c, w in ((one, "red"), (two, "blue"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"red": [(300,)], "blue": [(300,)]}
    one.sql("SELECT meld_impute({'a': 1, 'b': NULL}, 'b')").fetchall()
    counted = "SELECT function, rows, engine_prompts FROM meld.stats()"
    assert one.sql(counted).fetchall() == [("meld_match", 300, 300), ("meld_impute", 1, 0)]
    assert two.sql(counted).fetchall() == [("meld_match", 300, 300)]
    assert len(one.sql("FROM meld.errors()").fetchall()) == 1
    assert two.sql("FROM meld.errors()").fetchall() == []
    assert status()["clients"] == 2


def test_concurrent_calls_end_in_common_batches_and_nothing_is_asked_twice(
    start: Start, slow: None
) -> None:
    start()
    cons = [meld_duckdb.connect(engine="required") for _ in range(3)]
    queries = [ask(64)] * 3 + [ask(20, f"w{i}") for i in range(3)]
    threads = [
        threading.Thread(target=lambda c=c, q=q: c.cursor().execute(q).fetchall())
        for c, q in zip(cons * 2, queries, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = status()
    assert found["prompts"] == 64 + 3 * 20
    assert found["merged_prompts"] > 0  # type: ignore[operator]


def test_a_statement_that_begins_gets_lines_of_its_own(start: Start) -> None:
    start()
    con = meld_duckdb.connect(engine="required")
    for _ in range(2):
        begin_statement(con)
        con.sql(MATCH).fetchall()
    lines = con.sql("SELECT statement, cache_hits FROM meld.stats()").fetchall()
    assert lines == [(1, 0), (2, 1)]


def test_errors_come_back_as_they_are(start: Start, backend: ScriptedBackend) -> None:
    start()
    bad = "SELECT meld_match('a', 'b', {'treshold': 0.5})"
    texts = []
    for engine in ("required", "local"):
        with pytest.raises(duckdb.Error) as caught:
            meld_duckdb.connect(engine=engine).sql(bad).fetchall()
        texts.append(str(caught.value).split("At:", maxsplit=1)[0].strip())
    assert texts[0] == texts[1] and "did you mean 'threshold'" in texts[0]


def test_a_failing_prompt_fails_its_own_query_only(start: Start) -> None:
    start()
    con, other = (meld_duckdb.connect(engine="required") for _ in range(2))
    with pytest.raises(duckdb.Error, match=r"MELD-E020.*ValueError: this prompt fails"):
        con.sql(ask(40, "fail-prompt")).fetchall()
    assert other.sql(ask(40)).fetchall() == con.sql(ask(40, "good")).fetchall() == [(40,)]


def test_notices_come_back(
    start: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    start()
    con = meld_duckdb.connect(engine="required", progress=True)
    con.sql(ask(1)).fetchall()
    assert capsys.readouterr().err == (
        "meld: loading the model smollm2-135m-instruct (once a process)\n"
    )


def test_without_an_engine_it_is_answered_here_or_refused(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    assert meld_duckdb.connect().sql(MATCH).fetchall() == [(True,)]
    with pytest.raises(duckdb.Error, match=r"MELD-E021.*no engine runs.*meld engine start"):
        meld_duckdb.connect(engine="required").sql(MATCH).fetchall()
    assert not (tmp_path / "workspace" / "engine").exists()


def test_local_never_asks_an_engine(start: Start, backend: ScriptedBackend) -> None:
    start()
    assert meld_duckdb.connect(engine="local").sql(MATCH).fetchall() == [(True,)]
    assert status()["calls"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "another"}, "model = 'smollm2-135m-instruct', this process wants 'another'"),
        ({"device": "cuda"}, "device = 'auto', this process wants 'cuda'"),
    ],
)
def test_other_models_are_refused_with_both_names(
    start: Start, backend: ScriptedBackend, given: dict[str, object], message: str
) -> None:
    start()
    with pytest.raises(duckdb.Error, match=rf"MELD-E024.*{message}"):
        meld_duckdb.connect(engine="required", **given).sql(MATCH).fetchall()


def test_another_version_is_refused_with_both_and_answered_here_with_one_notice(
    start: Start,
    backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start()
    ours = meld_duckdb.__version__
    monkeypatch.setattr(meld_duckdb, "__version__", "9.9.9")
    with pytest.raises(duckdb.Error, match=rf"MELD-E024.*{ours}.*9\.9\.9.*meld engine restart"):
        meld_duckdb.connect(engine="required").sql(MATCH).fetchall()
    con = meld_duckdb.connect(progress=True)
    for _ in range(3):
        assert con.sql(MATCH).fetchall() == [(True,)]
    said = [line for line in capsys.readouterr().err.splitlines() if "9.9.9" in line]
    assert len(said) == 1 and "this process answers itself" in said[0]
    assert status()["calls"] == 0


def test_an_engine_killed_in_the_middle_fails_the_query_with_one_line(
    start: Start, slow: None, tmp_path: Path
) -> None:
    pid = start()["pid"]
    con = meld_duckdb.connect(engine="required")
    kill_once_it_answers(pid, tmp_path / "workspace")
    with pytest.raises(duckdb.Error, match=r"MELD-E021.*stopped before.*meld engine restart"):
        con.sql(ask(100)).fetchall()
    kept = answered(tmp_path / "workspace")
    assert 0 < kept < 100
    start()
    assert con.sql(ask(100)).fetchall() == [(100,)]
    [(hits,)] = con.sql("SELECT cache_hits FROM meld.stats()").fetchall()
    assert hits == kept


def test_an_engine_killed_in_the_middle_is_replaced_by_this_process_if_that_is_allowed(
    start: Start,
    slow: None,
    backend: ScriptedBackend,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    pid = start()["pid"]
    con = meld_duckdb.connect(progress=True)
    kill_once_it_answers(pid, tmp_path / "workspace")
    assert con.sql(ask(100)).fetchall() == [(100,)]
    assert 0 < len(backend.asked) < 100
    said = [x for x in capsys.readouterr().err.splitlines() if "answers itself" in x]
    assert len(said) == 1 and "meld engine restart" in said[0]
    start()
    assert con.sql(ask(1, "new")).fetchall() == [(1,)]
    assert status()["prompts"] == 1
    rows = con.sql("SELECT sum(rows) FROM meld.stats()").fetchall()
    assert rows == [(101,)]  # what was counted here, and what the engine of now counted


def test_an_engine_that_crashes_on_a_row_is_reported(start: Start) -> None:
    start()
    con = meld_duckdb.connect(engine="required")
    with pytest.raises(duckdb.Error, match="meld engine restart"):
        con.sql(ask(1, "crash-engine")).fetchall()


def test_a_call_past_its_deadline_fails_and_frees_its_work(start: Start, slow: None) -> None:
    start()
    con = meld_duckdb.connect(engine="required", engine_timeout_s=1)
    started = time.monotonic()
    with pytest.raises(duckdb.Error, match=r"MELD-E022.*not answered within 1 s"):
        con.sql(ask(400)).fetchall()
    assert time.monotonic() - started < 4
    wait_until(lambda: status()["running"] == 0, 5)
    assert status()["prompts"] < 100  # type: ignore[operator]


def test_an_interruption_frees_the_work(start: Start, slow: None) -> None:
    start()
    con = meld_duckdb.connect(engine="required")
    threading.Timer(0.8, interrupt.interrupt).start()
    started = time.monotonic()
    try:
        with pytest.raises(duckdb.Error, match="KeyboardInterrupt"):
            con.sql(ask(400)).fetchall()
    finally:
        interrupt.clear()
    assert time.monotonic() - started < 3
    wait_until(lambda: status()["running"] == 0, 5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_client_that_is_killed_or_interrupted_frees_its_work(
    start: Start, slow: None, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    start()
    monkeypatch.setenv("MELD_ENGINE", "required")
    command = [sys.executable, "-m", "meld_duckdb.cli.main", "sql", ask(400)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as client:
        wait_until(lambda: status()["running"] == 1)
        time.sleep(0.5)
        client.send_signal(number)
        _, said = client.communicate(timeout=5)
    assert client.returncode == code
    assert (b"interrupted; finished answers are kept" in said) == (number == signal.SIGINT)
    wait_until(lambda: status()["running"] == 0, 5)


def test_stopping_lets_running_calls_finish(start: Start, slow: None) -> None:
    start()
    con = meld_duckdb.connect(engine="required")
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(con.sql(ask(40)).fetchall()))
    thread.start()
    wait_until(lambda: status()["running"] == 1)
    assert lifecycle.stop(resolve()[0])
    thread.join()
    assert results == [[(40,)]]


def test_a_short_question_is_not_kept_waiting_by_a_long_one(start: Start, slow: None) -> None:
    start()
    greedy, modest = (meld_duckdb.connect(engine="required") for _ in range(2))
    thread = threading.Thread(target=lambda: greedy.sql(ask(160)).fetchall())
    thread.start()
    wait_until(lambda: status()["running"] == 1)
    time.sleep(0.5)
    started = time.monotonic()
    modest.sql(ask(2, "short")).fetchall()
    assert time.monotonic() - started < 4  # the long one takes 8 s
    assert thread.is_alive()
    thread.join()
