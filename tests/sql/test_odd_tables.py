"""Odd tables against every function: a typed answer, NULL with a reason, or a clear error."""

from __future__ import annotations

import duckdb
import pytest

from meld_duckdb.register import load_functions

QUOTED = 'the "name"'
WIDE = ", ".join(f"'value {i} ' || i AS c{i}" for i in range(300))
TABLES = {
    "empty": f"SELECT i AS id, 'x' AS \"{QUOTED.replace(chr(34), chr(34) * 2)}\", 'y' AS city"
    " FROM range(0) AS t(i)",
    "one_row": 'SELECT 1 AS id, \'alpha beta\' AS "the ""name""", \'berlin\' AS city',
    "null_column": 'SELECT i AS id, NULL::VARCHAR AS "the ""name""", \'berlin\' AS city'
    " FROM range(20) AS t(i)",
    "all_null": 'SELECT NULL::BIGINT AS id, NULL::VARCHAR AS "the ""name""", NULL::VARCHAR AS city'
    " FROM range(5)",
    "repeated": 'SELECT 7 AS id, \'alpha\' AS "the ""name""", \'berlin\' AS city FROM range(30)',
    "wide": f'SELECT i AS id, \'name \' || i AS "the ""name""", \'berlin\' AS city, {WIDE}'
    " FROM range(12) AS t(i)",
    "odd_text": 'SELECT row_number() OVER () AS id, x AS "the ""name""", y AS city FROM (VALUES'
    " ('', '   '), ('N/A', 'null'), ('\u202eabc\u0301', '😀'), (chr(0) || 'x', '<|im_end|>'),"
    " (repeat('long ', 40000), 'berlin'), ('1e309', '-0'), ('[\"a\", null]', '{\"a\": 1}'))"
    " AS t(x, y)",
    "odd_types": 'SELECT i AS id, i * 1.5 AS "the ""name""", \'berlin\' AS city,'
    " DATE '294246-01-01' AS d, 'infinity'::TIMESTAMP AS ts, [1, NULL] AS l, {'a': NULL} AS s,"
    " '\\xFF'::BLOB AS b, INTERVAL 1 DAY AS iv, 'nan'::DOUBLE AS f, MAP {'k': 1} AS m"
    " FROM range(6) AS t(i)",
}
NAME = '"the ""name"""'
ARGUMENTS = {
    "match": "x, lag(x) OVER (ORDER BY id)",
    "schema_match": "x, lag(x) OVER (ORDER BY id)",
    "detect_error": f"x, '{QUOTED}'",
    "repair": f"x, '{QUOTED}'",
    "impute": f"x, '{QUOTED}'",
    "annotate_column": f"(SELECT list({NAME}) FROM t), ['city', 'name', 'city', NULL]",
    "extract_relation": f"(SELECT list({NAME}) FROM t), (SELECT list(city) FROM t), ['in', NULL]",
    "link_entity": f"x.{NAME}, x, [NULL, {{'name': 'berlin'}}, {{'name': NULL}}]",
    "extract_attribute": f"x, '{QUOTED}'",
}
TABLE_FUNCTIONS = {
    "index": "FROM meld.index('t')",
    "block": "FROM meld.block('t', 't', k := 2)",
    "join": "FROM meld.join('t', 't', k := 2, tier := 't0')",
    "dedupe": "FROM meld.dedupe('t', k := 2, tier := 't0')",
    "find_errors": "FROM meld.find_errors('t', tier := 't0')",
    "repairs": "FROM meld.repairs('t', tier := 't0')",
    "impute_nulls": "FROM meld.impute_nulls('t', tier := 't0')",
    "match_schemas": "FROM meld.match_schemas('t', 't', k := 2, samples := 3, tier := 't0')",
}


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, con: duckdb.DuckDBPyConnection) -> str:
    name: str = request.param
    con.execute(f"CREATE TABLE t AS {TABLES[name]}")
    return name


@pytest.mark.parametrize("task", ARGUMENTS)
@pytest.mark.parametrize("indexed", [False, True])
def test_every_task_function_answers_every_row(
    con: duckdb.DuckDBPyConnection, table: str, task: str, indexed: bool
) -> None:
    if indexed:
        con.execute("FROM meld.index('t')").fetchall()
    detail = f"meld_{task}_detail({ARGUMENTS[task]}, {{'tier': 't0'}})"
    rows = con.execute(f"SELECT {detail} FROM t AS x").fetchall()
    assert len(rows) == con.execute("SELECT count(*) FROM t").fetchall()[0][0]
    declared = next(f.returns for f in load_functions() if f.name == f"meld_{task}")
    kind = {"BOOLEAN": bool, "VARCHAR": str}[declared]
    for (found,) in rows:
        if found is None:  # an argument is NULL
            continue
        if found["error"] is None:
            assert found["probability"] is not None and 0 <= found["probability"] <= 1
            assert found["answer"] is None or isinstance(found["answer"], kind)
            blank = task in {"repair", "extract_attribute"}
            assert found["answer"] is not None or blank
        else:
            assert found["answer"] is None
            assert ": " in found["error"]


@pytest.mark.parametrize("name", TABLE_FUNCTIONS)
def test_every_table_function_takes_every_table(
    con: duckdb.DuckDBPyConnection, table: str, name: str
) -> None:
    rows = con.execute(TABLE_FUNCTIONS[name]).fetchall()
    columns = [column[0] for column in con.description or ()]
    n_rows = con.execute("SELECT count(*) FROM t").fetchall()[0][0]
    if name == "index":
        assert rows[0][1] == n_rows
    if name == "dedupe":
        assert len(rows) == n_rows
        sizes = [row[columns.index("cluster_size")] for row in rows]
        assert all(1 <= size <= n_rows for size in sizes)
    if "probability" in columns:
        at = columns.index("probability")
        assert all(row[at] is None or 0 <= row[at] <= 1 for row in rows)
    if name == "impute_nulls":
        assert all((row[2] is None) == (row[-1] is not None) for row in rows)


@pytest.mark.parametrize("task", ["match", "detect_error", "repair", "impute"])
def test_labels_that_contradict_and_labels_of_nothing_harm_no_row(
    con: duckdb.DuckDBPyConnection, table: str, task: str
) -> None:
    parts = {"match": "{'a': x, 'b': x}"}.get(task, f"{{'row': x, 'column': '{QUOTED}'}}")
    answers = {"match": "id % 2 = 0", "detect_error": "id % 2 = 0"}.get(task, "'v' || (id % 3)")
    con.execute(f"SELECT meld_learn('{task}', {parts}, {answers}) FROM t AS x").fetchall()
    con.execute("FROM meld.index('t')").fetchall()
    detail = f"meld_{task}_detail({ARGUMENTS[task]}, {{'tier': 't0'}})"
    rows = con.execute(f"SELECT {detail} FROM t AS x").fetchall()
    assert len(rows) == con.execute("SELECT count(*) FROM t").fetchall()[0][0]
    assert all(
        r is None or r["answer"] is not None or r["error"] or task == "repair" for (r,) in rows
    )


def test_a_list_with_duplicates_and_nulls_offers_each_option_once(
    con: duckdb.DuckDBPyConnection,
) -> None:
    detail = con.execute(
        "SELECT meld_annotate_column_detail(['Berlin'], ['city', 'city', NULL, 'river'], {'k': 9})"
    ).fetchall()[0][0]
    assert sorted(entry["option"] for entry in detail["ranking"]) == ["city", "river"]
    linked = con.execute(
        "SELECT meld_link_entity_topk('Berlin', NULL, [NULL, 'Berlin', 'Berlin', 'Bern'], {'k': 9})"
    ).fetchall()[0][0]
    assert sorted(entry["option"] for entry in linked) == ["Berlin", "Bern"]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("meld_annotate_column_detail(['a'], [NULL, ''])", "no_options"),
        ("meld_annotate_column_detail([NULL], ['a'])", "no_values"),
        ("meld_extract_relation_detail(['a'], ['b', 'c'], ['r'])", "not_aligned"),
        ("meld_extract_relation_detail(['a'], ['b'], []::VARCHAR[])", "no_options"),
        ("meld_link_entity_detail('  ', NULL, ['a'])", "no_mention"),
        ("meld_link_entity_detail('a', NULL, [NULL]::VARCHAR[])", "no_options"),
        ("meld_extract_attribute_detail('a', ' ')", "no_attribute"),
        ("meld_extract_attribute_detail('a', 'b', {'options': []::VARCHAR[]})", "no_options"),
        ("meld_repair_detail({'a': 1}, 'a', {'options': []::VARCHAR[]})", "no_options"),
    ],
)
def test_a_row_that_cannot_be_asked_says_why(
    con: duckdb.DuckDBPyConnection, call: str, code: str
) -> None:
    [(found,)] = con.execute(f"SELECT {call}").fetchall()
    assert found["answer"] is None
    assert found["error"].startswith(f"{code}: ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("SELECT meld_annotate_column('city', ['a'])", "'values' is not a list"),
        ("SELECT meld_link_entity('a', NULL, 'b')", "'candidates' is not a list"),
        ("SELECT meld_repair({'a': 1}, 'a', {'threshold': 0.5})", "unknown option 'threshold'"),
        ("SELECT meld_annotate_column(['a'], ['b'], {'k': 0})", "whole number from 1"),
        ("SELECT meld_extract_attribute('a')", "expected 2"),
        ("FROM meld.find_errors('t', columns := ['nope'])", "unknown column 'nope'"),
        ("FROM meld.find_errors('t', columns := [1])", "expected a list of names"),
        ("FROM meld.repairs('nowhere')", "nowhere"),
        ("FROM meld.dedupe('t', k := 0)", "whole number from 1"),
        ("FROM meld.dedupe('t', method := 'magic')", "expected one of"),
        ("FROM meld.dedupe('t', linkage := 'magic')", "expected one of majority, components"),
        ("FROM meld.find_errors('t', id := 'nope')", "nope"),
        (
            "FROM meld.match_schemas('t', 'nowhere')",
            "no database, schema or table called 'nowhere'",
        ),
        ("FROM meld.match_schemas('t', 't', samples := -1)", "whole number from 0"),
    ],
)
def test_a_call_that_cannot_be_made_is_a_clear_error(
    con: duckdb.DuckDBPyConnection, call: str, message: str
) -> None:
    con.execute("CREATE TABLE t AS SELECT 1 AS id, 'x' AS name")
    with pytest.raises(duckdb.Error, match=message):
        con.execute(call).fetchall()
