"""Databases of every kind: read-only, in memory, locked, restricted, with names like ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

import meld_duckdb
from tests.scripted import ScriptedBackend

SAME = "SELECT meld_match('a b', 'b a'), meld.match('a b', 'a b')"
HOLD = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read-only")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE t AS FROM (VALUES (1, 'a b'), (2, 'b a'), (3, 'c')) AS t(id, x)")
    return path


@contextmanager
def held(file: Path, mode: str) -> Iterator[int]:
    """Have another process keep a file open."""
    arguments = [sys.executable, "-c", HOLD, str(file), mode]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"open\n"
        try:
            yield process.pid
        finally:
            process.communicate(timeout=30)


def test_a_read_only_file_is_asked_joined_and_indexed(backend: ScriptedBackend, file: Path) -> None:
    before = file.read_bytes()
    con = meld_duckdb.connect(file, read_only=True)
    assert con.sql(SAME).fetchall() == [(True, True)]
    assert con.sql("SELECT table_name, entries FROM meld.index('t')").fetchall() == [("t", 3)]
    assert len(con.sql("FROM meld.dedupe('t')").fetchall()) == 3
    with pytest.raises(duckdb.Error, match="read-only"):
        con.execute("INSERT INTO t VALUES (4, 'd')")
    con.close()
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "restrictions",
    [
        {"enable_external_access": "false"},
        {"lock_configuration": "true"},
        {"enable_external_access": "false", "lock_configuration": "true"},
        {"disabled_filesystems": "'LocalFileSystem'"},
        {"threads": "1"},
    ],
    ids=str,
)
def test_a_restricted_connection_is_registered_and_asked(
    backend: ScriptedBackend, restrictions: dict[str, str]
) -> None:
    con = duckdb.connect()
    con.execute("CREATE TABLE t AS FROM (VALUES (1, 'a b'), (2, 'b a')) AS t(id, x)")
    for name, value in restrictions.items():
        con.execute(f"SET {name} = {value}")
    meld_duckdb.register(con)
    meld_duckdb.register(con.cursor())
    assert con.sql(SAME).fetchall() == [(True, True)]
    assert con.sql("SELECT entries FROM meld.index('t')").fetchall() == [(2,)]
    assert len(con.sql("FROM meld.block('t', 't', k := 1)").fetchall()) == 2


def test_a_connection_may_be_restricted_after_it_was_registered(
    backend: ScriptedBackend,
) -> None:
    con = meld_duckdb.connect()
    con.execute("SET enable_external_access = false; SET lock_configuration = true")
    assert con.sql(SAME).fetchall() == [(True, True)]
    with pytest.raises(duckdb.Error, match="locked"):
        con.execute("SET threads = 1")


def test_where_nothing_may_be_attached_the_message_says_what_is_needed() -> None:
    class Forbidding:
        """A connection whose database refuses ATTACH, as some services do."""

        def __init__(self, real: duckdb.DuckDBPyConnection) -> None:
            self.real = real

        def cursor(self) -> Forbidding:
            return Forbidding(self.real.cursor())

        def execute(self, sql: str) -> duckdb.DuckDBPyConnection:
            if sql.startswith("ATTACH"):
                raise duckdb.PermissionException("ATTACH is disabled")
            return self.real.execute(sql)

        def __enter__(self) -> Forbidding:
            return self

        def __exit__(self, *error: object) -> None:
            self.real.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    forbidding: Any = Forbidding(duckdb.connect())
    with pytest.raises(
        meld_duckdb.ConfigError, match=r"cannot be attached: .*disabled.*Hint: .*in memory"
    ):
        meld_duckdb.register(forbidding)


def test_a_file_that_another_process_writes_is_named_with_what_to_do(file: Path) -> None:
    for read_only in (False, True):
        with (
            held(file, "writing") as pid,
            pytest.raises(
                meld_duckdb.ConfigError,
                match=rf"mine\.duckdb cannot be opened: .*PID {pid}.*Hint: .*meld serve",
            ),
        ):
            meld_duckdb.connect(file, read_only=read_only)


def test_a_file_that_others_only_read_can_be_read(backend: ScriptedBackend, file: Path) -> None:
    with held(file, "read-only"):
        con = meld_duckdb.connect(file, read_only=True)
        assert con.sql("SELECT count(meld_match(x, 'a b')) FROM t").fetchall() == [(3,)]
        con.close()
        with pytest.raises(meld_duckdb.ConfigError, match=r"lock.*Hint"):
            meld_duckdb.connect(file)


def test_files_that_are_not_there_or_no_databases_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.duckdb"
    bad.write_bytes(b"no database " * 1000)
    for path, read_only, message in (
        (bad, False, "not a valid DuckDB database"),
        (tmp_path / "none.duckdb", True, "does not exist"),
        (tmp_path / "none" / "none.duckdb", False, "No such file"),
    ):
        with pytest.raises(meld_duckdb.ConfigError, match=rf"cannot be opened: .*{message}"):
            meld_duckdb.connect(path, read_only=read_only)


def test_views_and_macros_in_a_file_need_meld_again(backend: ScriptedBackend, file: Path) -> None:
    con = meld_duckdb.connect(file)
    con.execute("CREATE VIEW plain AS SELECT id, meld_match(x, 'a b') AS same FROM t")
    con.execute("CREATE VIEW named AS SELECT id, meld.match(x, 'a b') AS same FROM t")
    con.execute("CREATE MACRO same(a, b) AS meld.match(a, b)")
    con.close()

    con = duckdb.connect(str(file))
    assert con.sql("SELECT count(*) FROM t").fetchall() == [(3,)]
    for sql, missing in (
        ("FROM plain", "meld_match"),
        ("FROM named", "match"),
        ("SELECT same('a', 'a')", "match"),
    ):
        with pytest.raises(
            duckdb.CatalogException, match=f"Function with name {missing} does not exist"
        ):
            con.sql(sql).fetchall()
    meld_duckdb.register(con)
    assert con.sql("FROM plain").fetchall() == con.sql("FROM named").fetchall()
    assert con.sql("SELECT same('a b', 'a b')").fetchall() == [(True,)]


def test_a_database_called_meld_is_attached_under_another_name(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    path = tmp_path / "meld.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE t AS SELECT 'a b' AS x")
    with pytest.raises(meld_duckdb.ConfigError, match=r"ATTACH '.*meld\.duckdb' AS my_data"):
        meld_duckdb.connect(path)
    con = meld_duckdb.connect()
    con.execute(f"ATTACH '{path}' AS my_data; USE my_data")
    assert con.sql("SELECT meld.match(x, 'a b') FROM t").fetchall() == [(True,)]


def test_a_schema_called_meld_is_named_and_no_trouble_in_another_database(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    path = tmp_path / "mine.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE SCHEMA Meld; CREATE TABLE meld.t AS SELECT 'a b' AS x")
    with pytest.raises(meld_duckdb.ConfigError, match=r"'mine' has a schema called 'meld'.*Hint"):
        meld_duckdb.connect(path)
    con = meld_duckdb.connect()
    con.execute(f"ATTACH '{path}' AS mine")
    assert con.sql("SELECT meld.match(x, 'a b') FROM mine.meld.t").fetchall() == [(True,)]


def test_several_databases_are_joined_by_their_full_names(
    backend: ScriptedBackend, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as con:
        con.execute("CREATE TABLE t AS FROM (VALUES ('x', 'a b')) AS t(id, x)")
    con = meld_duckdb.connect()
    con.execute(f"ATTACH '{file}' AS one (READ_ONLY); ATTACH '{other}' AS two (READ_ONLY)")
    assert con.sql("SELECT entries FROM meld.index('one.t')").fetchall() == [(3,)]
    pairs = con.sql("SELECT l_id, r_id FROM meld.join('one.t', 'two.t')").fetchall()
    assert (1, "x") in pairs


def test_a_workspace_that_must_not_learn_answers_and_refuses(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    con = meld_duckdb.connect(workspace=tmp_path / "w", learn=False)
    con.execute("CREATE TABLE t AS SELECT 1 AS id, 'a b' AS x")
    assert con.sql(SAME).fetchall() == [(True, True)]
    for sql, name in (
        ("SELECT meld_learn('match', {'a': 'a', 'b': 'c'}, true)", "meld_learn"),
        ("FROM meld.index('t')", "meld_index"),
    ):
        with pytest.raises(duckdb.Error, match=rf"{name} is shut off: the setting 'learn'"):
            con.sql(sql).fetchall()
    meld_duckdb.register(con, workspace=tmp_path / "w", learn=True)
    assert con.sql("SELECT meld_learn('match', {'a': 'a', 'b': 'c'}, true)").fetchall() == [(True,)]
