"""The same statements give the same answers through the engine and in this process."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.cli.examples import EXAMPLES, PRELUDE
from tests.daemon.conftest import Start
from tests.scripted import ScriptedBackend

ODD = {
    "nulls": "SELECT meld_match(a, b) FROM (VALUES (NULL, 'x'), ('x', NULL), ('x', 'x')) t(a, b)",
    "no rows": "SELECT meld_match(title, title) FROM shop WHERE id > 99",
    "types": (
        "SELECT meld_match_detail({'d': DATE '2020-02-03', 'm': MAP {'k': 1.5::DECIMAL(9, 3)}, "
        "'e': 'x'::ENUM('x', 'y'), 'u': uuid(), 'l': [1, NULL], 'i': INTERVAL 3 DAY, "
        "'h': 170141183460469231731687303715884105727::HUGEINT, 'b': 'ab'::BLOB, "
        "'t': TIMESTAMPTZ '2020-01-01 00:00:00+00'}, {'d': 1}).tier"
    ),
    "json": """SELECT meld_match('{"a": 1}'::JSON, '{"a": "1"}'::JSON)""",
    "union": "SELECT meld_match({'u': union_value(n := 1)}, {'u': 'x'})",
    "enum": "SELECT meld_match(e::ENUM('p', 'q'), e) FROM (VALUES ('p'), ('q'), (NULL)) t(e)",
    "asked": "SELECT meld_match_detail(s, o, {'tier': 't2'}) FROM shop s, offers o",
    "again": "SELECT meld_match_detail(s, o, {'tier': 't2'}) FROM shop s, offers o",
    "generated": "SELECT meld_impute_detail(p, 'city', {'tier': 't2'}) FROM people p LIMIT 20",
    "votes": (
        "SELECT kcmf_entity_match_detail(s, o, {'tier': 't2', 'sources': ['none']}) "
        "FROM shop s, offers o"
    ),
    "described": (
        "FROM meld.match_schemas('shop', 'offers', samples := 3, descriptions := 'said')"
    ),
    "by votes": (
        "FROM meld.match_schemas('shop', 'offers', method := 'kcmf', samples := 2, tier := 't2')"
    ),
    "learned": "SELECT meld_learn('impute', {'row': p, 'column': 'city'}, city) FROM people p "
    "WHERE city IS NOT NULL LIMIT 30",
    "after labels": "SELECT meld_impute_detail(p, 'city') FROM people p",
    "shown labels": "SELECT meld_impute_detail(p, 'city', {'tier': 't2'}) FROM people p LIMIT 9",
    "next": "FROM meld.label_next('match', 'shop', 'offers', n := 2)",
    "repeated": "SELECT meld_embed(t) FROM (VALUES ('a b'), (NULL), ('a b')) v(t)",
    "statistics": "SELECT COLUMNS(* EXCLUDE seconds) FROM meld.stats()",
    "failures": "FROM meld.errors() ORDER BY ALL",
}
REFUSED = {
    "no table": "FROM meld.index('nothing')",
    "no schema": "FROM meld.match_schemas('nothing', 'shop')",
    "lost": "FROM meld.match_schemas('shop', 'shop', descriptions := 'wrong')",
    "one argument": "SELECT meld_match('a')",
    "bad option": "SELECT meld_impute({'a': 1}, 'a', {'domain': 1})",
    "fail": "SELECT meld_impute({'a': 1, 'b': NULL}, 'b', {'on_error': 'fail'})",
    "sources": "SELECT kcmf_entity_match('a', 'b', {'sources': ['dak']})",
    "samples": "FROM meld.match_schemas('shop', 'shop', samples := -1)",
}


def run(workspace: Path, engine: str) -> dict[str, object]:
    con = meld_duckdb.connect(workspace=workspace, engine=engine)
    con.execute(PRELUDE)
    con.execute(
        "CREATE TABLE said AS FROM (VALUES ('shop', 'price', 'in euros'), ('offers', NULL, 'o')) "
        "t(table_name, column_name, description)"
    )
    con.execute("CREATE TABLE wrong AS SELECT * REPLACE ('none' AS column_name) FROM said")
    found: dict[str, object] = {}
    for name, sql in {**EXAMPLES, **ODD}.items():
        if name in {"meld.settings", "meld.stats", "meld.estimate"} or "explain" in name:  # seconds
            continue
        result = con.sql(sql.rstrip(";"))
        kept = [c for c in result.columns if c != "seconds"]
        rows = result.select(*map(quoted, kept)).fetchall()  # in no order, where none is asked for
        found[name] = ([str(t) for t in result.types], sorted(rows, key=repr))
    for name, sql in REFUSED.items():
        with pytest.raises(duckdb.Error) as caught:
            con.sql(sql).fetchall()
        found[name] = str(caught.value).split("At:", maxsplit=1)[0].strip()
    con.close()
    return found


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_the_engine_answers_as_this_process_does(
    start: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    start(workspace=tmp_path / "engine")
    here = run(tmp_path / "here", "local")
    n_asked = len(backend.asked)
    there = run(tmp_path / "engine", "required")
    assert len(backend.asked) == n_asked
    for name, result in here.items():
        assert there[name] == result, name
    assert set(there) == set(here)
