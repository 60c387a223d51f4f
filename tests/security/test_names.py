"""Names of databases, schemas, tables and columns are names, whatever they look like."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb import relations
from meld_duckdb.cli.label_sources import open_batches, parse_source, read_source
from meld_duckdb.cli.main import cli
from meld_duckdb.serve import load_statements
from tests.scripted import ScriptedBackend

NAME = "ev\"il'); DROP TABLE victim; --\n/* <x> {0} {x} %s ? $1 [a](b) \\ é\u202e */ '' \"\" ;"
"""A name that ends texts and names, comments, fills in, and is more than one line."""

ROWS = [(1, "canon selphy cp800", "canon"), (2, "Canon Selphy CP800", None), (3, "sony", "sony")]
DUCKDB_2 = int(duckdb.__version__.split(".")[0]) >= 2


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


TABLE = quoted(NAME) if DUCKDB_2 else quoted(NAME.replace('"', ""))
"""The table as SQL writes it. DuckDB 1.5 cannot have `query_table` read a name with a quote."""

RAW = NAME if DUCKDB_2 else NAME.replace('"', "")


@pytest.fixture
def con(backend: ScriptedBackend, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A file with such a table, in such a schema too, with such columns, and a table to lose."""
    connection = meld_duckdb.connect(tmp_path / "a.duckdb")
    make(connection)
    yield connection
    connection.close()
    with duckdb.connect(str(tmp_path / "a.duckdb")) as again:
        assert again.execute("SELECT count(*) FROM victim").fetchall() == [(1,)]


def make(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE victim AS SELECT 1 AS x")
    connection.execute(f"CREATE SCHEMA {TABLE}")
    for place in (TABLE, f"{TABLE}.{TABLE}"):
        connection.execute(
            f"CREATE TABLE {place} ({quoted(NAME)} INTEGER, title VARCHAR, {quoted(NAME + '2')} VARCHAR)"
        )
        connection.executemany(f"INSERT INTO {place} VALUES (?, ?, ?)", ROWS)
        connection.execute(f"COMMENT ON TABLE {place} IS {text(NAME)}")
        connection.execute(f"COMMENT ON COLUMN {place}.{quoted(NAME)} IS {text(NAME)}")
    connection.execute("CREATE VIEW plain AS SELECT 1 AS id, 'sony' AS title")


T, ID, COLUMN = text(TABLE), text(NAME), text(NAME + "2")
STATEMENTS = {
    "index": f"FROM meld.index({T}, split := {COLUMN})",
    "block": f"FROM meld.block({T}, {T}, l_id := {ID}, r_id := {ID})",
    "join": f"FROM meld.join({T}, {T}, threshold := 0.0, l_id := {ID}, r_id := {ID})",
    "dedupe": f"FROM meld.dedupe({T}, id := {ID})",
    "find_errors": f"FROM meld.find_errors({T}, columns := [{COLUMN}], threshold := 0.0, id := {ID})",
    "repairs": f"FROM meld.repairs({T}, columns := [{COLUMN}], min_probability := 0.0, id := {ID})",
    "impute_nulls": f"FROM meld.impute_nulls({T}, columns := [{COLUMN}], options := [{ID}, 'b'],"
    f" min_probability := 0.0, id := {ID})",
    "label_next": f"FROM meld.label_next('repair', {T}, l_id := {ID})",
    "match_schemas": f"FROM meld.match_schemas({text(RAW)}, 'main', samples := 3)",
    "impute": f"SELECT meld_impute(t, {COLUMN}) FROM {TABLE} AS t",
    "learn": f"SELECT meld_learn('repair', {{'row': t, 'column': {COLUMN}}}, {ID}) FROM {TABLE} AS t",
    "explain": f"SELECT meld_explain('repair', {{'row': t, 'column': {COLUMN}}}) FROM {TABLE} AS t",
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_functions_of_sql(name: str, con: duckdb.DuckDBPyConnection) -> None:
    rows = con.execute(STATEMENTS[name]).fetchall()
    assert rows or name == "repairs"
    if name in {"block", "join", "dedupe"}:
        assert {row[0] for row in rows} <= {1, 2, 3}


def test_what_is_indexed_goes_by_its_name(con: duckdb.DuckDBPyConnection) -> None:
    [line] = con.execute(f"FROM meld.index({T})").fetchall()
    assert line[0] == TABLE and line[1] == 3
    con.execute(f"FROM meld.index({text(f'{TABLE}.{TABLE}')})").fetchall()
    assert con.execute(f"SELECT meld_impute(t, {COLUMN}) FROM {TABLE} AS t").fetchall()


@pytest.mark.parametrize("kind", ["SELECT", "CREATE", "INSERT", "UPDATE", "COPY"])
def test_an_estimate(kind: str, con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    query = f"SELECT meld_impute(t, {COLUMN}) FROM {TABLE} AS t"
    statement = {
        "SELECT": query,
        "CREATE": f"CREATE TABLE {quoted(NAME + '3')} AS {query}",
        "INSERT": f"INSERT INTO {TABLE} (title) {query}",
        "UPDATE": f"UPDATE {TABLE} AS t SET {quoted(NAME + '2')} = meld_impute(t, {COLUMN})",
        "COPY": f"COPY ({query}) TO {text(str(tmp_path / 'x.csv'))}",
    }[kind]
    con.execute(f"USE a.{TABLE}")
    lines = con.execute("SELECT function, rows FROM meld.estimate(?)", [statement]).fetchall()
    con.execute("USE a.main")
    assert ("meld_impute", 3) in lines
    assert not (tmp_path / "x.csv").exists()


FRAME = pa.table({NAME: [1, 2, 3], "title": ["a", "A", "b"], f"{NAME}2": ["x", None, "y"]})
CALLS: dict[str, Callable[[Any], duckdb.DuckDBPyRelation]] = {
    "block": lambda t: relations.block(t, t, l_id=NAME, r_id=NAME),
    "join": lambda t: relations.join(t, t, threshold=0.0, l_id=NAME, r_id=NAME),
    "match": lambda t: relations.match(t, t, l_id=NAME, r_id=NAME),
    "dedupe": lambda t: relations.dedupe(t, id=NAME),
    "find_errors": lambda t: relations.find_errors(t, columns=[f"{NAME}2"], threshold=0.0, id=NAME),
    "repairs": lambda t: relations.repairs(t, columns=[f"{NAME}2"], min_probability=0.0, id=NAME),
    "impute_nulls": lambda t: relations.impute_nulls(
        t, columns=[f"{NAME}2"], options=[NAME, "b"], min_probability=0.0, id=NAME
    ),
    "label_next": lambda t: relations.label_next("repair", t, l_id=NAME),
    "match_schemas": lambda t: relations.match_schemas(t, t, samples=2, descriptions=None),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("given", ["name", "relation", "frame"])
def test_functions_of_python(name: str, given: str, con: duckdb.DuckDBPyConnection) -> None:
    named = RAW if name == "match_schemas" else TABLE
    table: Any = {"name": named, "relation": con.sql(f"FROM {TABLE}"), "frame": FRAME}[given]
    if given == "relation":
        rows = CALLS[name](table).fetchall()
    else:
        with_connection = {"connection": con}
        function = getattr(relations, name)
        found = _given(CALLS[name], function, with_connection)(table)
        rows = found.fetchall()
    assert rows or name == "repairs"


def _given(
    call: Callable[[Any], Any], function: Callable[..., Any], more: dict[str, Any]
) -> Callable[[Any], Any]:
    """The call with further arguments."""
    with_more = lambda *a, **k: function(*a, **k, **more)  # noqa: E731
    names = {
        **call.__globals__,
        "relations": type("R", (), {function.__name__: staticmethod(with_more)}),
    }
    return type(call)(call.__code__, names)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_line(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, backend: ScriptedBackend
) -> None:
    con.close()
    file = str(tmp_path / "a.duckdb")
    assert "3 rows indexed" in run("index", TABLE, "--db", file, "--no-embed")
    assert "3 rows" in run("index", TABLE, "--db", file, "--no-embed", "--split", f"{NAME}2")
    query = f'SELECT t AS row, {COLUMN} AS "column" FROM {TABLE} AS t'
    assert "answer" in run("explain", "repair", query, "--db", file)
    out = tmp_path / "out.html"
    run("report", str(out), "--db", file, "--dedupe", TABLE, "--id", f"{TABLE}={NAME}",
        "--find-errors", TABLE, "--column", f"{NAME}2")  # fmt: skip
    page = out.read_text("utf-8")
    assert "&lt;x&gt;" in page and "<x>" not in page


def test_files_of_labels_and_knowledge(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    con.close()
    source = parse_source(f"{tmp_path / 'a.duckdb'}:{TABLE}")
    assert len(read_source(source).rows) == 3
    assert NAME in read_source(source).columns
    with open_batches(source, (NAME.lower(), "title"), (f"{NAME}2".lower(), "absent")) as (
        n_rows,
        batches,
    ):
        assert n_rows == 3 and len([row for batch in batches for row in batch]) == 3
    odd = tmp_path / "it's; DROP TABLE victim; --.csv"
    odd.write_text(f'{quoted(NAME)},"title"\n"1","x"\n')
    assert read_source(parse_source(str(odd))).columns == [NAME, "title"]


def test_a_database_file_by_such_a_name(tmp_path: Path, backend: ScriptedBackend) -> None:
    folder = tmp_path / "o'dd; dir --"
    folder.mkdir()
    file = folder / 'it\'s "x"; DROP TABLE victim; --.duckdb'
    with meld_duckdb.connect(file) as connection:
        make(connection)
        assert len(connection.execute(STATEMENTS["dedupe"]).fetchall()) == 3
        assert connection.execute(
            "SELECT count(*) FROM meld.match_schemas(current_database(), 'main', samples := 2)"
        ).fetchone()
    assert "3 rows indexed" in run("index", TABLE, "--db", str(file), "--no-embed")


def test_an_extension_in_a_directory_with_a_quote_is_loaded_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "it's" / "x.duckdb_extension"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr("meld_duckdb.serve._extension_file", lambda name: file)
    with duckdb.connect() as parser:
        for statement in load_statements():
            [parsed] = parser.extract_statements(statement)
            assert parsed.type.name == "LOAD"


def test_macros_for_dbt_quote_what_stands_in_quotes() -> None:
    folder = Path(__file__).parents[2] / "examples" / "dbt_project" / "macros"
    texts = [path.read_text("utf-8") for path in folder.glob("*.sql")]
    filled = [found for text_ in texts for found in re.findall(r"'\{\{ (.*?) \}\}'", text_)]
    assert filled
    assert [f for f in filled if 'replace("\'", "\'\'")' not in f] == []
