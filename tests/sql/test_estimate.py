"""What a statement will cost, told before, beside what running it then really takes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb.cli.main import cli
from meld_duckdb.estimate import service
from meld_duckdb.planner.speed import Speeds
from meld_duckdb.register import begin_statement, estimate
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import ScriptedBackend, first_choice
from tests.sql.query import one

COUNTED = (
    "function, rows, distinct_inputs, cache_hits, evaluations, tier0, tier1, tier2, "
    "engine_prompts, prompt_tokens"
)
TABLES = """
    CREATE TABLE shop AS FROM (VALUES
        (1, 'canon selphy cp800 photo printer', 'canon', 'printers'),
        (2, 'canon pixma mg5320 inkjet printer', 'canon', 'printers'),
        (3, 'nikon coolpix s3100 camera', 'nikon', NULL),
        (4, 'nikon coolpix p500 camera', 'nikon', 'cameras'),
        (5, 'nikon d7000 slr camera', 'nikon', 'cameras')) AS t(id, title, brand, category);
    CREATE TABLE offers AS FROM (VALUES
        ('a', 'Selphy CP800 compact photo printer by Canon', 89.0),
        ('b', 'Nikon Coolpix S3100 14MP', 119.0),
        ('b', 'Nikon Coolpix S3100 14MP', 119.0)) AS t(id, title, price);
"""
STATEMENTS = {
    "tier 0": "SELECT meld_match(s, o) FROM shop AS s, offers AS o",
    "tier 2": "SELECT meld_match_detail(s, o, {'tier': 't2'}) FROM shop AS s, offers AS o",
    "named": "SELECT meld.impute(s, 'category', tier := 't2') FROM shop AS s",
    "join": "FROM meld.join('shop', 'offers')",
    "join by model": "FROM meld.join('shop', 'offers', tier := 't2', k := 2)",
    "dedupe": "FROM meld.dedupe('shop')",
    "dedupe by model": "FROM meld.dedupe('shop', tier := 't2')",
    "errors": "FROM meld.find_errors('shop', tier := 't2')",
    "missing": "FROM meld.impute_nulls('shop', tier := 't2')",
    "schemas": "FROM meld.match_schemas('shop', 'offers', samples := 2, tier := 't2')",
    "votes": "FROM meld.match_schemas('shop', 'offers', method := 'kcmf', tier := 't2')",
    "same prompts": (
        "SELECT kcmf_entity_match(s, o, {'tier': 't2', 'mode': 'generate'}) FROM shop s, offers o"
    ),
    "lambda": (
        "SELECT list_transform([brand, title], lambda x: "
        "meld_match(x, 'canon', {'tier': 't2'})) FROM shop"
    ),
    "view": "SELECT * FROM asked",
    "create": "CREATE OR REPLACE TABLE made AS SELECT meld_match(s, s, {'tier': 't2'}) AS m FROM shop s",
    "insert": (
        "WITH o AS (FROM offers) INSERT INTO notes (note) "
        "SELECT meld_impute(o, 'title', {'tier': 't2'}) FROM o RETURNING note"
    ),
    "update": "UPDATE notes SET note = meld_impute({'a': note, 'b': NULL}, 'b', {'tier': 't2'})",
    "update from": (
        "UPDATE notes AS n SET note = o.title || meld_match(n, o, {'tier': 't2'}) "
        "FROM offers AS o WHERE o.id = 'a' AND meld_match(n, o) RETURNING note"
    ),
    "delete": "DELETE FROM notes WHERE meld_match(note, 'x', {'tier': 't2'})",
    "pivot": (
        "PIVOT (SELECT id, brand, meld_match(s, s, {'tier': 't2'}) AS m FROM shop s) "
        "ON brand USING first(m)"
    ),
}


def told(con: duckdb.DuckDBPyConnection, sql: str, options: str = "") -> list[tuple[object, ...]]:
    """Lines of an estimate; what loading takes is left out."""
    text = sql.replace("'", "''")
    return con.execute(
        f"SELECT {COUNTED}, exact FROM meld.estimate('{text}'{options}) WHERE rows IS NOT NULL"
    ).fetchall()


def counted(con: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    """Lines of the statement that was run last."""
    return con.execute(
        f"SELECT {COUNTED}, true FROM meld.stats() WHERE statement = "
        "(SELECT max(statement) FROM meld.stats())"
    ).fetchall()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what SQLite keeps beside its files while they are open."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".sqlite-shm", ".sqlite-wal"}
    }


@pytest.fixture(autouse=True)
def untried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was tried out in this process yet, and only tests that ask for it try anything."""
    monkeypatch.setattr(service, "_TRIED", Speeds(None))
    if "trying" not in request.fixturenames:
        monkeypatch.setattr(service.EstimatingService, "_try_prompts", lambda self, kinds: None)
        monkeypatch.setattr(service.EstimatingService, "_try_pairs", lambda self, name: None)


@pytest.fixture
def trying() -> None:
    """For tests in which prompts may be tried out."""


@pytest.fixture
def shop(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute(TABLES)
    con.execute("CREATE TABLE notes AS SELECT title || '!' AS note FROM shop LIMIT 3")
    con.execute("ALTER TABLE notes ALTER note SET NOT NULL")
    con.execute("CREATE VIEW asked AS SELECT meld.match(s, s, tier := 't2') AS same FROM shop AS s")
    return con


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", STATEMENTS)
def test_what_is_told_is_what_it_takes(
    shop: duckdb.DuckDBPyConnection, backend: ScriptedBackend, name: str, indexed: bool
) -> None:
    sql = STATEMENTS[name]
    if indexed:
        shop.execute("FROM meld.index('shop')").fetchall()
        shop.execute(
            "SELECT meld_learn('match', {'a': s, 'b': o}, s.id = 1) FROM shop s, offers o "
            "WHERE o.id = 'a'"
        ).fetchall()
        shop.execute("SELECT meld_match(s, o, {'tier': 't2'}) FROM shop s, offers o").fetchall()
        shop.execute("SELECT meld_match(s, s, {'tier': 't2'}) FROM shop s LIMIT 2").fetchall()
    n_asked = len(backend.asked)
    before = shop.execute("FROM notes").fetchall()
    expected = told(shop, sql)
    assert shop.execute("FROM notes").fetchall() == before
    assert told(shop, sql) == expected  # it keeps nothing
    assert len(backend.asked) == n_asked
    begin_statement(shop)
    shop.execute(sql).fetchall()
    assert counted(shop) == expected
    assert len(backend.asked) - n_asked == sum(line[8] for line in expected)
    again = told(shop, sql) if name not in {"update", "update from", "delete", "insert"} else []
    assert all(line[8] == 0 for line in again)


def test_nothing_is_written_and_no_answer_is_remembered(
    shop: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    workspace = resolve()[0].workspace
    assert told(shop, STATEMENTS["tier 2"])[0][8] == 10
    assert not workspace.exists()
    shop.execute("FROM meld.index('offers')").fetchall()
    shop.execute("SELECT meld_learn('match', {'a': s, 'b': s}, true) FROM shop s").fetchall()
    before = contents(workspace)
    for sql in STATEMENTS.values():
        told(shop, sql)
    told(shop, "SELECT meld_learn('match', {'a': o, 'b': o}, true) FROM offers o")
    told(shop, "FROM meld.index('shop')")
    assert contents(workspace) == before
    assert backend.asked == []
    assert shop.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [
        ("notes",),
        ("offers",),
        ("shop",),
    ]


def test_what_would_change_the_workspace_is_left_out_and_says_so(
    shop: duckdb.DuckDBPyConnection,
) -> None:
    lines = shop.execute(
        "SELECT function, rows, seconds, exact FROM meld.estimate('FROM meld.index(''shop'')')"
    ).fetchall()
    assert lines == [("meld.index", 5, None, False)]
    assert shop.execute("SELECT count(*) FROM meld.experts()").fetchall() == [(0,)]


def test_a_large_statement_is_extrapolated_and_says_so(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    sql = (
        "SELECT meld_match({'t': 'tv ' || (i // 2)}, {'t': 'tv'}, {'tier': CASE WHEN i % 4 < 2 "
        "THEN 't2' ELSE 't0' END}) FROM range(6000) AS r(i)"
    )
    [line] = told(con, sql, ", sample := 200, seed := 7")
    assert line[:5] == ("meld_match", 6000, 3000, 0, 3000)
    assert line[-1] is False
    tier0, tier1, tier2, prompts, tokens = line[5:10]
    assert tier0 + tier2 == 3000
    assert tier1 == 0
    assert 1200 < tier2 < 1800
    assert prompts == tier2
    assert tokens == pytest.approx(10 * prompts, abs=10)
    assert told(con, sql, ", sample := 200, seed := 7") == [line]
    con.execute(sql).fetchall()
    assert counted(con)[0][:5] == line[:5]
    assert told(con, sql, ", sample := 200")[0][3:] == (3000, 0, 0, 0, 0, 0, 0, True)


def test_words_of_the_model_that_prompts_are_made_of_are_not_known_before(
    backend: ScriptedBackend,
) -> None:
    con = meld_duckdb.connect(model="large-7b")
    con.execute(TABLES)
    asked = "SELECT kcmf_entity_match(s, s, {'tier': 't2'%s}) FROM shop s"
    assert told(con, asked % "")[0][-1] is False
    [plain] = told(con, asked % ", 'self_indicator': false, 'keywords': 'lexical'")
    assert (plain[8], plain[-1]) == (5, True)


def test_rows_that_another_function_lets_through_are_no_exact_count(
    shop: duckdb.DuckDBPyConnection,
) -> None:
    sql = "SELECT meld_impute(s, 'category') FROM shop AS s WHERE meld_match(s, s, {'tier': '%s'})"
    assert [line[-1] for line in told(shop, sql % "t0")] == [True, True]
    exact = {line[0]: line[-1] for line in told(shop, sql % "t2")}
    assert exact == {"meld_match": True, "meld_impute": False}


def test_a_prompt_that_is_too_long_is_none(
    shop: duckdb.DuckDBPyConnection, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meld_duckdb.planner import loaded
    from tests import scripted

    def short(script: object) -> object:
        def said(prompt: Prompt) -> Completion:
            if "printer" in prompt.question:
                return Completion(None, prompt_tokens=99, error="prompt_too_long: 99 tokens")
            return script(prompt)  # type: ignore[operator,no-any-return]

        return said

    backend.script = short(first_choice)  # type: ignore[assignment]
    kind = loaded.BackendKind(
        lambda *given: "scripted",
        lambda *given: backend,
        open_counting=lambda *given: ScriptedBackend(short(scripted.counted)),  # type: ignore[arg-type]
    )
    monkeypatch.setitem(loaded.BACKENDS, "transformers", kind)
    for tier in ("t2", "auto"):
        con = meld_duckdb.connect(model=f"other-{tier}")
        con.execute(TABLES)
        sql = f"SELECT meld_match(s, s || {{'x': 1}}, {{'tier': '{tier}'}}) FROM shop s"
        sql = sql.replace("s || {'x': 1}", "{'title': brand}")
        expected = told(con, sql)
        con.execute(sql).fetchall()
        assert counted(con) == expected


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP TABLE shop", "no query that could be run alone"),
        ("COPY shop TO 'x.csv'", "no query that could be run alone"),
        ("CREATE VIEW v AS SELECT 1", "no query that could be run alone"),
        ("CREATE TABLE n (a INTEGER)", "no query that could be run alone"),
        ("INSERT INTO notes DEFAULT VALUES", "no query that could be run alone"),
        ("SET threads = 1", "no query that could be run alone"),
        ("ATTACH ':memory:' AS other", "no query that could be run alone"),
        ("SELECT 1; SELECT 2", "one statement, got 2"),
        ("", "one statement, got 0"),
        ("SELEC 1", "cannot be parsed"),
        ("SELECT meld_match(t, t) FROM nowhere t", "no temporary ones"),
        ("SELECT meld_match(1, 2, {'tiar': 't2'})", "did you mean 'tier'"),
        (
            "SELECT meld_impute({'a': 1, 'b': NULL}, 'b', {'on_error': 'fail'})",
            "cannot answer a row",
        ),
    ],
)
def test_what_cannot_be_estimated_says_why(
    shop: duckdb.DuckDBPyConnection, sql: str, message: str
) -> None:
    with pytest.raises(duckdb.Error, match=message):
        told(shop, sql)
    assert one(shop, "SELECT count(*) FROM shop") == 5


def test_only_the_query_of_a_copy_is_run(shop: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    sql = f"COPY (SELECT id, meld_match(s, s, {{'tier': 't2'}}) FROM shop s) TO '{file}' (HEADER)"
    assert [line[8] for line in told(shop, sql)] == [5]
    assert not file.exists()


def test_names_are_looked_up_as_the_caller_does(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("ATTACH ':memory:' AS other; CREATE SCHEMA other.part; USE other.part")
    con.execute("CREATE TABLE t AS SELECT 'é' AS a FROM range(3)")
    assert told(con, "INSERT INTO t SELECT meld_impute(t, 'a', {'tier': 't2'}) FROM t")[0][1] == 3


def test_budgets_are_left_out_and_no_engine_is_needed(backend: ScriptedBackend) -> None:
    con = meld_duckdb.connect(engine="required", max_calls=2)
    con.execute(TABLES)
    assert told(con, STATEMENTS["tier 2"])[0][8] == 10


def test_the_connection_goes_on_as_before(
    shop: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    shop.execute("SET threads = 1")
    shop.execute("BEGIN")
    shop.execute("CREATE TABLE mine AS SELECT 1 AS a")
    told(shop, STATEMENTS["update"])
    assert one(shop, "SELECT meld_match('a b', 'b a', {'tier': 't2'})") is True
    assert len(backend.asked) == 1
    shop.execute("COMMIT")
    assert one(shop, "SELECT a FROM mine") == 1


def test_several_estimates_at_once_do_not_mix(shop: duckdb.DuckDBPyConnection) -> None:
    found: dict[int, list[tuple[object, ...]]] = {}

    def run(n: int) -> None:
        with shop.cursor() as cursor:
            found[n] = told(
                cursor, f"SELECT meld_match('a ' || i, 'b', {{'tier': 't2'}}) FROM range({n}) r(i)"
            )

    threads = [threading.Thread(target=run, args=(n,)) for n in (10, 20, 30, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: (lines[0][1], lines[0][8]) for n, lines in found.items()} == {
        n: (n, n) for n in (10, 20, 30, 40)
    }


def test_seconds_are_those_that_prompts_took_before(
    trying: None, shop: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    import time

    def slowly(prompt: Prompt) -> Completion:
        time.sleep(0.02)
        return first_choice(prompt)

    backend.script = slowly
    asked = "SELECT meld_match('a ' || i, 'b', {'tier': 't2'}) FROM range(%d) AS r(i)"
    shop.execute(asked % 20).fetchall()
    n_asked = len(backend.asked)
    [line] = [x for x in estimate(shop, asked % 120) if x.rows is not None]
    assert line.engine_prompts == 100
    kept = Path(resolve({})[0].workspace) / "speed.json"
    calls = [call for kind in json.loads(kept.read_text("utf-8")).values() for call in kind]
    [took] = [seconds for n_tokens, seconds in calls if n_tokens == 20 * 10]
    assert took >= 20 * 0.02
    assert line.seconds is not None
    assert took / 20 * 100 <= line.seconds < took / 20 * 200  # and what goes with every row
    assert len(backend.asked) == n_asked  # it was measured by the statement before
    [unknown] = [x for x in estimate(shop, STATEMENTS["named"]) if x.rows is not None]
    assert len(backend.asked) > n_asked  # prompts of another kind are tried out
    assert unknown.seconds is not None
    assert unknown.seconds > 5 * 0.02


def test_the_command_prints_a_line_per_function_a_total_and_json(
    backend: ScriptedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shop.duckdb"
    with duckdb.connect(str(file)) as plain:
        plain.execute(TABLES)
    sql = (
        "SELECT meld_match(s, s, {'tier': 't2'}), meld_impute(s, 'brand') FROM shop s WHERE id < 4"
    )
    run = CliRunner().invoke(cli, ["estimate", sql, "--db", str(file)])
    assert run.exit_code == 0, run.output
    lines = run.output.splitlines()
    names = [line.split()[0] for line in lines]
    assert names[:4] == ["function", "meld_match", "meld_impute", "total"]
    assert lines[1].split()[1:10] == ["3", "3", "0", "3", "0", "0", "3", "3", "30"]
    assert lines[3].split()[1:10] == ["6", "6", "0", "6", "3", "0", "3", "3", "30"]
    run = CliRunner().invoke(cli, ["estimate", sql, "--db", str(file), "--json"])
    found = [line for line in json.loads(run.output) if line["rows"] is not None]
    assert [line["engine_prompts"] for line in found] == [3, 0]
    run = CliRunner().invoke(cli, ["estimate", "SELECT 1"])
    assert run.output == "the statement asks nothing of meld\n"


def test_the_service_of_the_process_is_left_alone(shop: duckdb.DuckDBPyConnection) -> None:
    told(shop, STATEMENTS["tier 2"])
    assert shop.execute("FROM meld.stats()").fetchall() == []
    assert LocalService(resolve()[0]).session.expert_counts() == {}
