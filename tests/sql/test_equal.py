"""The option ``equal`` of the table functions that compare rows."""

from __future__ import annotations

import duckdb
import pytest

import meld_duckdb
from tests.sql.query import one

ALL = "threshold := 0.0, k := 50, tier := 't0'"


@pytest.fixture
def shops(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE shop AS SELECT range AS id, 'phone model ' || range % 9 AS title,
                CASE WHEN range % 7 = 0 THEN NULL ELSE 'brand ' || range % 5 END AS brand,
                2010 + range % 3 AS year
            FROM range(40);
        CREATE TABLE offers AS SELECT 'o' || id AS sku, title || ' new' AS title, brand AS maker,
                year::VARCHAR AS since FROM shop;
    """)
    return con


def test_a_join_with_equal_values_is_the_join_filtered_afterwards(
    shops: duckdb.DuckDBPyConnection,
) -> None:
    found = shops.sql(f"""SELECT * FROM meld.join('shop', 'offers', r_id := 'sku', {ALL},
        equal := ['brand = maker', 'year = since']) ORDER BY ALL""").fetchall()
    filtered = shops.sql(f"""SELECT j.* FROM meld.join('shop', 'offers', r_id := 'sku', {ALL}) AS j
        JOIN shop ON shop.id = l_id JOIN offers ON sku = r_id
        WHERE brand = maker AND year = since ORDER BY ALL""").fetchall()
    assert len(found) == len(filtered) > 40
    for one_row, other in zip(found, filtered, strict=True):
        assert one_row == pytest.approx(other)


def test_far_fewer_pairs_are_judged(shops: duckdb.DuckDBPyConnection) -> None:
    counts = []
    for equal in ("NULL", "['brand = maker', 'year = since']"):
        shops.sql(f"""FROM meld.join('shop', 'offers', r_id := 'sku', {ALL}, equal := {equal})
            """).fetchall()
        [(rows,)] = shops.sql(
            "SELECT rows FROM meld.stats() WHERE function = 'meld.join' ORDER BY statement DESC LIMIT 1"
        ).fetchall()
        counts.append(rows)
    whole, grouped = counts
    in_groups = one(
        shops, "SELECT count(*) FROM shop, offers WHERE brand = maker AND year::VARCHAR = since"
    )
    assert whole > 1000 and grouped == in_groups < whole / 10


def test_block_compares_rows_with_equal_values_only(shops: duckdb.DuckDBPyConnection) -> None:
    for method in ("ranked", "lexical", "dense", "hybrid"):
        [(wrong, n, most)] = shops.sql(f"""SELECT count(*) FILTER (a.brand IS DISTINCT FROM b.brand
                OR a.brand IS NULL OR a.id = b.id), count(*), max(rank)
            FROM meld.block('shop', 'shop', k := 3, method := '{method}', equal := 'brand')
            JOIN shop AS a ON a.id = l_id JOIN shop AS b ON b.id = r_id""").fetchall()
        assert (wrong, most) == (0, 3) and n > 60


def test_case_counts_and_null_is_equal_to_nothing(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""CREATE TABLE t AS FROM (VALUES (1, 'red apple', 'Sony'), (2, 'red apple', 'sony'),
        (3, 'red apple', NULL), (4, 'red apple', NULL), (5, 'red apple', 'Sony')) AS t(id, name, brand)""")
    joined = con.sql("SELECT l_id, r_id FROM meld.block('t', 't', equal := ['BRAND']) ORDER BY ALL")
    assert joined.fetchall() == [(1, 5), (5, 1)]
    clusters = con.sql("FROM meld.dedupe('t', equal := ['brand']) ORDER BY id").fetchall()
    assert clusters == [(1, 1, 2), (2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 1, 2)]
    # A key is no content: copies that differ in it alone are one, unless it has to be equal.
    con.execute("CREATE TABLE k AS SELECT id, name, id % 2 AS shop_id FROM t")
    one_cluster = con.sql("SELECT DISTINCT cluster_id FROM meld.dedupe('k')").fetchall()
    assert one_cluster == [(1,)]
    by_shop = con.sql("FROM meld.dedupe('k', equal := ['shop_id']) ORDER BY id").fetchall()
    assert by_shop == [(1, 1, 3), (2, 2, 2), (3, 1, 3), (4, 2, 2), (5, 1, 3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("join('shop', 'offers', r_id := 'sku', equal := ['band'])", "'band' in the left table.*brand"),
        ("join('shop', 'offers', r_id := 'sku', equal := ['brand'])", "'brand' in the right table"),
        ("block('shop', 'shop', equal := ['brand = '])", "expected the name of a column"),
        ("block('shop', 'shop', equal := 7)", "expected a list of names.*equal :="),
        ("dedupe('shop', equal := ['brand = title'])", "all rows are of one table"),
        ("dedupe('shop', equal := ['band'])", "unknown column 'band'"),
    ],
)  # fmt: skip
def test_what_cannot_be_equal_is_said(
    shops: duckdb.DuckDBPyConnection, call: str, message: str
) -> None:
    with pytest.raises(duckdb.Error, match=message):
        shops.sql(f"FROM meld.{call}").fetchall()


def test_empty_tables_and_tables_of_nulls_give_no_pairs(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""CREATE TABLE t AS SELECT range AS id, 'x' AS name, NULL::VARCHAR AS brand
            FROM range(3); CREATE TABLE e AS FROM t LIMIT 0""")
    for left, right in (("t", "t"), ("e", "t"), ("t", "e"), ("e", "e")):
        for function in ("block", "join"):
            call = f"FROM meld.{function}('{left}', '{right}', equal := ['brand'])"
            assert con.sql(call).fetchall() == []
    assert len(con.sql("FROM meld.dedupe('t', equal := ['brand'])").fetchall()) == 3


def test_relations_take_it_too(shops: duckdb.DuckDBPyConnection) -> None:
    shop = shops.table("shop")
    whole = meld_duckdb.join(shop, shop, threshold=0.0, tier="t0")
    some = meld_duckdb.join(shop, shop, threshold=0.0, tier="t0", equal="brand")
    assert 0 < len(some.fetchall()) < len(whole.fetchall())
    assert len(meld_duckdb.block(shop, shop, equal=["brand", "year"]).fetchall()) > 0
    assert len(meld_duckdb.dedupe(shop, equal=["id"]).fetchall()) == 40


def test_labels_for_a_certificate_are_asked_of_equal_pairs(
    shops: duckdb.DuckDBPyConnection,
) -> None:
    shops.execute("CREATE TABLE known AS SELECT 1 AS l_id, 2 AS r_id, true AS answer")

    def asked(equal: str) -> tuple[int, int]:
        return one(
            shops,
            f"""SELECT count(*), count(*) FILTER (a.brand IS NOT DISTINCT FROM b.brand)
            FROM (SELECT unnest(to_label, recursive := true) FROM meld.certify('match', 'shop',
                accuracy := 0.9, labels := 'known', equal := {equal})) AS w
            JOIN shop AS a ON a.id = w.l_id JOIN shop AS b ON b.id = w.r_id""",
        )

    n_all, n_equal = asked("NULL")
    assert n_all > n_equal
    n_all, n_equal = asked("['brand']")
    assert n_all == n_equal > 0
