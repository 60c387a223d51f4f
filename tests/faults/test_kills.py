"""kill -9 at random moments, again and again: what was finished is kept, and the work gets done."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.runs import done, end, start, wait_until, write_table

N_KILLS = 2


def kill_at_random(
    process: subprocess.Popen[str], chance: random.Random, begun: Callable[[], bool], most_s: float
) -> str:
    """Kill a run up to ``most_s`` seconds after it has begun its work; gives what it printed."""
    wait_until(begun, process)
    time.sleep(chance.uniform(0, most_s))
    assert process.poll() is None, "it was done too soon"
    process.send_signal(signal.SIGKILL)
    run = end(process)
    assert run.code == -signal.SIGKILL
    return run.out


def count(file: Path, query: str) -> int:
    """What a query says to a SQLite file, 0 where there is none yet."""
    try:
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def is_whole(file: Path) -> bool:
    with sqlite3.connect(file) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return bool(found == ("ok",))


def test_a_query(tmp_path: Path) -> None:
    """The engine answers in batches of 16: of a killed run at most one is asked again."""
    work, chance, n_rows = tmp_path / "w", random.Random(1), 400
    ask = f"""SELECT count(*) AS n FROM (SELECT meld_match({{'t': 'thing ' || i}}, {{'t': 'x ' || i}},
        {{'tier': 't2'}}) AS m FROM range({n_rows}) AS t(i)) WHERE m"""
    stats = "SELECT cache_hits, evaluations, failures FROM meld.stats()"

    def kept() -> int:
        return count(work / "cache.sqlite", "SELECT count(*) FROM answers")

    for _ in range(N_KILLS):
        before = kept()
        run = start(work, "sql", ask, test_sleep=0.01)
        kill_at_random(run, chance, lambda before=before: kept() > before, 0.7)
        assert before < kept() < n_rows and kept() % 16 == 0
    before = kept()
    assert done(work, "sql", f"{ask}; {stats}", "--format", "csv").split() == [
        "n",
        str(n_rows),
        "cache_hits,evaluations,failures",
        f"{before},{n_rows - before},0",
    ]
    assert kept() == n_rows and is_whole(work / "cache.sqlite")


def test_an_index(tmp_path: Path) -> None:
    work, chance, n_rows = tmp_path / "w", random.Random(2), 6000
    database = str(write_table(tmp_path / "t.duckdb", n_rows))
    entries = work / "index.lance" / "entries.lance" / "data"
    for number in range(N_KILLS):
        run = start(work, "index", "t", "--db", database, test_row_sleep=0.001)
        files = number + 1
        kill_at_random(
            run,
            chance,
            lambda files=files: entries.is_dir() and len(list(entries.iterdir())) > files,
            1.0,
        )
        assert count(work / "catalogue.sqlite", "SELECT count(*) FROM tables") == 0
    said = done(work, "index", "t", "--db", database)
    assert said.startswith(f"t: {n_rows} rows indexed") and "were there from a run before" in said
    n_kept = int(said.split(" were there")[0].split()[-1])
    assert 1024 <= n_kept < n_rows
    assert f"{n_rows - n_kept} embedded" in said
    [_, line] = done(work, "workspace", "versions").splitlines()
    assert line.split()[-4:] == ["1", str(n_rows), "0", "0"]


def test_learning(tmp_path: Path) -> None:
    """A statement that has printed its result has stored its label."""
    work, chance, n_labels = tmp_path / "w", random.Random(3), 25
    learn = ";".join(
        f"SELECT meld_learn('match', {{'a': {{'t': 'a {i}'}}, 'b': {{'t': 'b {i}'}}}}, {i % 2 == 0})"
        for i in range(n_labels)
    )
    labels = work / "catalogue.sqlite", "SELECT count(*) FROM labels"
    for _ in range(N_KILLS):
        before = count(*labels)
        run = start(work, "sql", learn, "--format", "csv")
        out = kill_at_random(run, chance, lambda before=before: count(*labels) > before, 0.2)
        printed = sum(line.lower() == "true" for line in out.splitlines())
        # What the mark says was begun is finished by the next process.
        asked = "SELECT count(*) AS n FROM (SELECT meld_match({'t': 'a'}, {'t': 'b'}))"
        done(work, "sql", asked)
        assert printed <= count(*labels) <= max(before, printed) + 1
    done(work, "sql", learn)
    assert count(*labels) == n_labels
    wrong = (
        "SELECT count(*) AS n FROM (SELECT i, meld_match_detail({'t': 'a ' || i}, {'t': 'b ' || i})"
        f" AS d FROM range({n_labels}) AS r(i)) WHERE d.answer != (i % 2 = 0)"
        " OR d.evidence[1].kind != 'label'"
    )
    assert done(work, "sql", wrong, "--format", "csv").split() == ["n", "0"]


def test_a_knowledge_base(tmp_path: Path) -> None:
    work, chance, n_facts = tmp_path / "w", random.Random(4), 3000
    source = tmp_path / "facts.csv"
    lines = (f"term {i},alias,other name {i}" for i in range(n_facts))
    source.write_text("\n".join(["term,relation,object", *lines]), "utf-8")
    facts = work / "index.lance" / "knowledge.lance" / "data"
    for _ in range(N_KILLS):
        before = len(list(facts.iterdir())) if facts.is_dir() else 0
        run = start(work, "kb", "add", "terms", str(source), "--embed", test_row_sleep=0.001)
        kill_at_random(
            run,
            chance,
            lambda before=before: facts.is_dir() and len(list(facts.iterdir())) > before,
            0.5,
        )
    assert f"terms: {n_facts} facts" in done(work, "kb", "add", "terms", str(source), "--embed")
    found = done(work, "kb", "find", "terms", "term 2999", "-k", "1")
    assert "other name 2999" in found


def test_writers_at_once(tmp_path: Path) -> None:
    """One of two processes that write is killed: the other one goes on and is done."""
    work, chance = tmp_path / "w", random.Random(5)
    database = str(write_table(tmp_path / "t.duckdb", 1500))
    done(work, "sql", "SELECT meld_learn('match', {'a': 'x', 'b': 'y'}, true)")
    learn = ";".join(
        f"SELECT meld_learn('match', {{'a': 'a {i}', 'b': 'b {i}'}}, true)" for i in range(12)
    )
    learning = start(work, "sql", learn)
    indexing = start(work, "index", "t", "--db", database, test_row_sleep=0.002)
    labels = work / "catalogue.sqlite", "SELECT count(*) FROM labels"
    kill_at_random(indexing, chance, lambda: count(*labels) > 1, 0.4)
    run = end(learning)
    assert run.code == 0 and not run.errors, run.err
    assert count(*labels) == 13
    assert "t: 1500 rows indexed" in done(work, "index", "t", "--db", database)
    assert is_whole(work / "catalogue.sqlite")
