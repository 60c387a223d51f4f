"""``FROM meld.match_schemas(method := 'kcmf')``: what is asked, shown, described and assigned."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from meld_duckdb.handlers.schemas import _lines
from meld_duckdb.tasks.base import Answer
from tests.scripted import ScriptedBackend


def test_match_schemas_asks_about_the_nearest_columns_only(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    for side in ("l", "r"):
        columns = ", ".join(f"{name} VARCHAR" for name in ("city", "zip", "name", "phone", "price"))
        con.execute(f"CREATE TABLE {side} ({columns})")
    found = con.sql(
        "SELECT l_column, r_column, tier, matches FROM meld.match_schemas('l', 'r', k := 5,"
        " method := 'kcmf', candidates := 1, tier := 't2', sources := ['none'])"
    ).fetchall()
    assert len(found) == 25
    assert {(a, b) for a, b, tier, _ in found if tier == 2} == {
        (name, name) for name in ("city", "zip", "name", "phone", "price")
    }
    assert len(backend.asked) == 5


def test_columns_are_matched_one_to_one(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.execute("CREATE TABLE l (city VARCHAR, town VARCHAR); CREATE TABLE r (city VARCHAR)")
    asked = "'l', 'r', method := 'kcmf', tier := 't2', sources := ['none']"
    many = con.sql(f"SELECT count(*) FROM meld.match_schemas({asked}) WHERE matches").fetchall()
    single = con.sql(
        f"SELECT count(*) FROM meld.match_schemas({asked}, assignment := 'one_to_one') WHERE matches"
    ).fetchall()
    assert (many, single) == ([(2,)], [(1,)])


def test_an_assigned_partner_is_listed_however_likely_others_are() -> None:
    sides = [
        [{"qualified": name, "column": c} for c in columns]
        for name, columns in (("l", "ab"), ("r", "cd"))
    ]
    answers = [Answer("match", p) for p in (0.9, 0.8, 0.95)] + [Answer("mismatch", 0.1)]
    for k in (1, 5):
        lines = _lines(sides, answers, k, "one_to_one")
        assert {(x["l_column"], x["r_column"]) for x in lines if x["matches"]} == {
            ("a", "d"),
            ("b", "c"),
        }


def test_descriptions_of_the_user_are_read(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.execute("CREATE TABLE l (c1 VARCHAR); CREATE TABLE r (c2 VARCHAR)")
    con.execute(
        "CREATE TABLE said AS FROM (VALUES ('l', 'c1', 'date of birth'), ('r', NULL, 'people'))"
        " AS t(table_name, column_name, description)"
    )
    asked = "'l', 'r', method := 'kcmf', tier := 't2', sources := ['none'], descriptions := 'said'"
    con.sql(f"FROM meld.match_schemas({asked})").fetchall()
    [prompt] = backend.asked
    assert "date of birth" in prompt.question
    assert "people" in prompt.question
    for row, message in (
        ("('l', 'c9', 'x')", r"l\.c9.* neither schema has"),
        ("('main.l', 'C1', 'x')", "twice"),
    ):
        con.execute(f"CREATE OR REPLACE TABLE more AS (FROM said UNION ALL VALUES {row})")
        with pytest.raises(duckdb.Error, match=message):
            con.sql(f"FROM meld.match_schemas({asked.replace('said', 'more')})").fetchall()
    with pytest.raises(duckdb.Error, match="expected one of"):
        con.sql("FROM meld.match_schemas('l', 'r', assignment := 'one')").fetchall()


def test_attached_databases_are_matched_and_described_apart(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, tmp_path: Path
) -> None:
    for name in ("db_a", "db_b"):
        con.execute(f"ATTACH '{tmp_path / name}.duckdb' AS {name}")
        con.execute(f"CREATE TABLE {name}.person (c_{name} VARCHAR)")
    con.execute("CREATE TABLE said (table_name VARCHAR, column_name VARCHAR, description VARCHAR)")
    con.execute("INSERT INTO said VALUES ('db_a.main.person', NULL, 'who is ill')")
    asked = (
        "'db_a.main', 'db_b.main', method := 'kcmf', tier := 't2', sources := ['none'],"
        " descriptions := 'said'"
    )
    [row] = con.sql(f"SELECT l_table, r_table, matches FROM meld.match_schemas({asked})").fetchall()
    assert row == ("db_a.main.person", "db_b.main.person", True)
    question = backend.asked[0].question
    assert question.index("who is ill") < question.index("c_db_b")
    assert question.count("who is ill") == 1
    con.execute("INSERT INTO said VALUES ('person', NULL, 'ambiguous')")
    with pytest.raises(duckdb.Error, match=r"is in db_a\.main\.person, db_b\.main\.person"):
        con.sql(f"FROM meld.match_schemas({asked})").fetchall()


def test_only_metadata_is_shown_unless_samples_are_asked_for(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.execute("CREATE TABLE l AS SELECT 'secret' AS a; CREATE TABLE r AS SELECT 'secret' AS a")
    asked = "'l', 'r', method := 'kcmf', tier := 't2', sources := ['none']"
    con.sql(f"FROM meld.match_schemas({asked})").fetchall()
    assert "secret" not in json.dumps([p.question for p in backend.asked])
    con.sql(f"FROM meld.match_schemas({asked}, samples := 2)").fetchall()
    assert "secret" in backend.asked[-1].question
