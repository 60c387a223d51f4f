from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.register import load_functions
from tests.scripted import ScriptedBackend

HEAVY = ("torch", "transformers", "vllm", "peft", "lancedb", "pandas", "sklearn", "scipy")


def test_registering_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, meld_duckdb, duckdb\n"
        "con = meld_duckdb.register(duckdb.connect())\n"
        "con.sql(\"SELECT count(*) FROM duckdb_functions() WHERE database_name = 'meld'\").fetchall()\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_registering_again_is_harmless_everywhere(con: duckdb.DuckDBPyConnection) -> None:
    cursor = con.cursor()
    for _ in range(3):
        meld_duckdb.register(con)
        meld_duckdb.register(cursor)
    assert cursor.sql("SELECT meld_match('a b', 'a b')").fetchall() == [(True,)]


def test_functions_survive_the_cursor_that_registered_them(backend: ScriptedBackend) -> None:
    con = duckdb.connect()
    cursor = con.cursor()
    meld_duckdb.register(cursor)
    cursor.close()
    del cursor
    assert con.sql("SELECT meld_match('a b', 'a b')").fetchall() == [(True,)]


def test_registering_with_other_settings_switches_the_workspace(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    con = meld_duckdb.connect(workspace=tmp_path / "one")
    con.sql("SELECT meld_match('a', 'b')").fetchall()
    meld_duckdb.register(con.cursor(), workspace=tmp_path / "two")
    con.sql("SELECT meld_match('a', 'b')").fetchall()
    assert (tmp_path / "one" / "cache.sqlite").exists()
    assert (tmp_path / "two" / "cache.sqlite").exists()


def test_two_databases_do_not_share_settings(backend: ScriptedBackend, tmp_path: Path) -> None:
    first = meld_duckdb.connect(workspace=tmp_path / "one")
    meld_duckdb.connect(workspace=tmp_path / "two")
    first.sql("SELECT meld_match('a', 'b')").fetchall()
    assert not (tmp_path / "two").exists()


def test_nothing_is_written_to_the_users_file(backend: ScriptedBackend, tmp_path: Path) -> None:
    path = tmp_path / "mine.duckdb"
    con = meld_duckdb.connect(path)
    con.sql("SELECT meld_match('a', 'b')").fetchall()
    con.close()
    plain = duckdb.connect(str(path))
    count = "SELECT count(*) FROM duckdb_functions() WHERE function_name LIKE '%meld%'"
    assert plain.sql(count).fetchall() == [(0,)]


def test_a_read_only_database_works(backend: ScriptedBackend, tmp_path: Path) -> None:
    path = tmp_path / "mine.duckdb"
    duckdb.connect(str(path)).close()
    con = meld_duckdb.register(duckdb.connect(str(path), read_only=True))
    assert con.sql("SELECT meld.match('a b', 'a b')").fetchall() == [(True,)]


def test_a_database_of_the_users_called_meld_is_named(tmp_path: Path) -> None:
    with pytest.raises(meld_duckdb.ConfigError, match=r"already attached.*another name"):
        meld_duckdb.connect(tmp_path / "meld.duckdb")


def test_unknown_settings_are_named() -> None:
    with pytest.raises(meld_duckdb.ConfigError, match="did you mean 'workspace'"):
        meld_duckdb.connect(workspce="x")


def test_no_workspace_is_made_before_it_is_needed(tmp_path: Path) -> None:
    con = meld_duckdb.connect(workspace=tmp_path / "w")
    con.sql("SELECT meld_version()").fetchall()
    con.sql("FROM meld.help()").fetchall()
    assert not (tmp_path / "w").exists()


def test_administration(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert con.sql("SELECT meld_version()").fetchall() == [(meld_duckdb.__version__,)]
    assert con.sql("FROM meld.stats()").fetchall() == []
    assert con.sql("FROM meld.errors()").fetchall() == []
    settings = dict(con.sql("SELECT key, value FROM meld.settings()").fetchall())
    assert settings["workspace"] == str(tmp_path / "workspace")
    helped = {name for (name,) in con.sql("SELECT function FROM meld.help()").fetchall()}
    assert helped >= {f.name for f in load_functions() if not f.name.startswith("__")}
    macros = con.sql(
        "SELECT DISTINCT 'meld.' || function_name FROM duckdb_functions()"
        " WHERE database_name = 'meld' AND function_name <> 'registration'"
        " AND NOT starts_with(function_name, '__')"
    ).fetchall()
    assert helped >= {name for (name,) in macros}
    assert con.sql("SELECT count(*) FROM meld.help() WHERE doc IS NULL").fetchall() == [(0,)]


def test_reading_the_statistics_starts_new_lines(con: duckdb.DuckDBPyConnection) -> None:
    for _ in range(2):
        con.sql("SELECT meld_match('a', 'b')").fetchall()
        con.sql("FROM meld.stats()").fetchall()
    lines = con.sql("SELECT statement, evaluations, cache_hits FROM meld.stats()").fetchall()
    assert lines == [(1, 1, 0), (2, 0, 1)]


def test_views_over_functions_do_not_break_other_functions(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.execute("CREATE VIEW v AS SELECT meld_match('a b', 'a b') AS same")
    assert con.cursor().sql("FROM v").fetchall() == [(True,)]


def test_explain_and_constant_folding_are_harmless(con: duckdb.DuckDBPyConnection) -> None:
    con.sql("EXPLAIN SELECT meld_match('a', 'b')").fetchall()
    assert con.sql("SELECT meld_match('a b', 'a b') WHERE meld_match('a b', 'a b')").fetchall() == [
        (True,)
    ]


def test_registering_a_cursor_without_settings_keeps_those_there_are(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    con = meld_duckdb.connect(workspace=tmp_path / "mine")
    meld_duckdb.register(con.cursor())
    con.sql("SELECT meld_match('a', 'b')").fetchall()
    assert (tmp_path / "mine" / "cache.sqlite").exists()


def test_an_open_transaction_is_neither_joined_nor_ended(backend: ScriptedBackend) -> None:
    con = duckdb.connect()
    con.execute("BEGIN")
    con.execute("CREATE TABLE t AS SELECT 1 AS a")
    meld_duckdb.register(con)
    con.execute("ROLLBACK")
    assert con.sql("SELECT meld.match('a b', 'a b')").fetchall() == [(True,)]
    assert con.sql("SELECT count(*) FROM duckdb_tables() WHERE table_name = 't'").fetchall() == [
        (0,)
    ]


def test_a_detached_catalogue_is_named() -> None:
    con = meld_duckdb.connect()
    con.execute("DETACH meld")
    with pytest.raises(meld_duckdb.MeldError, match=r"do not detach 'meld'"):
        meld_duckdb.register(con)


def test_a_result_that_is_not_read_to_its_end_is_left_alone(backend: ScriptedBackend) -> None:
    con = duckdb.connect()
    result = con.execute("FROM range(3)")
    first = result.fetchone()
    meld_duckdb.register(con)
    assert [first, *result.fetchall()] == [(0,), (1,), (2,)]


@pytest.mark.parametrize("name", ["catalogue.sqlite", "manifest.json"])
def test_a_damaged_workspace_file_is_named(
    backend: ScriptedBackend, tmp_path: Path, name: str
) -> None:
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / name).write_bytes(b"junk" * 1000)
    con = meld_duckdb.connect(workspace=workspace)
    with pytest.raises(duckdb.Error, match=rf"MELD-E03\d.*{name}.*Hint"):
        con.sql("SELECT meld_match('a', 'b')").fetchall()


def test_one_tier_reuses_what_the_other_choice_of_it_answered(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.sql("SELECT meld_match('a b', 'a c')").fetchall()
    con.sql("SELECT meld_match('a b', 'a c', {'tier': 't0'})").fetchall()
    con.sql(
        "SELECT meld_match('a b', 'a c', {'threshold': x}) FROM (VALUES (0.1), (0.9)) AS t(x)"
    ).fetchall()
    [(distinct, hits, evaluations)] = con.sql(
        "SELECT distinct_inputs, cache_hits, evaluations FROM meld.stats()"
    ).fetchall()
    assert (distinct, hits, evaluations) == (1, 0, 1)
