from __future__ import annotations

import duckdb
import numpy as np
import pytest

from meld_duckdb.features.trees import TreeEnsemble
from tests.scripted import ScriptedBackend
from tests.sql.query import one

ROW = "{'name': 'Arnie Mortons', 'phone': '310-246-1501', 'city': NULL::VARCHAR}"


@pytest.fixture
def cities(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE places AS
        SELECT i AS id, 'place ' || i AS name,
               CASE i % 2 WHEN 0 THEN '310-246-' ELSE '212-555-' END || (1000 + i) AS phone,
               CASE WHEN i < 4 THEN NULL WHEN i % 2 = 0 THEN 'los angeles' ELSE 'new york' END AS city
        FROM range(60) AS t(i)
    """)
    con.sql("FROM meld.index('places')").fetchall()
    return con


def test_a_missing_value_comes_from_similar_rows(cities: duckdb.DuckDBPyConnection) -> None:
    found = cities.sql(
        "SELECT id, meld_impute(p, 'city') FROM places AS p WHERE city IS NULL ORDER BY id"
    ).fetchall()
    assert found == [(0, "los angeles"), (1, "new york"), (2, "los angeles"), (3, "new york")]


def test_a_new_row_of_the_same_columns_uses_the_table(cities: duckdb.DuckDBPyConnection) -> None:
    row = "{'id': 99, 'name': 'new', 'phone': '212-555-7777', 'city': NULL::VARCHAR}"
    detail = one(cities, f"SELECT meld_impute_detail({row}, 'city')")
    assert detail["answer"] == "new york"
    assert detail["probability"] > 0.5
    assert detail["error"] is None


def test_cells_that_are_answered_together_pass_the_trees_together(
    cities: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = TreeEnsemble.predict

    def counting(model: TreeEnsemble, rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return predict(model, rows)

    monkeypatch.setattr(TreeEnsemble, "predict", counting)
    rows = cities.sql("SELECT meld_impute_detail(p, 'city') FROM places AS p").fetchall()
    assert len(sizes) == 1
    assert sizes[0] > len(rows)
    alone = cities.sql(
        "SELECT meld_impute_detail(p, 'city', {'min_probability': 0.01}) FROM places AS p LIMIT 1"
    ).fetchall()
    assert alone[0][0]["probability"] == rows[0][0]["probability"]


def test_options_restrict_the_answer(cities: duckdb.DuckDBPyConnection) -> None:
    options = "{'options': ['boston', 'new york'], 'min_probability': 0.0}"
    found = cities.sql(
        f"SELECT DISTINCT meld_impute(p, 'city', {options}) FROM places AS p"
    ).fetchall()
    assert {value for (value,) in found} <= {"boston", "new york"}


def test_nothing_to_go_by_is_null_with_a_reason(con: duckdb.DuckDBPyConnection) -> None:
    detail = one(con, f"SELECT meld_impute_detail({ROW}, 'city', {{'tier': 't0'}})")
    assert detail["answer"] is None
    assert detail["error"].startswith("no_candidate:")
    assert "FROM meld.index" in detail["error"]


def test_an_unknown_column_names_the_columns_there_are(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match=r"unknown column 'nope'.*name, phone, city"):
        con.sql(f"SELECT meld_impute({ROW}, 'nope')").fetchall()
    with pytest.raises(duckdb.Error, match="did you mean 'phone'"):
        con.sql(f"SELECT meld_impute({ROW}, 'fone')").fetchall()


def test_an_unknown_column_of_a_json_row_is_a_row_error(con: duckdb.DuckDBPyConnection) -> None:
    detail = one(con, """SELECT meld_impute_detail('{"a": 1}', 'b')""")
    assert detail["error"].startswith("unknown_column:")


def test_column_names_ignore_case(cities: duckdb.DuckDBPyConnection) -> None:
    assert cities.sql("SELECT meld_impute(p, 'CITY') FROM places AS p WHERE id = 0").fetchall() == [
        ("los angeles",)
    ]


def test_null_in_null_out(con: duckdb.DuckDBPyConnection) -> None:
    assert con.sql(f"SELECT meld_impute(NULL, 'city'), meld_impute({ROW}, NULL)").fetchall() == [
        (None, None)
    ]


def test_the_language_model_generates_or_chooses(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    assert con.sql(f"SELECT meld_impute({ROW}, 'city', {{'tier': 't2'}})").fetchall() == [
        ("value",)
    ]
    options = "{'tier': 't2', 'options': ['boston', 'new york']}"
    assert con.sql(f"SELECT meld_impute({ROW}, 'city', {options})").fetchall() == [("boston",)]
    assert [p.choices for p in backend.asked] == [(), ("A", "B")]


def test_a_low_probability_is_null_with_a_reason(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    options = "{'tier': 't2', 'min_probability': 0.95}"
    detail = one(con, f"SELECT meld_impute_detail({ROW}, 'city', {options})")
    assert detail["answer"] is None
    assert detail["error"] == "low_confidence: best value has probability 0.80, 0.95 wanted"


def test_a_learned_value_is_the_answer_and_a_candidate(con: duckdb.DuckDBPyConnection) -> None:
    con.sql(
        f"SELECT meld_learn('impute', {{'row': {ROW}, 'column': 'city'}}, 'los angeles')"
    ).fetchall()
    assert con.sql(f"SELECT meld_impute({ROW}, 'city')").fetchall() == [("los angeles",)]
    near = ROW.replace("1501", "1502")
    detail = one(
        con, f"SELECT meld_impute_detail({near}, 'city', {{'min_probability': 0.0, 'tier': 't0'}})"
    )
    assert any("los angeles" in (detail["answer"] or "", e["text"]) for e in detail["evidence"])


def test_options_are_compared_as_the_rows_are_written(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT i AS id, 'n' || i AS n, i % 2 AS even, i % 2 = 0 AS flag FROM range(40) t(i)"
    )
    con.sql("FROM meld.index('t', embed := false)").fetchall()
    row = "{'id': 99, 'n': 'new', 'even': 1, 'flag': NULL::BOOLEAN}"
    options = "{'options': [true, false], 'min_probability': 0.0}"
    assert one(con, f"SELECT meld_impute({row}, 'flag', {options})") == "false"


def test_a_row_that_holds_its_value_does_not_answer_for_itself(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT i AS id, 'place ' || i AS name, hash(i) % 100000 AS code FROM range(100) t(i)"
    )
    con.sql("FROM meld.index('t', embed := false)").fetchall()
    options = "{'min_probability': 0.0}"
    for row in ("t", "{'name': t.name, 'code': t.code}"):
        sql = f"SELECT count(*) FROM t WHERE meld_impute({row}, 'code', {options}) = code::VARCHAR"
        assert one(con, sql) == 0


def test_of_more_options_than_letters_the_model_sees_those_that_tier_0_ranks_best(
    con: duckdb.DuckDBPyConnection,
) -> None:
    options = "list_transform(range(40), lambda x: 'opt' || x)"
    call = f"meld_impute_detail({{'t': 'take opt35', 'c': NULL}}, 'c', {{'options': {options}, 'tier': "
    chosen = one(con, f"SELECT {call}'t2', 'min_probability': 0.0}})")
    assert chosen["error"] is None and chosen["tier"] == 2 and chosen["answer"].startswith("opt")
    assert one(con, f"SELECT {call}'t0', 'min_probability': 0.0}})")["answer"] == "opt35"
