from __future__ import annotations

import duckdb

from tests.sql.query import one

DOB = "{'table': 'person', 'column': 'birth_datetime', 'description': 'date and time of birth'}"
BIRTH = "{'table': 'patients', 'column': 'birth_date', 'description': 'the date of birth of the patient'}"
PRICE = "{'table': 'orders', 'column': 'unit_price', 'description': 'price of one item in dollars'}"


def test_the_better_match_has_the_higher_probability(con: duckdb.DuckDBPyConnection) -> None:
    near, far, swapped = one(
        con,
        f"SELECT meld_schema_match_prob({DOB}, {BIRTH}), meld_schema_match_prob({DOB}, {PRICE}),"
        f" meld_schema_match_prob({BIRTH}, {DOB})",
    )
    assert near > far
    assert near == swapped


def test_a_bare_text_is_a_column_name(con: duckdb.DuckDBPyConnection) -> None:
    same, other = one(
        con,
        "SELECT meld_schema_match_prob('customer_name', 'customerName'),"
        " meld_schema_match_prob('customer_name', 'price')",
    )
    assert same > other


def test_null_in_null_out(con: duckdb.DuckDBPyConnection) -> None:
    assert con.sql(f"SELECT meld_schema_match(NULL, {DOB})").fetchall() == [(None,)]
