"""Table functions over cells, clusters and schemas: what a user sees of a normal table."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from tests.sql.query import one


@pytest.fixture
def people(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE people AS
        SELECT i AS id, 'street ' || i AS street,
               CASE i % 3 WHEN 0 THEN '10115' WHEN 1 THEN '20095' ELSE '80331' END AS zip,
               CASE WHEN i = 4 THEN 'Hambxrg' WHEN i = 6 THEN NULL
                    WHEN i % 3 = 0 THEN 'Berlin' WHEN i % 3 = 1 THEN 'Hamburg' ELSE 'Munich'
               END AS city,
               CASE WHEN i = 9 THEN NULL ELSE (i % 3) * 100 END AS zone
        FROM range(60) AS t(i)
    """)
    return con


def test_the_misspelt_cell_is_found_and_repaired(people: duckdb.DuckDBPyConnection) -> None:
    [worst, *_] = people.sql(
        "FROM meld.find_errors('people', threshold := 0.0) WHERE value IS NOT NULL"
        " ORDER BY probability DESC"
    ).fetchall()
    assert worst[:3] == (4, "city", "Hambxrg")
    people.sql("FROM meld.index('people')").fetchall()
    detail = one(people, "SELECT meld_repair_detail(p, 'city', {'min_probability': 0.0})"
                         " FROM people AS p WHERE id = 4")  # fmt: skip
    assert (detail["answer"], detail["changed"]) == ("Hamburg", True)
    found = people.sql(
        'SELECT id, "column", "old", "new" FROM meld.repairs(\'people\', columns := [\'CITY\'],'
        " min_probability := 0.1)"
    ).fetchall()
    assert (4, "city", "Hambxrg", "Hamburg") in found
    assert all(old != new for _, _, old, new in found)


def test_a_value_that_is_right_is_kept_and_says_so(people: duckdb.DuckDBPyConnection) -> None:
    people.sql("FROM meld.index('people')").fetchall()
    detail = one(people, "SELECT meld_repair_detail(p, 'city') FROM people AS p WHERE id = 3")
    assert (detail["answer"], detail["changed"], detail["error"]) == ("Berlin", False, None)


def test_a_learned_blank_is_null_and_a_change(people: duckdb.DuckDBPyConnection) -> None:
    stored = people.sql(
        "SELECT meld_learn('repair', {'row': p, 'column': 'city'}, NULL) FROM people AS p WHERE id = 7"
    ).fetchall()
    assert stored == [(True,)]
    detail = one(people, "SELECT meld_repair_detail(p, 'city') FROM people AS p WHERE id = 7")
    assert (detail["answer"], detail["changed"], detail["error"]) == (None, True, None)


def test_missing_values_are_imputed_one_line_each(people: duckdb.DuckDBPyConnection) -> None:
    rows = people.sql(
        "SELECT id, \"column\", value, error FROM meld.impute_nulls('people', min_probability := 0.0)"
    ).fetchall()
    assert (6, "city", "Berlin", None) in rows
    assert (9, "zone", "0", None) in rows
    assert len(rows) == 2


def test_a_value_its_column_cannot_hold_is_null_with_a_reason(
    people: duckdb.DuckDBPyConnection,
) -> None:
    options = "{'options': ['north'], 'min_probability': 0.0}"
    detail = one(
        people, f"SELECT meld_impute_detail(p, 'zone', {options}) FROM people AS p WHERE id = 9"
    )
    assert detail["answer"] is None
    assert detail["error"].startswith("not_castable: 'north'")
    [(value, error)] = people.sql(
        "SELECT value, error FROM meld.impute_nulls('people', columns := ['zone'],"
        " options := ['north'], min_probability := 0.0)"
    ).fetchall()
    assert value is None and error.startswith("not_castable: 'north'")


def test_table_functions_take_views_and_other_id_columns(
    people: duckdb.DuckDBPyConnection,
) -> None:
    people.execute("CREATE VIEW \"my view\" AS SELECT 'k' || id AS k, zip, city FROM people")
    rows = people.sql(
        "SELECT id FROM meld.impute_nulls('my view', id := 'k', min_probability := 0.0)"
    ).fetchall()
    assert rows == [("k6",)]


def test_clusters_are_stable_and_named_by_their_least_id(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""CREATE TABLE cameras AS FROM (VALUES
        (9, 'canon powershot a95 digital camera', 'canon'),
        (2, 'Canon PowerShot A95 Digital Camera', 'canon'),
        (5, 'nikon coolpix s3100 camera', 'nikon'),
        (4, 'sony wh1000xm4 headphones', 'sony')) AS t(id, title, brand)""")
    wanted = "FROM meld.dedupe('{}', threshold := 0.5) ORDER BY id"
    found = con.sql(wanted.format("cameras")).fetchall()
    assert found == [(2, 2, 2), (4, 4, 1), (5, 5, 1), (9, 2, 2)]
    con.execute("CREATE TABLE turned AS FROM cameras ORDER BY id")
    assert con.sql(wanted.format("turned")).fetchall() == found


def test_schemas_of_two_attached_databases_are_matched(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute(f"ATTACH '{tmp_path / 'other.db'}' AS other")
    con.execute("CREATE TABLE person (person_id INTEGER, birth_date DATE, city VARCHAR)")
    con.execute("CREATE TABLE other.patients (pid INTEGER, birth_date DATE, city VARCHAR)")
    con.execute("INSERT INTO other.patients VALUES (1, '1999-01-01', 'Berlin')")
    best = con.sql(
        "SELECT l_column, r_table, r_column FROM meld.match_schemas('memory', 'other', samples := 2)"
        " WHERE rank = 1"
    ).fetchall()
    assert ("birth_date", "other.main.patients", "birth_date") in best
    assert ("city", "other.main.patients", "city") in best
    for name in ("other.main", "patients", "other.main.patients"):
        if name == "patients":
            con.execute("USE other")
        rows = con.sql(f"FROM meld.match_schemas('{name}', 'other', k := 1)").fetchall()
        assert len(rows) == 3


def test_only_the_catalogue_is_read_unless_samples_are_asked_for(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.execute("CREATE VIEW broken AS SELECT 1 AS a, error('read')::VARCHAR AS b")
    assert len(con.sql("FROM meld.match_schemas('broken', 'broken')").fetchall()) == 2
    with pytest.raises(duckdb.Error, match="the database cannot be read"):
        con.sql("FROM meld.match_schemas('broken', 'broken', samples := 1)").fetchall()


def test_more_pairs_than_allowed_are_refused_by_name(people: duckdb.DuckDBPyConnection) -> None:
    meld_duckdb.register(people, max_pairs=100)
    for call in ("FROM meld.join('people', 'people')", "FROM meld.dedupe('people')"):
        with pytest.raises(duckdb.Error, match=r"max_pairs = 100.*block"):
            people.sql(call).fetchall()
    meld_duckdb.register(people, max_pairs=1)
    with pytest.raises(duckdb.Error, match=r"20 x max_pairs = 20.*block"):
        people.sql("FROM meld.block('people', 'people')").fetchall()
    meld_duckdb.register(people, max_pairs=10)
    with pytest.raises(duckdb.Error, match=r"max_pairs = 10.*block"):
        people.sql("FROM meld.match_schemas('people', 'people')").fetchall()


def test_what_is_labelled_is_not_asked_for_again(people: duckdb.DuckDBPyConnection) -> None:
    first = people.sql("SELECT l_id FROM meld.label_next('repair', 'people', n := 4)").fetchall()
    assert (
        len(first) == 4
        and (4,)
        in people.sql("SELECT l_id FROM meld.label_next('repair', 'people', n := 60)").fetchall()
    )
    chosen = ", ".join(str(i) for (i,) in first)
    people.sql(
        f"SELECT meld_learn('repair', {{'row': p}}, {{'city': p.city}}) FROM people AS p"
        f" WHERE id IN ({chosen})"
    ).fetchall()
    later = people.sql("SELECT l_id FROM meld.label_next('repair', 'people', n := 60)").fetchall()
    assert len(later) == 56 and not set(first) & set(later)


def test_tables_without_a_column_id_name_theirs(people: duckdb.DuckDBPyConnection) -> None:
    people.execute("CREATE VIEW keyed AS SELECT 'k' || id AS k, zip, city FROM people")
    for task in ("repair", "match"):
        found = people.sql(
            f"SELECT l_id FROM meld.label_next('{task}', 'keyed', n := 3, l_id := 'k')"
        ).fetchall()
        assert len(found) == 3 and all(k.startswith("k") for (k,) in found)


def test_labelled_rows_teach_a_format_that_the_diff_then_shows(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.execute("""CREATE TABLE drinks AS
        SELECT i AS id, 'drink ' || i AS name,
               (i % 5 + 10) || CASE WHEN i % 3 = 0 THEN '' ELSE '.0 oz' END AS size
        FROM range(60) AS t(i)""")
    con.sql("""SELECT meld_learn('repair', {'row': d}, {'name': d.name, 'size': (d.id % 5 + 10)::VARCHAR})
        FROM drinks AS d WHERE id < 12""").fetchall()
    diff = con.sql(
        'SELECT id, "column", "old", "new" FROM meld.repairs(\'drinks\') WHERE id >= 12'
    ).fetchall()
    assert sorted(diff) == [
        (i, "size", f"{i % 5 + 10}.0 oz", str(i % 5 + 10)) for i in range(12, 60) if i % 3
    ]
    wrong = con.sql("SELECT id FROM meld.find_errors('drinks') WHERE id >= 12").fetchall()
    assert sorted(i for (i,) in wrong) == [i for i in range(12, 60) if i % 3]


def test_mentions_of_none_of_their_candidates_teach_to_link_to_none(
    con: duckdb.DuckDBPyConnection,
) -> None:
    ask = "SELECT meld_link_entity_detail('place 77', NULL, ['place 77 river']).answer"
    assert con.sql(ask).fetchall() == [("place 77 river",)]
    taught = con.sql("""SELECT meld_learn('link_entity',
        {'mention': 'place ' || i, 'candidates': ['place ' || i || ' river']}, NULL::VARCHAR)
        FROM range(40) AS t(i)""").fetchall()
    assert taught == [(True,)] * 40
    assert con.sql(ask).fetchall() == [(None,)]


def test_pairs_and_cells_to_label(people: duckdb.DuckDBPyConnection) -> None:
    pairs = people.sql("FROM meld.label_next('match', 'people', n := 5)").fetchall()
    assert len(pairs) == 5
    assert all(a != b and 0 <= p <= 1 for a, b, _, p in pairs)
    cells = people.sql("FROM meld.label_next('impute', 'people')").fetchall()
    assert {(i, column) for i, _, column, _ in cells} == {(6, "city"), (9, "zone")}
    with pytest.raises(duckdb.Error, match="did you mean 'match'"):
        people.sql("FROM meld.label_next('mach', 'people')").fetchall()


def test_statistics_count_table_functions(people: duckdb.DuckDBPyConnection) -> None:
    for _ in range(2):
        people.sql("FROM meld.find_errors('people')").fetchall()
        people.sql("FROM meld.stats()").fetchall()
    lines = people.sql(
        'SELECT "function", rows, evaluations, cache_hits FROM meld.stats()'
    ).fetchall()
    assert lines[0][:2] == ("meld.find_errors", 240) and lines[0][2] > 0
    assert lines[1] == ("meld.find_errors", 240, 0, lines[0][2])
