"""Labels that contradict the shipped model change the answers to other, similar pairs."""

from __future__ import annotations

import duckdb
import pytest

N = 24


@pytest.fixture
def shop(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Products that differ in their colour only, and others; colours do not matter to this user."""
    con.execute(
        f"""CREATE TABLE l AS SELECT i AS id, 'chair model ' || (1000 + 37 * i) || ' red' AS name
            FROM range({2 * N}) AS t(i)"""
    )
    con.execute("CREATE TABLE r AS SELECT id, replace(name, 'red', 'blue') AS name FROM l")
    return con


def probabilities(con: duckdb.DuckDBPyConnection) -> list[float]:
    rows = con.sql(
        f"SELECT meld_match_prob(l, r, {{'tier': 't0'}}) FROM l JOIN r USING (id) WHERE id >= {N}"
        " ORDER BY id"
    ).fetchall()
    return [p for (p,) in rows]


def teach(con: duckdb.DuckDBPyConnection, same: str) -> None:
    con.sql(
        f"""SELECT meld_learn('match', {{'a': l, 'b': r}}, {same})
            FROM l JOIN r ON r.id IN (l.id, l.id + 1) WHERE l.id < {N} AND r.id < {N}"""
    ).fetchall()


@pytest.mark.parametrize("indexed", [False, True])
def test_labels_turn_the_answers_to_other_pairs(
    shop: duckdb.DuckDBPyConnection, indexed: bool
) -> None:
    if indexed:
        shop.sql("FROM meld.index('l', embed := false)").fetchall()
        shop.sql("FROM meld.index('r', embed := false)").fetchall()
    before = probabilities(shop)
    teach(shop, "l.id <> r.id")  # the same number is another product here, the next one the same
    against = probabilities(shop)
    assert max(against) < min(before)
    said = shop.sql(
        f"SELECT DISTINCT meld_match(l, r, {{'tier': 't0'}}) FROM l JOIN r USING (id)"
        f" WHERE id >= {N}"
    ).fetchall()
    assert said == [(False,)]
    teach(shop, "l.id = r.id")
    assert min(probabilities(shop)) > max(against)


def test_few_labels_change_nothing_else(shop: duckdb.DuckDBPyConnection) -> None:
    before = probabilities(shop)
    shop.sql(
        "SELECT meld_learn('match', {'a': l, 'b': r}, false) FROM l JOIN r USING (id) WHERE id < 9"
    ).fetchall()
    assert probabilities(shop) == before


def test_labels_of_other_tables_change_nothing(shop: duckdb.DuckDBPyConnection) -> None:
    before = probabilities(shop)
    shop.sql(
        """SELECT meld_learn('match', {'a': {'title': l.name}, 'b': {'title': r.name}},
                             l.id <> r.id)
           FROM l JOIN r ON r.id IN (l.id, l.id + 1)"""
    ).fetchall()
    assert probabilities(shop) == before


def test_a_fitted_answer_says_why(shop: duckdb.DuckDBPyConnection) -> None:
    teach(shop, "l.id = r.id")
    [(detail,)] = shop.sql(
        f"SELECT meld_match_detail(l, r, {{'tier': 't0'}}) FROM l JOIN r USING (id) WHERE id = {N}"
    ).fetchall()
    assert detail["answer"] is True
    assert len([e for e in detail["evidence"] if e["kind"] == "feature"]) == 3


def test_labelled_columns_speak_for_other_columns(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        """CREATE TABLE s AS SELECT 'a' || (i // 6) AS "table", 'c' || i AS "column",
             'kind ' || i AS description FROM range(18) AS t(i)"""
    )
    con.execute(
        """CREATE TABLE t AS SELECT 'b' || (i // 6) AS "table", 'd' || i AS "column",
             'sort ' || i AS description FROM range(18) AS t(i)"""
    )
    for name in ("s", "t"):
        con.sql(f"FROM meld.index('{name}', embed := false)").fetchall()
    con.sql(
        """SELECT meld_learn('schema_match', {'a': s, 'b': t}, right(s."table", 1) = '0'
                  AND right(t."table", 1) = '0') FROM s, t WHERE t."column" NOT IN ('d2', 'd8')"""
    ).fetchall()
    rows = con.sql(
        """SELECT t."column", s."table", meld_schema_match(s, t, {'tier': 't0'}) FROM s, t
           WHERE t."column" IN ('d2', 'd8')"""
    ).fetchall()
    assert {(c, table): said for c, table, said in rows} == {
        (c, table): (c, table) == ("d2", "a0") for c in ("d2", "d8") for table in ("a0", "a1", "a2")
    }


def test_dedupe_cuts_where_the_fitted_model_cuts(shop: duckdb.DuckDBPyConnection) -> None:
    shop.execute(
        """CREATE TABLE pool AS SELECT id, name FROM l
           UNION ALL SELECT id + 100, name FROM r"""
    )
    pairs = f"""SELECT count(*) FROM meld.dedupe('pool') AS x JOIN meld.dedupe('pool') AS y
                USING (cluster_id) WHERE y.id = x.id + 100 AND x.id >= {N}"""
    assert shop.sql(pairs).fetchall() == [(N,)]
    shop.sql(
        f"""SELECT meld_learn('match', {{'a': a, 'b': b}}, abs(a.id - b.id) <> 100)
            FROM pool AS a JOIN pool AS b ON b.id > a.id AND b.id - a.id IN (1, 100, 101)
            WHERE a.id % 100 < {N} AND b.id % 100 < {N}"""
    ).fetchall()
    assert shop.sql(pairs).fetchall() == [(0,)]
