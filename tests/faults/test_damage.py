"""Damaged files of a workspace: used without them, or one error that says what mends it."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb.cli.main import cli
from meld_duckdb.cli.run import one_line
from meld_duckdb.planner import cache
from tests.faults.runs import done, remount, small_disk, write_table
from tests.scripted import ScriptedBackend

N_ROWS = 40
LEARN = "SELECT meld_learn('match', {'a': t, 'b': t}, false) FROM t WHERE id < 3"
ERRORS = "SELECT id, round(meld_detect_error_prob(t, 'city'), 9) AS p FROM t ORDER BY id"
PAIRS = """SELECT l.id, r.id, meld_match(l, r, {'tier': 't2'}) AS m FROM t AS l, t AS r
    WHERE l.id < 6 AND r.id < 6 ORDER BY ALL"""
N_PAIRS = 36 - 15 - 3
"""Different pairs, a pair and its mirror image being one, without the three labels."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database and a workspace ``w`` that no process has open.

    It holds an indexed table, labels, facts and answers.
    """
    folder = tmp_path_factory.mktemp("whole")
    facts = folder / "facts.csv"
    facts.write_text("term,relation,object\nbp,alias,blood pressure\nhr,alias,heart rate\n")
    database = str(write_table(folder / "t.duckdb", N_ROWS))
    done(folder / "w", "index", "t", "--db", database)
    done(folder / "w", "sql", f"{LEARN}; {ERRORS}; {PAIRS}", "--db", database)
    done(folder / "w", "kb", "add", "terms", str(facts))
    return folder


class Copy:
    """A copy of that workspace, to be damaged, and what new processes would be told."""

    def __init__(self, whole: Path, folder: Path, backend: ScriptedBackend) -> None:
        self.path = folder / "copy"
        shutil.copytree(whole / "w", self.path)
        self.backend = backend
        self.database = whole / "t.duckdb"
        self._sizes = itertools.count(1)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement, from a session of its own: sessions go by their settings."""
        given = {"workspace": self.path, "engine_batch": next(self._sizes)}
        with meld_duckdb.connect(self.database, read_only=True, **given) as con:
            return con.sql(statement).fetchall()

    def error(self, statement: str) -> str:
        """The one line with which a statement fails."""
        with pytest.raises(duckdb.Error) as caught:
            self.sql(statement)
        return one_line(caught.value)

    def meld(self, *arguments: str) -> str:
        """What a command prints, which must end well."""
        run = CliRunner().invoke(cli, [*arguments, "--workspace", str(self.path)])
        assert run.exit_code == 0, run.output
        return run.output

    def index(self) -> str:
        return self.meld("index", "t", "--db", str(self.database))


@pytest.fixture
def copy(whole: Path, tmp_path: Path, backend: ScriptedBackend) -> Copy:
    """A copy that no process has open."""
    return Copy(whole, tmp_path, backend)


@pytest.fixture
def before(whole: Path, tmp_path: Path, backend: ScriptedBackend) -> dict[str, Any]:
    """What the workspace answers as long as it is whole, all of it from its cache."""
    other = Copy(whole, tmp_path / "whole", backend)
    found = {sql: other.sql(sql) for sql in (ERRORS, PAIRS)}
    assert backend.asked == []
    return found


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 3])


def empty(file: Path) -> None:
    """A file that was renamed into its place before its content was on the disk."""
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(7).randbytes(20_000))


def page(file: Path) -> None:
    """All pages but the first are damaged here and there."""
    content = bytearray(file.read_bytes())
    assert len(content) > 8192
    for at in range(4096, len(content), 97):
        content[at] ^= 0x5A
    file.write_bytes(bytes(content))


def values(file: Path) -> None:
    """What is stored says something else, and is well-formed all the same."""
    connection = sqlite3.connect(file)
    with connection:
        changed = connection.execute(
            "UPDATE answers SET answer = replace(replace(answer, '0.8', '0.1'), ': 0.', ': 0.9')"
        )
        assert changed.rowcount > N_PAIRS
    connection.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if "answer cache" in line]


@pytest.mark.parametrize("damage", [cut, empty, garbage, page, values])
def test_the_cache_of_answers_is_made_anew(
    copy: Copy,
    before: dict[str, Any],
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(copy.path / "cache.sqlite")
    assert {sql: copy.sql(sql) for sql in before} == before
    assert len(copy.backend.asked) == N_PAIRS
    assert len(said(caplog)) == (damage not in (empty, values))
    assert copy.sql(PAIRS) == before[PAIRS]
    assert len(copy.backend.asked) == N_PAIRS  # stored again


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_WAIT_S", 0.2)
    monkeypatch.setattr(cache, "_PAUSE_S", 0.0)


def test_a_cache_that_somebody_locks_is_done_without(
    copy: Copy, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    new = PAIRS.replace("id < 6", "id < 8")
    other = sqlite3.connect(copy.path / "cache.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with meld_duckdb.connect(copy.database, read_only=True, workspace=copy.path) as con:
        first = con.sql(new).fetchall()
        assert len(first) == 64 and all(m is not None for *_, m in first)
        assert con.sql(new.replace("id < 8", "id < 5")).fetchall() == [
            x for x in first if max(x[:2]) < 5
        ]
        other.execute("COMMIT")
        other.close()
        assert con.sql(PAIRS.replace("id < 6", "id < 9")).fetchall()
    n_asked = len(copy.backend.asked)
    assert copy.sql(new) == first and len(copy.backend.asked) == n_asked  # stored by the last one
    assert len(said(caplog)) == 1


def test_a_cache_in_whose_place_there_is_a_directory_is_done_without(
    copy: Copy, caplog: pytest.LogCaptureFixture
) -> None:
    (copy.path / "cache.sqlite").unlink()
    (copy.path / "cache.sqlite").mkdir()
    assert len(copy.sql(PAIRS)) == 36
    [line] = said(caplog)
    assert "goes on without the answer cache" in line and str(copy.path / "cache.sqlite") in line


def test_two_processes_that_find_the_same_damage_put_it_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    both = [cache.AnswerCache(path), cache.AnswerCache(path)]
    some = {str(i): cache.Answer("x" * 50, 0.5, 0) for i in range(500)}
    for one in both:
        one.put(some)
        assert len(one.get(some)) == 500
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    page(path)
    for one in both:
        assert one.get(some) == {}
        one.put({"new": cache.Answer("y", 0.5, 0)})
    assert all(set(one.get([*some, "new"])) == {"new"} for one in both)


def test_what_cannot_be_written_is_one_error_or_done_without(
    whole: Path, tmp_path: Path, backend: ScriptedBackend
) -> None:
    """A file system that is mounted for reading only."""
    with small_disk(tmp_path / "disk", 8000) as disk:
        copy = Copy(whole, disk, backend)
        remount(disk, "ro")
        line = copy.error(ERRORS)
        assert re.fullmatch(r"\[MELD-E03\d\] .*catalogue\.sqlite .*Hint: .*", line), line
        remount(disk, "rw")
        assert len(copy.sql(ERRORS)) == N_ROWS


ENTRIES = "index.lance/entries.lance"
REBUILT = r"meld workspace rebuild"


def newest(folder: Path) -> Path:
    return max((folder / "data").iterdir(), key=lambda file: file.stat().st_size)


def flip(folder: Path) -> None:
    """A letter of a stored text is another one."""
    file = newest(folder)
    content = bytearray(file.read_bytes())
    at = content.find(b"berlin")
    assert at > 0
    content[at] ^= 1
    file.write_bytes(bytes(content))


def lose_fragment(folder: Path) -> None:
    newest(folder).unlink()


def cut_fragment(folder: Path) -> None:
    cut(newest(folder))


def lose_versions(folder: Path) -> None:
    for file in (folder / "_versions").iterdir():
        file.unlink()


@pytest.mark.parametrize("damage", [flip, lose_fragment, cut_fragment, lose_versions])
def test_a_damaged_index_is_named_and_mended_by_the_command_of_the_hint(
    copy: Copy, before: dict[str, Any], damage: Callable[[Path], None]
) -> None:
    damage(copy.path / ENTRIES)
    (copy.path / "cache.sqlite").unlink()  # else nothing would be read
    line = copy.error(ERRORS)
    assert line.startswith("[MELD-E032]") and ENTRIES in line
    assert re.search(REBUILT, line), line
    rebuilt = copy.meld("workspace", "rebuild")
    assert "t is left out, index it again" in rebuilt and "3 labels" in rebuilt
    assert f"t: {N_ROWS} rows indexed" in copy.index()
    assert copy.sql(ERRORS) == before[ERRORS]
    assert copy.sql("SELECT bool_or(meld_match(t, t)) FROM t WHERE id < 3") == [(False,)]


def test_of_a_table_with_a_damaged_row_the_others_are_not_embedded_again(copy: Copy) -> None:
    flip(copy.path / ENTRIES)
    assert "1 damaged rows were removed" in copy.meld("workspace", "rebuild")
    assert "1 embedded" in copy.index()


@pytest.mark.parametrize("damage", [lose_fragment, cut_fragment, lose_versions])
def test_a_lost_list_of_tables_costs_no_embedding(
    copy: Copy, before: dict[str, Any], damage: Callable[[Path], None]
) -> None:
    damage(copy.path / "index.lance" / "tables.lance")
    assert "the damaged tables are kept as" in copy.meld("workspace", "rebuild")
    assert "0 embedded" in copy.index()
    assert copy.sql(ERRORS) == before[ERRORS]


@pytest.mark.parametrize("damage", [flip, lose_fragment, lose_versions])
def test_damaged_labels_are_removed_and_counted(copy: Copy, damage: Callable[[Path], None]) -> None:
    damage(copy.path / "index.lance" / "labels.lance")
    rebuilt = copy.meld("workspace", "rebuild")
    assert (
        "1 damaged labels were removed" if damage is flip else "damaged labels are kept"
    ) in rebuilt
    assert ("2 labels" if damage is flip else "0 labels") in rebuilt
    assert len(copy.sql(PAIRS)) == 36
    with meld_duckdb.connect(copy.database, read_only=True, workspace=copy.path) as con:
        con.sql(LEARN).fetchall()
    assert copy.sql("SELECT bool_or(meld_match(t, t)) FROM t WHERE id < 3") == [(False,)]


def test_an_index_that_was_removed_takes_its_labels_with_it_and_says_so(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELD_PROGRESS", "true")
    shutil.rmtree(copy.path / "index.lance")
    assert "its tables and labels are forgotten" in copy.index()
    assert len(copy.sql(PAIRS)) == 36
    with meld_duckdb.connect(copy.database, read_only=True, workspace=copy.path) as con:
        con.sql(LEARN.replace("id < 3", "id = 1")).fetchall()
    found = copy.sql("SELECT id, meld_match_detail(t, t).evidence[1].kind FROM t WHERE id < 3")
    assert [id for id, kind in found if kind == "label"] == [1]


@pytest.mark.parametrize("damage", [cut, garbage, page])
def test_a_damaged_catalogue_is_mended_by_the_command_of_the_hint(
    copy: Copy, before: dict[str, Any], damage: Callable[[Path], None]
) -> None:
    for file in copy.path.glob("catalogue.sqlite-*"):
        file.unlink()
    damage(copy.path / "catalogue.sqlite")
    line = copy.error(ERRORS)
    assert line.startswith("[MELD-E032]") and REBUILT in line and "catalogue.sqlite" in line
    assert "1 tables, 3 labels" in copy.meld("workspace", "rebuild")
    assert copy.sql(ERRORS) == before[ERRORS]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema_ver',
        b"\xff\xfe\x00",
        b"[1]",
        b"{}",
        b'{"schema_version": "x"}',
        b'{"schema_version": 2, "encoder": 5}',
        b'{"schema_version": 2, "stages": [1]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_mended_by_the_command_of_the_hint(
    copy: Copy, before: dict[str, Any], content: bytes
) -> None:
    (copy.path / "manifest.json").write_bytes(content)
    line = copy.error(ERRORS)
    assert line.startswith("[MELD-E032]") and REBUILT in line and "manifest.json" in line
    assert "manifest.damaged" in copy.meld("workspace", "rebuild")
    assert (copy.path / "manifest.damaged").read_bytes() == content
    assert copy.sql(ERRORS) == before[ERRORS]
    assert json.loads((copy.path / "manifest.json").read_bytes())["schema_version"] == 2


@pytest.mark.parametrize("content", [b'model = "x', b"\xff\xfe", b"a = " + b"[" * 50_000, b"\x00"])
def test_damaged_settings_are_named(copy: Copy, content: bytes) -> None:
    (copy.path / "meld.toml").write_bytes(content)
    with pytest.raises(meld_duckdb.ConfigError, match=r"meld\.toml is not valid TOML"):
        copy.sql(ERRORS)


@pytest.mark.parametrize("damage", [cut, empty, garbage])
def test_what_is_only_measured_is_done_without(copy: Copy, damage: Callable[[Path], None]) -> None:
    (copy.path / "speed.json").write_text(json.dumps({"x": [[1.0, 1.0]]}))
    damage(copy.path / "speed.json")
    assert len(copy.sql(PAIRS.replace("id < 6", "id < 7"))) == 49
    assert json.loads((copy.path / "speed.json").read_bytes())


@pytest.mark.parametrize("damage", [cut, empty, garbage])
def test_a_damaged_base_harms_no_other_function_and_is_forgotten_by_the_command_of_the_hint(
    copy: Copy, damage: Callable[[Path], None]
) -> None:
    damage(copy.path / "knowledge" / "terms.json")
    assert len(copy.sql(PAIRS)) == 36
    line = copy.error("SELECT kcmf_schema_match({'column': 'bp'}, {'column': 'x'}, {'tier': 't2'})")
    assert line.startswith("[MELD-E032]") and "meld kb remove terms" in line
    assert "2 facts forgotten" in copy.meld("kb", "remove", "terms")
    copy.sql("SELECT kcmf_schema_match({'column': 'bp'}, {'column': 'x'}, {'tier': 't2'})")


def test_what_killed_writers_left_behind_is_no_hindrance(
    copy: Copy, before: dict[str, Any]
) -> None:
    """Temporary files beside their targets, folders without content, stale locks."""
    for name in (".manifest.json.x1y2", "write.lock", "index.lock"):
        (copy.path / name).write_text("99999999")
    for name in ("experts/.new-x", "adapters/.unfinished-1", "encoder/.tuned", "router"):
        (copy.path / name).mkdir(parents=True)
    (copy.path / ENTRIES / "data" / "00ff.lance").write_bytes(b"half a fragm")
    (copy.path / "index.lance" / "new.lance").mkdir()
    assert copy.sql(ERRORS) == before[ERRORS]
    assert f"{N_ROWS} rows indexed" in copy.index()
    copy.meld("workspace", "compact")
    assert copy.sql(ERRORS) == before[ERRORS]
