from __future__ import annotations

import duckdb
import pytest

from tests.sql.query import one


@pytest.fixture
def shops(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE shops AS
        SELECT i AS id, 10000 + (i % 5) AS zip,
               CASE WHEN i = 7 THEN 'bostxn'
                    ELSE ['boston', 'new york', 'chicago', 'dallas', 'denver'][1 + i % 5] END AS city
        FROM range(200) AS t(i)
    """)
    con.sql("FROM meld.index('shops')").fetchall()
    return con


def test_a_typing_error_stands_out_from_its_table(shops: duckdb.DuckDBPyConnection) -> None:
    ranked = shops.sql(
        "SELECT id, meld_detect_error_prob(s, 'city') AS p FROM shops AS s ORDER BY p DESC LIMIT 2"
    ).fetchall()
    assert ranked[0][0] == 7
    assert ranked[0][1] > 0.5 > ranked[1][1]
    assert shops.sql("SELECT id FROM shops AS s WHERE meld_detect_error(s, 'city')").fetchall() == [
        (7,)
    ]


def test_detail_names_the_reasons(shops: duckdb.DuckDBPyConnection) -> None:
    detail = one(shops, "SELECT meld.detect_error_detail(s, 'city') FROM shops AS s WHERE id = 7")
    assert detail["answer"] is True and detail["tier"] == 0
    assert detail["evidence"][0]["kind"] == "feature"


def test_unknown_columns_and_nulls(con: duckdb.DuckDBPyConnection) -> None:
    row = "{'a': 'x', 'b': NULL}"
    with pytest.raises(duckdb.Error, match=r"unknown column 'c'.*known: a, b"):
        con.sql(f"SELECT meld_detect_error({row}, 'c')").fetchall()
    assert con.sql(
        f"SELECT meld_detect_error(NULL, 'a'), meld_detect_error({row}, NULL)"
    ).fetchall() == [(None, None)]
    p = one(con, f"SELECT meld_detect_error_prob({row}, 'b')")
    assert 0.0 <= p <= 1.0
