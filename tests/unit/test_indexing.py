from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from meld_duckdb.cli.index import Progress
from meld_duckdb.cli.main import cli
from meld_duckdb.errors import InputError
from meld_duckdb.locks import FileLock
from meld_duckdb.planner.indexing import _arrange
from meld_duckdb.records import Record, make_record
from meld_duckdb.service import LocalService
from meld_duckdb.settings import prepare_lance, resolve
from tests.scripted import HashingEncoder, ScriptedBackend


def rows(n: int) -> list[Record]:
    return [make_record({"id": i, "name": f"n {i}", "part": ("x", "y")[i % 2]}) for i in range(n)]


@pytest.mark.parametrize(
    ("stored", "order"),
    [
        ({}, [0, 1, 2, 3]),
        ({0: "a", 1: "b"}, [0, 1, 2, 3]),
        ({0: "c", 1: "a"}, [2, 0, 1, 3]),
        ({0: "a", 1: "a"}, [0, 3, 1, 2]),
        ({0: "gone", 3: "b"}, [0, 2, 3, 1]),
        ({9: "a"}, [0, 1, 2, 3]),
    ],
)
def test_rows_that_are_stored_keep_their_places(stored: dict[int, str], order: list[int]) -> None:
    assert _arrange(["a", "b", "c", "a"], stored) == order


def test_a_tuned_encoder_is_adopted_row_by_row(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from meld_duckdb.planner import session

    settings, _ = resolve({"workspace": tmp_path / "w"})
    first = LocalService(settings).session
    assert first.index("t", rows(5), embed=True, split="part").n_embedded == 5
    monkeypatch.setattr(session.models, "model_digest", lambda path: "tuned")
    tuned = session.Session(settings, lambda text: None)
    assert tuned.store.entry_vectors(rows(5)) == {}
    assert tuned.index("t", rows(5), embed=True).n_embedded == 5
    [table] = tuned.catalogue.tables()
    assert (table.encoder, table.split_column) == ("tuned", "part")
    assert tuned.index("t", rows(5), embed=True).n_embedded == 0
    [found] = tuned.store.search_entries(HashingEncoder().encode(["n 3"]), 9, splits=["y"])
    assert {f.record.fields["part"] for f in found} == {"y"} and len(found) == 2


def test_the_split_is_a_column(backend: ScriptedBackend, tmp_path: Path) -> None:
    settings, _ = resolve({"workspace": tmp_path / "w"})
    session = LocalService(settings).session
    with pytest.raises(InputError, match=r"split of t .*unknown column 'prt'.*'part'"):
        session.index("t", rows(3), embed=False, split="prt")
    told: list[tuple[int, int]] = []
    session.index("t", rows(600), embed=True, progress=lambda *n: told.append(n))
    assert told == [(0, 600), (512, 600), (600, 600)]
    session.index("t", rows(600), embed=False, split="part")
    [found] = session.store.search_entries(HashingEncoder().encode(["n 7"]), 2, splits=["y"])
    assert all(f.similarity is not None for f in found)  # the vectors stayed


def test_the_same_table_again_is_no_operation(backend: ScriptedBackend, tmp_path: Path) -> None:
    session = LocalService(resolve({"workspace": tmp_path / "w"})[0]).session
    for _ in range(3):
        session.index("t", rows(4), embed=True)
    session.index("t", rows(4)[::-1], embed=True)
    assert [op.what for op in session.ledger.operations()] == ["index t"]


def test_index_command_tells_what_it_did(backend: ScriptedBackend, tmp_path: Path) -> None:
    import duckdb

    database, workspace = str(tmp_path / "d.db"), str(tmp_path / "w")
    with duckdb.connect(database) as con:
        con.execute("CREATE TABLE t AS SELECT i AS id, 'n ' || i AS n FROM range(30) AS x(i)")
        con.execute('CREATE VIEW "odd \'v" AS SELECT * FROM t LIMIT 2')
    run = CliRunner().invoke
    common = ["--db", database, "--workspace", workspace]
    done = run(cli, ["index", "t", '"odd \'v"', *common, "--json"])
    assert done.exit_code == 0, done.output
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["table"], first["entries"], first["embedded"]) == ("t", 30, 30)
    assert (second["entries"], second["embedded"], second["resumed"]) == (2, 0, 0)
    plain = run(cli, ["index", "t", *common, "--no-embed", "--split", "n"])
    assert plain.stdout.startswith("t: 30 rows indexed, 0 embedded, ")
    listed = run(cli, ["workspace", "versions", "--workspace", workspace]).stdout.splitlines()
    assert listed[0].split() == [
        "version", "time", "what", "tables", "entries", "labels", "knowledge",
    ]  # fmt: skip
    assert listed[1].split()[-4:] == ["1", "30", "0", "0"]
    back = run(cli, ["workspace", "rollback", "1", "--workspace", workspace])
    assert back.stdout == "back at version 1, kept as version 4\n"
    wrong = run(cli, ["index", "t", "--db", str(tmp_path / "none.db")])
    assert "there is no such file" in str(wrong.exception)


def test_progress_tells_rate_and_time_left() -> None:
    said: list[tuple[str, bool]] = []
    times = iter([0.0, 0.0, 5.0, 11.0, 12.0])
    progress = Progress("t", False, lambda *told: said.append(told), lambda: next(times))
    for done in (100, 200, 320, 400):
        progress(done, 1000)
    progress.end()
    assert said == [("meld: t: 320/1000 rows (100 from before), 20 rows/s, 34 s left", True)]


def test_progress_writes_over_its_line_on_a_terminal() -> None:
    said: list[tuple[str, bool]] = []
    times = iter([0.0, 0.0, 1.0, 1.01])
    progress = Progress("t", True, lambda *told: said.append(told), lambda: next(times))
    for done in (0, 10, 20):
        progress(done, 4000)
    progress.end()
    assert said == [("meld: t: 10/4000 rows, 10 rows/s, 6 min 39 s left", False), ("", True)]


def test_a_lock_can_be_held_again_by_its_holder_only(tmp_path: Path) -> None:
    import threading

    told: list[str] = []
    first = FileLock(tmp_path / "lock", "which tests", told.append)
    second = FileLock(tmp_path / "lock", "which tests", told.append)
    order: list[str] = []

    def wait() -> None:
        with second.hold():
            order.append("second")

    thread = threading.Thread(target=wait)
    with first.hold(), first.hold():
        thread.start()
        thread.join(3.4)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert told == [f"waiting for process {os.getpid()}, which tests"]


def test_lance_gets_two_threads_where_it_would_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, given, wanted in ((2, None, "2"), (3, None, "2"), (8, None, None), (2, "1", "1")):
        monkeypatch.delenv("LANCE_CPU_THREADS", raising=False)
        if given is not None:
            monkeypatch.setenv("LANCE_CPU_THREADS", given)
        monkeypatch.setattr(os, "cpu_count", lambda n=cores: n)
        prepare_lance()
        assert os.environ.get("LANCE_CPU_THREADS") == wanted
