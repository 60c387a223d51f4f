"""``meld_explain``: computed anew, in full, and not stored."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from meld_duckdb.cli.main import cli
from meld_duckdb.tasks import ASKED
from tests.scripted import ScriptedBackend

PAIR = "{'a': {'title': 'red apple 13'}, 'b': {'title': 'apple, red 14'}}"
COLUMNS = "{'a': {'table': 'person', 'column': 'birth_date'}, 'b': {'table': 'patients', 'column': 'dob'}}"
ARGUMENTS = {
    "match": PAIR,
    "detect_error": "{'row': {'name': 'x', 'city': 'Berlln'}, 'column': 'city'}",
    "repair": "{'row': {'name': 'x', 'city': 'Berlln'}, 'column': 'city'}",
    "impute": "{'row': {'name': 'x', 'city': NULL}, 'column': 'city'}",
    "annotate_column": "{'values': ['Berlin'], 'types': ['city', 'person'], 'header': 'place'}",
    "extract_relation": (
        "{'subjects': ['Berlin'], 'objects': ['Germany'], 'relations': ['capital of', 'born in']}"
    ),
    "link_entity": (
        "{'mention': 'Paris', 'context': NULL, 'candidates': "
        "[{'id': 'Q90', 'name': 'Paris'}, {'id': 'Q8', 'name': 'Paris'}]}"
    ),
    "schema_match": COLUMNS,
    "extract_attribute": "{'row': 'the value is red', 'attribute': 'colour'}",
    "kcmf_schema_match": COLUMNS,
    "kcmf_entity_match": PAIR,
}


def explained(
    con: duckdb.DuckDBPyConnection, task: str, arguments: str, options: str = "NULL"
) -> dict[str, Any]:
    [(found,)] = con.sql(f"SELECT meld_explain('{task}', {arguments}, {options})").fetchall()
    return dict(found)


def stored(workspace: Path) -> int:
    path = workspace / "cache.sqlite"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as connection:
        n = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    connection.close()
    return int(n)


def test_every_task_is_covered() -> None:
    assert set(ARGUMENTS) == set(ASKED)


@pytest.mark.parametrize("task", list(ARGUMENTS))
def test_every_task_shows_its_prompts_and_stores_nothing(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, task: str, tmp_path: Path
) -> None:
    found = explained(con, task, ARGUMENTS[task], "{'tier': 't2'}")
    assert (found["task"], found["tier"], found["error"]) == (task, 2, None)
    assert found["settled_by"] == ("votes" if task.startswith("kcmf") else "language model")
    assert "option tier is 't2'" in found["reason"]
    assert len(found["prompts"]) == len(backend.asked) > 0
    prompt, asked = found["prompts"][-1], backend.asked[-1]
    contents = [message["content"] for message in prompt["messages"]]
    assert contents[-1] == asked.question == found["question"]
    assert [c["choice"] for c in prompt["choices"]] == list(asked.choices)
    assert prompt["said"] and prompt["tokens"] == 10
    assert stored(tmp_path / "workspace") == 0 and found["cached"] is False
    assert con.sql("FROM meld.stats()").fetchall() == []


def test_the_features_of_tier_0_have_names_values_and_weights(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    found = explained(con, "match", PAIR)
    probability = con.sql(
        "SELECT meld_match_prob({'title': 'red apple 13'}, {'title': 'apple, red 14'})"
    ).fetchall()
    assert [(found["probability"],)] == probability
    assert (found["tier"], found["settled_by"], found["prompts"]) == (0, "features", [])
    assert "tier 2 not asked: on 120 labelled rows" in found["reason"]
    added = [abs(f["added"]) for f in found["features"]]
    assert added == sorted(added, reverse=True) and len(added) == 12
    values = {f["name"]: f["value"] for f in found["features"]}
    assert values["text_digit_of_smaller"] == 0.0 and values["columns_max"] is None
    assert backend.asked == []


def test_it_tells_whether_the_answer_was_stored(con: duckdb.DuckDBPyConnection) -> None:
    before = explained(con, "match", PAIR)
    con.sql("SELECT meld_match({'title': 'red apple 13'}, {'title': 'apple, red 14'})").fetchall()
    after = explained(con, "match", PAIR)
    assert before["cached"] is False and after["cached"] is True
    assert before["cache_key"] == after["cache_key"] is not None
    assert before["probability"] == after["probability"]
    assert [s["step"] for s in after["steps"]] == ["labels", "cache", "features"], "computed anew"
    assert [s["settled"] for s in after["steps"]] == [False, False, True]


def test_a_label_and_the_demonstrations_it_gives(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.sql(f"SELECT meld_learn('match', {PAIR}, false)").fetchall()
    own = explained(con, "match", PAIR)
    assert (own["settled_by"], own["answer"]) == ("labels", "mismatch")
    assert own["reason"] == "this question is labelled" and own["cache_key"] is None
    near = "{'a': {'title': 'red apple 15'}, 'b': {'title': 'apple, red 14'}}"
    other = explained(con, "match", near, "{'tier': 't2'}")
    assert [n["text"] for n in other["neighbours"]] == ["mismatch"]
    shown = [(d["question"], d["answer"]) for d in other["demonstrations"]]
    assert shown == list(backend.asked[-1].turns)


def test_kcmf_names_the_source_of_every_vote(con: duckdb.DuckDBPyConnection) -> None:
    con.sql("CREATE TABLE p AS SELECT 1 AS id, 'a' AS birth_date")
    found = explained(
        con, "kcmf_schema_match", COLUMNS, "{'tier': 't2', 'sources': ['none', 'dak']}"
    )
    voted = [vote["source"] for vote in found["votes"]]
    assert voted and {p["source"] for p in found["prompts"] if p["source"]} == set(voted)
    assert all(vote["answer"] in ("yes", "no") for vote in found["votes"])


def test_the_tables_of_the_records_are_named(con: duckdb.DuckDBPyConnection) -> None:
    con.sql("CREATE TABLE t AS SELECT i AS id, 'thing ' || i AS name FROM range(9) AS r(i)")
    con.sql("FROM meld.index('t')").fetchall()
    found = con.sql(
        "SELECT meld_explain('match', {'a': a, 'b': b}).tables FROM t AS a, t AS b"
        " WHERE a.id = 1 AND b.id = 2"
    ).fetchall()
    assert found == [(["t"],)]


def test_nulls_and_what_cannot_be_asked(con: duckdb.DuckDBPyConnection) -> None:
    assert con.sql("SELECT meld_explain('match', NULL)").fetchall() == [(None,)]
    assert con.sql("SELECT meld_explain('match', {'a': NULL, 'b': 'x'})").fetchall() == [(None,)]
    empty = explained(con, "annotate_column", "{'values': ['x'], 'types': []::VARCHAR[]}")
    assert (empty["settled_by"], empty["error"]) == (
        "nobody",
        "no_options: the list of types is empty",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("meld_explain('mach', {'a': 1})", "did you mean 'match'"),
        ("meld_explain('match', {'a': 'x'})", "the arguments of match lack b"),
        ("meld_explain('match', {'a': 'x', 'c': 'x'})", "unknown argument 'c' of match"),
        ("meld_explain('match', 'no json')", "expected a STRUCT"),
        (f"meld_explain('match', {PAIR}, {{'teir': 't2'}})", "did you mean 'tier'"),
        ("meld_explain('match')", "expected 3"),
    ],
)
def test_wrong_calls_say_what_is_right(
    con: duckdb.DuckDBPyConnection, call: str, message: str
) -> None:
    with pytest.raises(duckdb.Error, match=message):
        con.sql(f"SELECT {call}").fetchall()


def test_the_command_prints_for_people_and_for_programs(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    database = str(tmp_path / "d.duckdb")
    with duckdb.connect(database) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT i AS id, 'thing ' || i AS name FROM range(3) r(i)"
        )
    query = "SELECT a, b FROM t AS a, t AS b ORDER BY a.id, b.id;"
    options = ["--db", database, "--options", '{"tier": "t2"}']
    done = CliRunner().invoke(cli, ["explain", "match", query, *options])
    assert done.exit_code == 0, done.output
    for part in (
        "'match', probability 0.8000, tier 2",
        "language model",
        "system:",
        "log-odds +1.386",
    ):
        assert part in done.output
    done = CliRunner().invoke(cli, ["explain", "match", query, *options, "--json", "--rows", "2"])
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [line["settled_by"] for line in lines] == ["language model"] * 2
    done = CliRunner().invoke(cli, ["explain", "match", '{"a": "red apple", "b": "apple, red"}'])
    assert done.exit_code == 0 and "features of tier 0" in done.output, done.output
    done = CliRunner().invoke(cli, ["explain", "match", "SELECT 1 AS a, 2 AS b WHERE false"])
    assert "has no rows" in str(done.exception)
