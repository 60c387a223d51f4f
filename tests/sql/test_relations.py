"""The table functions for Python: what goes in, what comes out, where it runs."""

from __future__ import annotations

import datetime as dt
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import meld_duckdb as meld
from meld_duckdb.handlers import schemas
from meld_duckdb.relations import scans
from tests.scripted import ScriptedBackend

TITLES = ["canon selphy cp800 photo printer", "Canon Selphy CP800 photo printer", "sony wh1000xm4"]
SHOP = pa.table({"id": [1, 2, 3], "title": TITLES, "brand": ["canon", None, "sony"]})
OFFERS = pa.table(
    {"id": ["x", "y"], "name": ["sony wh1000xm4 headphones", "canon selphy cp800 photo printer"]}
)
FRAMES: dict[str, Callable[[pa.Table], Any]] = {
    "pandas": lambda t: t.to_pandas(),
    "polars": pl.from_arrow,
    "lazy": lambda t: pl.LazyFrame(pl.from_arrow(t)),
    "arrow": lambda t: t,
    "batch": lambda t: t.combine_chunks().to_batches()[0],
    "reader": lambda t: t.to_reader(),
    "dataset": ds.dataset,
}
SQL = Path(__file__).parent.parent.parent / "sql"
CLUSTERS = [(1, 1, 2), (2, 1, 2), (3, 3, 1)]
OPTIONS: dict[str, Any] = {"threshold": 0.5, "tier": "t0"}


class Stream:
    """Rows of another library: an Arrow stream that can be read once."""

    def __init__(self, table: pa.Table) -> None:
        self._reader = table.to_reader()

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        return self._reader.__arrow_c_stream__(requested_schema)


@pytest.fixture
def default(backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch) -> duckdb.DuckDBPyConnection:
    """A default connection of DuckDB that nobody has touched."""
    connection = duckdb.connect()
    monkeypatch.setattr(duckdb, "default_connection", lambda: connection)
    return connection


@pytest.mark.parametrize("kind", [*FRAMES, "stream"])
def test_every_kind_of_frame_is_read_as_often_as_the_relation_is(
    con: duckdb.DuckDBPyConnection, kind: str
) -> None:
    frame = Stream(SHOP) if kind == "stream" else FRAMES[kind](SHOP)
    found = meld.dedupe(frame, connection=con, **OPTIONS)
    del frame
    for _ in range(2):
        assert sorted(found.fetchall()) == CLUSTERS
    assert found.filter("cluster_size = 1").project("id").fetchall() == [(3,)]
    assert found.df().shape == found.pl().shape == (3, 3)
    assert con.sql("SHOW TABLES").fetchall() == []


def test_relations_run_on_their_own_connection_and_leave_nothing_there(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute(f"ATTACH '{tmp_path / 'mine.db'}' AS mine; USE mine")
    shop, offers = con.from_arrow(SHOP), OFFERS.to_pandas()
    found = meld.join(shop, offers, **OPTIONS)
    assert sorted(found.project("l_id, r_id").fetchall()) == [(1, "y"), (2, "y"), (3, "x")]
    assert sorted(meld.join(offers, shop, **OPTIONS).project("r_id").fetchall()) == [
        (1,),
        (2,),
        (3,),
    ]
    found.create("pairs")
    assert con.sql("SHOW ALL TABLES").project("name").fetchall() == [("pairs",)]
    views = "SELECT view_name FROM duckdb_views() WHERE NOT internal"
    assert con.sql(views).fetchall() == []
    with con.cursor() as cursor:
        assert meld.dedupe(cursor.from_arrow(SHOP), **OPTIONS).count("id").fetchall() == [(3,)]


def test_what_is_open_in_a_transaction_stays_open(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("BEGIN; CREATE TABLE shop AS FROM (VALUES (1, 'a b'), (2, 'a b')) AS t(id, title)")
    assert meld.dedupe(con.table("shop"), threshold=0.5).fetchall() == [(1, 1, 2), (2, 1, 2)]
    con.execute("ROLLBACK")
    assert con.sql("SHOW TABLES").fetchall() == []


def test_frames_alone_run_on_the_default_connection(default: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(meld.ConfigError, match=r"not registered.*register\(con\)"):
        meld.dedupe(default.from_arrow(SHOP))
    assert sorted(meld.dedupe(SHOP, **OPTIONS).fetchall()) == CLUSTERS
    assert sorted(meld.dedupe(default.from_arrow(SHOP), **OPTIONS).fetchall()) == CLUSTERS


def test_a_connection_that_is_given_is_registered(backend: ScriptedBackend) -> None:
    connection = duckdb.connect()
    relation = connection.from_arrow(SHOP)
    found = meld.dedupe(relation, connection=connection, **OPTIONS)
    assert sorted(found.fetchall()) == CLUSTERS


def test_names_are_tables_views_and_files(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    con.register("my shop", SHOP)
    con.execute(f"COPY (FROM \"my shop\") TO '{tmp_path}/it''s.parquet'")
    for name in ("my shop", f"{tmp_path}/it's.parquet"):
        assert sorted(meld.dedupe(name, connection=con, **OPTIONS).fetchall()) == CLUSTERS


def test_a_table_given_twice_is_joined_with_itself(con: duckdb.DuckDBPyConnection) -> None:
    pairs = meld.block(SHOP, SHOP, k=3, connection=con).project("l_id, r_id").fetchall()
    assert pairs and all(left != right for left, right in pairs)
    other = meld.block(SHOP, SHOP.slice(0), k=3, connection=con).project("l_id, r_id").fetchall()
    assert {(i, i) for i in (1, 2, 3)} <= set(other)
    reader = SHOP.to_reader()
    joined = meld.join(reader, reader, connection=con, **OPTIONS).project("l_id, r_id").fetchall()
    assert sorted(joined) == [(1, 2), (2, 1)]


def test_pairs_that_are_known_are_judged_one_line_each(con: duckdb.DuckDBPyConnection) -> None:
    pairs = pd.DataFrame({"a": 0, "l_id": [1, 3, 9], "r_id": ["y", "y", "x"]})
    found = meld.match(SHOP, OFFERS, pairs, connection=con, **OPTIONS)
    assert found.columns == "l_id r_id matches probability tier evidence error".split()
    assert sorted(found.project("l_id, r_id, matches").fetchall()) == [
        (1, "y", True),
        (3, "y", False),
        (9, "x", None),
    ]
    candidates = meld.block(SHOP, OFFERS, k=1, connection=con)
    lines = meld.match(SHOP, OFFERS, candidates, threshold=0.0, connection=con)
    assert sorted(lines.project("l_id, r_id").fetchall()) == sorted(
        candidates.project("l_id, r_id").fetchall()
    )


def test_without_pairs_rows_are_matched_side_by_side(con: duckdb.DuckDBPyConnection) -> None:
    left, right = SHOP.slice(1), OFFERS.take([1, 0])
    found = meld.match(left, right, connection=con, **OPTIONS)
    assert found.project("l_id, r_id, matches").fetchall() == [(2, "y", True), (3, "x", True)]
    with pytest.raises(duckdb.Error, match="different numbers of rows; give pairs, or use join"):
        meld.match(SHOP, OFFERS, connection=con).fetchall()


def test_cells_are_found_repaired_and_filled(con: duckdb.DuckDBPyConnection) -> None:
    cities = ["Berlin", "Hamburg", "Munich"]
    people = pl.DataFrame(
        {"key": range(60), "zip": ["10115", "20095", "80331"] * 20, "city": cities * 20}
    )
    people[4, "city"], people[6, "city"] = "Hambxrg", None
    given: dict[str, Any] = {"id": "key", "tier": "t0", "connection": con}
    every = meld.find_errors(people, columns="city", threshold=0, **given)
    [worst, *rest] = every.filter("value IS NOT NULL").order("probability DESC").fetchall()
    assert worst[:3] == (4, "city", "Hambxrg") and len(rest) == 58
    changes = meld.repairs(people, columns=pd.Series(["city"]), min_probability=0.1, **given)
    assert (4, "city", "Hambxrg", "Hamburg") in changes.project('#1, #2, "old", "new"').fetchall()
    filled = meld.impute_nulls(people, options=cities, min_probability=0, **given)
    assert filled.project("id, value").fetchall() == [(6, "Berlin")]
    asked = meld.label_next("impute", people, l_id="key", connection=con)
    assert asked.project('l_id, "column"').fetchall() == [(6, "city")]
    pairs = meld.label_next("match", SHOP, OFFERS, n=2, connection=con)
    assert len(pairs.fetchall()) == 2 and pairs.types[:2] == ["BIGINT", "VARCHAR"]


def test_columns_of_frames_are_matched_by_name_values_and_description(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str | None]] = []
    make = schemas.make_record
    monkeypatch.setattr(schemas, "make_record", lambda f: told.append(dict(f)) or make(f))
    left = pl.DataFrame({'the "mail"': ["a@x.org", "b@x.org", "b@x.org", None], "n": [1, 2, 1, 1]})
    right = pd.DataFrame({"email": ["it's"]})
    said = pd.DataFrame(
        {
            "table_name": ["LEFT", "right", "left"],
            "column_name": ["N", "email", None],
            "description": ["how many", "where to write to", "persons"],
        }
    )
    found = meld.match_schemas(left, right, k=1, samples=2, descriptions=said, connection=con)
    assert found.project("l_table, l_column, r_table, r_column, rank").fetchall() == [
        ("left", 'the "mail"', "right", "email", 1),
        ("left", "n", "right", "email", 1),
    ]
    none = {"table": None, "table_description": None}
    persons = {**none, "table_description": "persons"}
    assert told == [
        {**persons, "column": 'the "mail"', "type": "VARCHAR", "description": None,
         "values": '["b@x.org","a@x.org"]'},
        {**persons, "column": "n", "type": "BIGINT", "description": "how many",
         "values": '["1","2"]'},
        {**none, "column": "email", "type": "VARCHAR", "description": "where to write to",
         "values": '["it\'s"]'},
    ]  # fmt: skip
    own = meld.match_schemas(left, left, connection=con).project("l_column, r_column").fetchall()
    assert sorted(own) == [("n", 'the "mail"'), ('the "mail"', "n")]


def test_schemas_by_name_are_those_of_the_sql_function(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE SCHEMA crm; CREATE TABLE crm.person (birth_date DATE, full_name VARCHAR)")
    con.execute("CREATE TABLE said AS SELECT 'person' AS table_name, 'full_name' AS column_name,"
                " 'what one is called' AS description; CREATE TABLE c (dob DATE, name VARCHAR)")  # fmt: skip
    given = "'crm', 'c', k := 1, descriptions := 'said', assignment := 'one_to_one'"
    wanted = con.sql(f"FROM meld.match_schemas({given})").fetchall()
    found = meld.match_schemas(
        "crm", "c", k=1, descriptions="said", assignment="one_to_one", connection=con
    )
    assert found.fetchall() == wanted and wanted
    mixed = meld.match_schemas("c", con.table("crm.person"), k=1).project("l_table, r_table")
    assert set(mixed.fetchall()) == {("c", "right")}
    with pytest.raises(meld.InputError, match="names, but descriptions is a table"):
        meld.match_schemas("crm", "c", descriptions=SHOP, connection=con)
    with pytest.raises(meld.InputError, match="samples is -1"):
        meld.match_schemas(SHOP, SHOP, samples=-1, connection=con)


ODD: dict[str, Callable[[], Any]] = {
    "categories": lambda: pd.DataFrame({"id": [1, 2], "c": pd.Categorical(["a", None])}),
    "zones": lambda: pd.DataFrame(
        {
            "id": [1, 2],
            "at": pd.to_datetime(["2024-03-31 01:30", None]).tz_localize("Europe/Berlin"),
        }
    ),
    "mixed objects": lambda: pd.DataFrame({"id": [1, 2], "o": [1, "a"], "s": [{"k": [1]}, None]}),
    "same names": lambda: pd.DataFrame([[1, "a", "b"], [2, "a", "b"]], columns=["id", "x", "X"]),
    "numbers as names": lambda: pd.DataFrame([[1, 2]]).rename(columns={0: "id"}),
    "text index": lambda: pd.DataFrame({"id": [1, 2], "x": "a"}, index=["p", "q"]),
    "polars types": lambda: pl.DataFrame(
        {
            "id": [1, 2],
            "c": pl.Series(["a", None], dtype=pl.Categorical),
            "e": pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
            "at": [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), None],
            "l": [[1], None],
            "s": [{"k": "v"}, {"k": None}],
        }
    ),
    "arrow types": lambda: pa.table(
        {
            "id": [1, 2],
            "t": pa.array(["a", None], pa.large_string()),
            "v": pa.array(["a", "b"], pa.string_view()),
            "d": pa.array(["u", "v"]).dictionary_encode(),
            "at": pa.array([dt.datetime(2024, 1, 1), None], pa.timestamp("us", "America/New_York")),
            "l": pa.array([["a"], None], pa.large_list(pa.large_string())),
        }
    ),
    "same arrow names": lambda: pa.Table.from_arrays(
        [pa.array([1, 2]), *[pa.array(["a", "b"])] * 3], names=["id", "x", "x", "X_1"]
    ),
    "quoted names": lambda: pl.DataFrame({"id": [1], 'the "name"; --\'': ["a"], "sélect": ["b"]}),
    "nothing but keys": lambda: pd.DataFrame({"id": [1, 2]}),
    "no rows": lambda: SHOP.slice(0, 0),
    "no rows in pandas": lambda: pd.DataFrame({"id": [], "x": []}),
    "missing everywhere": lambda: pl.DataFrame({"id": [None, None], "x": [None, None]}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_frames_go_through_every_function(con: duckdb.DuckDBPyConnection, name: str) -> None:
    frame = ODD[name]()
    n_rows = len(frame)
    given: dict[str, Any] = {"tier": "t0", "connection": con}
    assert len(meld.dedupe(frame, **given).fetchall()) == n_rows
    assert len(meld.match(frame, frame, **given).fetchall()) == n_rows
    meld.block(frame, frame, connection=con).fetchall()
    meld.join(frame, SHOP, **given).fetchall()
    for cells in (meld.find_errors, meld.repairs, meld.impute_nulls):
        for line in cells(frame, **given).fetchall():
            assert line[1] in map(str, con.sql("FROM frame").columns)
    meld.match_schemas(frame, SHOP, samples=2, **given).fetchall()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: meld.dedupe(SHOP, id="idd", connection=c), "'idd', named by id.*'id'"),
        (lambda c: meld.join(SHOP, OFFERS, r_id="title", connection=c), "'title', named by r_id"),
        (lambda c: meld.match(SHOP, OFFERS, SHOP, connection=c), "'l_id', named by pairs"),
        (lambda c: meld.dedupe("FROM x", connection=c), r"FROM x.*give con.sql\('SELECT ...'\)"),
        (lambda c: meld.dedupe([{"id": 1}], connection=c), "type list, expected a relation"),
        (lambda c: meld.dedupe(c, connection=c), "type DuckDBPyConnection, expected a relation"),
        (lambda c: meld.dedupe(pd.DataFrame(), connection=c), "at least one column"),
        (lambda c: meld.dedupe(SHOP, connection=SHOP), "connection is of type Table"),
        (
            lambda c: meld.join(c.from_arrow(SHOP), meld.connect().from_arrow(SHOP)),
            "one connection",
        ),
        (lambda c: meld.impute_nulls(SHOP, options=[1j], connection=c), "no value of an option"),
        (lambda c: meld.dedupe(SHOP, k={"a": 1}, connection=c), "no value of an option"),
    ],
)
def test_a_call_that_cannot_be_made_says_so_at_once(
    con: duckdb.DuckDBPyConnection, call: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(meld.InputError, match=message):
        call(con)


def test_a_bad_option_is_told_when_the_relation_is_read(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match="option 'k' is 0, expected a whole number from 1"):
        meld.dedupe(SHOP, k=0, connection=con).fetchall()
    with pytest.raises(duckdb.Error, match="unknown column 'nope'"):
        meld.find_errors(SHOP, columns="nope", connection=con).fetchall()


def test_where_python_objects_are_hidden_a_name_is_the_way(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("SET python_enable_replacements = false")
    with pytest.raises(meld.InputError, match=r"call con\.register"):
        meld.dedupe(SHOP, connection=con)
    con.register("my_table", SHOP)
    assert sorted(meld.dedupe("my_table", connection=con, **OPTIONS).fetchall()) == CLUSTERS


def test_numbers_of_numpy_and_awkward_texts_are_literals() -> None:
    import numpy as np

    con = duckdb.connect()
    for value in ("it's; \"--\n\\", [1, None], ["a'b"], True, 0.1, 2**70, float("inf"), None):
        [(back,)] = con.sql(f"SELECT {scans.literal(value)}").fetchall()
        assert back == value and type(back) is type(value)
    assert scans.literal(np.int64(3)) == "3"
    assert scans.literal(np.float32(0.5)) == "'0.5'::DOUBLE"
    assert scans.literal(pl.Series(["a"])) == scans.literal(np.array(["a"])) == "['a']"


@pytest.mark.parametrize("name", [n for n in meld.relations.__all__ if n not in {"Table", "match"}])
def test_options_are_those_of_the_sql_function(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Names by the catalogue, defaults by the text of the macro."""
    [(parameters,)] = con.execute(
        "SELECT parameters FROM duckdb_functions()"
        f" WHERE database_name = 'meld' AND function_name = '{name}'"
    ).fetchall()
    own = inspect.signature(getattr(meld, name)).parameters
    tables = {"left": "l", "right": "r", "table": "t"}
    assert sorted(tables.get(n, n) for n in own if n != "connection") == sorted(parameters)
    sql = "".join((SQL / f"{family}.sql").read_text("utf-8") for family in ("tables", "retrieval"))
    head = sql[sql.index(f"MACRO meld.{name}(") :].split(") AS TABLE")[0].replace('"', "")
    for option, parameter in own.items():
        if option == "connection" or parameter.default is inspect.Parameter.empty:
            continue
        default = parameter.default
        written = "NULL" if default is None else scans.literal(default)
        assert f"{tables.get(option, option)} := {written}" in head, option


def test_no_frame_library_is_loaded_for_a_relation(tmp_path: Path) -> None:
    code = f"""
import sys, meld_duckdb
con = meld_duckdb.connect(workspace={str(tmp_path)!r})
relation = con.sql("SELECT 1 AS id, 'a' AS x UNION ALL SELECT 2, 'a'")
assert meld_duckdb.block(relation, relation, k=1).columns[0] == 'l_id'
print(sorted({{'pandas', 'polars', 'torch', 'lancedb'}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
