"""What DuckDB does with Python UDFs: the facts the design builds on, measured on the version here."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def create(con: duckdb.DuckDBPyConnection, name: str, returns: str = "BIGINT") -> list[int]:
    """A varargs UDF that answers 1 and notes the number of rows of each call."""
    sizes: list[int] = []

    def call(*columns):  # type: ignore[no-untyped-def]
        sizes.append(len(columns[0]))
        return pa.array([1] * len(columns[0]), pa.int64())

    con.create_function(name, call, None, returns, type="arrow", null_handling="special")
    return sizes


def test_any_number_of_arguments_of_any_type(con: duckdb.DuckDBPyConnection) -> None:
    create(con, "f")
    con.execute("CREATE TABLE t AS SELECT 1 AS a, {'b': [1]} AS s, MAP {'k': 1} AS m, NULL AS n")
    assert con.sql("SELECT f(t), f(t, t, 'x'), f(m, n), f(NULL) FROM t").fetchall() == [
        (1, 1, 1, 1)
    ]


def test_a_table_alias_arrives_as_a_struct(con: duckdb.DuckDBPyConnection) -> None:
    seen: list[pa.DataType] = []

    def call(*columns):  # type: ignore[no-untyped-def]
        seen.append(columns[0].type)
        return pa.array([1] * len(columns[0]), pa.int64())

    con.create_function("f", call, None, "BIGINT", type="arrow", null_handling="special")
    con.sql("SELECT f(x) FROM (SELECT 1 AS id, 'a' AS name) AS x").fetchall()
    assert [field.name for field in seen[0]] == ["id", "name"]


def test_cursors_see_functions_and_macros_of_an_attached_catalogue(
    con: duckdb.DuckDBPyConnection,
) -> None:
    create(con, "f")
    con.execute("ATTACH ':memory:' AS meld (READ_WRITE)")
    con.execute("CREATE MACRO meld.g(a, k := 2) AS f(a) + k")
    assert con.cursor().sql("SELECT meld.g(5), meld.g(5, k := 7)").fetchall() == [(3, 8)]


def test_a_call_sees_at_most_2048_rows(con: duckdb.DuckDBPyConnection) -> None:
    sizes = create(con, "f")
    con.sql("SELECT sum(f(range)) FROM range(10000)").fetchall()
    assert max(sizes) <= 2048
    assert sum(sizes) == 10_000


def test_a_list_hands_a_whole_table_over_in_one_call(con: duckdb.DuckDBPyConnection) -> None:
    sizes = create(con, "f")
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(50000)")
    con.execute(
        "CREATE MACRO whole(t) AS TABLE SELECT f((SELECT list(x) FROM query_table(t) AS x)) AS n"
    )
    assert con.sql("FROM whole('t')").fetchall() == [(1,)]
    assert sizes == [1]


def test_a_function_can_only_be_removed_where_it_was_created(
    con: duckdb.DuckDBPyConnection,
) -> None:
    create(con, "f")
    with pytest.raises(duckdb.InvalidInputException):
        con.cursor().remove_function("f")


def test_macros_cannot_be_created_in_the_system_catalogue(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error):
        con.execute("CREATE MACRO system.main.g(a) AS a")


def test_read_only_and_locked_databases_still_take_a_memory_catalogue(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.duckdb"
    duckdb.connect(str(path)).close()
    con = duckdb.connect(str(path), read_only=True)
    con.execute("ATTACH ':memory:' AS meld (READ_WRITE)")
    con.execute("CREATE MACRO meld.g(a) AS a")
    locked = duckdb.connect(config={"enable_external_access": "false"})
    locked.execute("ATTACH ':memory:' AS meld (READ_WRITE)")
