from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.kcmf.rule_files import save_rules
from meld_duckdb.kcmf.rules import read_rules
from meld_duckdb.planner.knowing import About, Knowing
from meld_duckdb.retrieval.remote import RemoteFacts
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Completion, Prompt
from meld_duckdb.workspace import open_workspace
from tests.scripted import ScriptedBackend, first_choice
from tests.sql.query import one

DOB = "{'table': 'person', 'column': 'birth_datetime', 'description': 'when the person was born'}"
BIRTH = "{'table': 'patients', 'column': 'birth_date', 'description': 'their date of birth'}"
PRICE = "{'table': 'orders', 'column': 'unit_price', 'description': 'price of a cholera vaccine'}"
T2 = "'tier': 't2', 'sources': ['none']"


def saying(*answers: str) -> object:
    """A model that generates these texts in turn, and chooses as `first_choice` does."""
    waiting = list(answers)

    def script(prompt: Prompt) -> Completion:
        if prompt.choices:
            return first_choice(prompt)
        return Completion(waiting.pop(0), probability=0.5, prompt_tokens=7)

    return script


def test_a_question_is_asked_once_per_distinct_prompt(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    assert one(con, f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{'tier': 't2'}})") is True
    [prompt] = backend.asked
    assert prompt.choices == ("yes", "no")
    assert "Rules for the task:\nI: " in prompt.system
    assert prompt.question.index("person-birth_datetime") < prompt.question.index("patients-birth")
    detail = one(con, f"SELECT kcmf_schema_match_detail({DOB}, {BIRTH}, {{'tier': 't2'}})")
    assert [(v["source"], v["answer"]) for v in detail["votes"]] == [("dak", "yes")]
    assert detail["probability"] == pytest.approx(0.8)
    assert detail["tier"] == 2
    assert len(backend.asked) == 1  # from the cache


def test_a_source_that_knows_nothing_is_no_second_voice(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    asked = "{'tier': 't2', 'sources': ['none', 'dak', 'DAK']}"
    detail = one(con, f"SELECT kcmf_schema_match_detail({DOB}, {BIRTH}, {asked})")
    assert [v["source"] for v in detail["votes"]] == ["none"]
    assert len(backend.asked) == 1


def test_a_failure_of_the_engine_is_no_vote_and_is_not_kept(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    broken = Completion(None, error="out_of_memory: 900 tokens do not fit")
    backend.script = lambda prompt: broken
    sql = f"SELECT kcmf_schema_match_detail({DOB}, {BIRTH}, {{{T2}}})"
    detail = one(con, sql)
    assert (detail["answer"], detail["votes"]) == (None, [])
    assert detail["error"].startswith("out_of_memory")
    with pytest.raises(duckdb.Error, match="out_of_memory"):
        con.sql(
            f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{{T2}, 'on_error': 'fail'}})"
        ).fetchall()
    # One source of two: the other decides for now.
    add_base("medicine", [("cholera", "includes", "vibrio")])

    def lame(prompt: Prompt) -> Completion:
        return broken if "vibrio" in prompt.question else first_choice(prompt)

    backend.script = lame
    both = f"SELECT kcmf_schema_match_detail({DOB}, {PRICE}, {{'tier': 't2', 'sources': ['none', 'eak']}})"
    assert [v["source"] for v in one(con, both)["votes"]] == ["none"]
    backend.script = first_choice
    assert one(con, sql)["answer"] is True
    assert [v["source"] for v in one(con, both)["votes"]] == ["none", "eak"]


def test_there_is_no_tier_1(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match="no tier 1"):
        con.sql(f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{'tier': 't1'}})").fetchall()


def test_names_that_cannot_be_fail_whatever_tier_answers(con: duckdb.DuckDBPyConnection) -> None:
    for options in ("'rules': 'nope'", "'sources': ['dk']"):
        with pytest.raises(duckdb.Error, match=r"did you mean|nope"):
            con.sql(
                f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{'tier': 't0', {options}}})"
            ).fetchall()


def test_an_item_is_in_short_for_each_of_its_schemas(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    columns = '"table", "column", description, table_description'
    con.execute(
        f"CREATE TABLE l AS FROM (VALUES ('visits', 'doctor', 'see staff and care', '')) AS t({columns})"
    )
    for name, table in (("r1", "staff"), ("r2", "care")):
        con.execute(
            f"CREATE TABLE {name} AS FROM (VALUES ('{table}', '{table}_x', 'it', 'about {table}'),"
            f" ('other', 'y', 'it', '')) AS t({columns})"
        )
    con.execute("FROM meld.index('l'); FROM meld.index('r1'); FROM meld.index('r2')").fetchall()
    backend.script = lambda p: (
        first_choice(p) if p.choices else Completion(p.question, probability=0.9, prompt_tokens=5)
    )
    asked = "{'tier': 't2', 'sources': ['dak'], 'self_indicator': true}"
    together = meld_duckdb.connect(workspace=resolve()[0].workspace, cache=False)
    together.execute(
        f"CREATE TABLE l AS FROM (VALUES ('visits', 'doctor', 'see staff and care', '')) AS t({columns})"
    )
    together.execute(
        "CREATE TABLE r AS FROM (VALUES ('staff', 'staff_x', 'it', 'about staff'),"
        f" ('care', 'care_x', 'it', 'about care')) AS t({columns})"
    )
    together.sql(f"SELECT kcmf_schema_match(l, r, {asked}) FROM l, r").fetchall()
    summaries = [p.question for p in backend.asked if p.system.startswith("Summarise")]
    of_doctor = {q for q in summaries if "visits-doctor" in q}
    assert len(of_doctor) == 2  # one per schema it is compared with


def test_a_base_that_changes_meanwhile_is_not_kept_under_the_old_name(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    add_base("medicine", [("cholera", "includes", "old")])
    changed = []

    def script(prompt: Prompt) -> Completion:
        if not changed:
            changed.append(True)
            add_base("medicine", [("cholera", "includes", "new")], replace_all=True)
        return first_choice(prompt)

    backend.script = script
    sql = f"SELECT kcmf_schema_match_detail({DOB}, {PRICE}, {{'tier': 't2', 'sources': ['eak']}})"
    one(con, sql)
    assert one(con, sql)["knowledge"] == [{"source": "eak", "text": "One of cholera is new."}]
    add_base("medicine", [("cholera", "includes", "old")], replace_all=True)
    assert one(con, sql)["knowledge"] == [{"source": "eak", "text": "One of cholera is old."}]


def test_each_base_tells_only_of_words_that_it_knows(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    add_base("medicine", [("cholera vaccine", "includes", "Vaxchora")])
    add_base("parts", [("vaccine fridge", "includes", "door hinge")])
    detail = one(
        con,
        f"SELECT kcmf_schema_match_detail({DOB}, {PRICE}, {{'tier': 't2', 'sources': ['eak']}})",
    )
    assert [k["text"] for k in detail["knowledge"]] == ["One of cholera vaccine is Vaxchora."]


def test_the_order_of_schemas_matters_and_that_of_entities_does_not(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.sql(
        f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{{T2}}}), kcmf_schema_match({BIRTH}, {DOB}, {{{T2}}})"
    ).fetchall()
    assert len({p.question for p in backend.asked}) == 2
    backend.asked.clear()
    con.sql(
        f"SELECT kcmf_entity_match('a', 'b', {{{T2}}}), kcmf_entity_match('b', 'a', {{{T2}}})"
    ).fetchall()
    assert len(backend.asked) == 1


def test_tier_0_answers_as_the_base_function(con: duckdb.DuckDBPyConnection) -> None:
    for a, b in ((DOB, BIRTH), (BIRTH, DOB), (DOB, PRICE)):
        own, base = one(
            con,
            f"SELECT kcmf_schema_match_detail({a}, {b}, {{'tier': 't0'}}).probability,"
            f" meld_schema_match_prob({a}, {b}, {{'tier': 't0'}})",
        )
        assert own == base
    detail = one(con, f"SELECT kcmf_schema_match_detail({DOB}, {PRICE}, {{'tier': 't0'}})")
    assert (detail["votes"], detail["bad_formats"], detail["knowledge"]) == ([], 0, [])


def test_generated_reasoning_is_read_and_bad_formats_abstain(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, tmp_path: Path
) -> None:
    add_base("medicine", [("cholera", "includes", "cholera due to vibrio")])
    backend.script = saying("1. Both are dates.\nyes", "I cannot say.")  # type: ignore[assignment]
    asked = "{'tier': 't2', 'mode': 'generate', 'sources': ['none', 'eak']}"
    detail = one(con, f"SELECT kcmf_schema_match_detail({DOB}, {PRICE}, {asked})")
    assert detail["answer"] is True
    assert detail["votes"] == [
        {"source": "none", "answer": "yes", "probability": 1.0},
        {"source": "eak", "answer": None, "probability": None},
    ]
    assert detail["bad_formats"] == 1
    assert detail["knowledge"] == [
        {"source": "eak", "text": "One of cholera is cholera due to vibrio."}
    ]
    assert [r["source"] for r in detail["reasoning"]] == ["none", "eak"]
    assert "Both are dates" in detail["reasoning"][0]["text"]


def test_without_a_valid_vote_the_tier_before_answers_or_it_is_a_no(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    backend.script = saying("?", "?", "?")  # type: ignore[assignment]
    forced = one(
        con,
        f"SELECT kcmf_schema_match_detail({DOB}, {BIRTH}, {{{T2}, 'mode': 'generate'}})",
    )
    assert (forced["answer"], forced["probability"], forced["bad_formats"]) == (False, 0.0, 1)


def test_keywords_and_summaries_are_asked_once_per_item(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    add_base("medicine", [("cholera", "includes", "vibrio"), ("birth", "includes", "labour")])

    def script(prompt: Prompt) -> Completion:
        if prompt.system.startswith("List the keywords"):
            return Completion("cholera, birth", probability=0.9, prompt_tokens=5)
        if prompt.system.startswith("Summarise"):
            return Completion("in short", probability=0.9, prompt_tokens=5)
        return first_choice(prompt)

    backend.script = script
    con.execute(f"CREATE TABLE sides AS FROM (VALUES ({DOB}), ({BIRTH}), ({PRICE})) AS t(c)")
    asked = (
        "{'tier': 't2', 'sources': ['none', 'eak'], 'keywords': 'model', 'self_indicator': true}"
    )
    con.sql(f"SELECT kcmf_schema_match(a.c, b.c, {asked}) FROM sides AS a, sides AS b").fetchall()
    kinds = [p.system.split()[0] for p in backend.asked]
    assert kinds.count("List") == 3  # one per item, though there are nine pairs
    assert kinds.count("Is") == 2  # one per keyword
    assert kinds.count("Summarise") == 6  # one per item and source
    votes = [p for p in backend.asked if p.system.startswith("Question")]
    assert len(votes) == 18
    assert all("Reasoning:\n1. Schema A is about" in p.question for p in votes)


def test_labels_are_shown_with_their_reasoning(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.execute(f"SELECT meld_learn('schema_match', {{'a': {DOB}, 'b': {BIRTH}}}, true)").fetchall()
    con.execute(
        f"SELECT meld_learn('schema_match', {{'a': {DOB}, 'b': {PRICE}}}, false)"
    ).fetchall()
    con.sql(f"SELECT kcmf_schema_match({BIRTH}, {PRICE}, {{{T2}}})").fetchall()
    [prompt] = backend.asked
    assert {answer for _, answer in prompt.turns} == {"yes", "no"}
    assert all("Reasoning:\n1. " in question for question, _ in prompt.turns)
    # A label is the answer, in either order.
    backend.asked.clear()
    assert one(con, f"SELECT kcmf_schema_match({BIRTH}, {DOB}, {{{T2}}})") is True
    assert backend.asked == []
    bare = f"{{{T2}, 'rules': 'none', 'demonstrations': 0}}"
    con.sql(f"SELECT kcmf_schema_match({BIRTH}, {PRICE}, {bare})").fetchall()
    assert backend.asked[-1].turns == ()
    assert "Rules" not in backend.asked[-1].system


def test_labels_belong_to_the_base_task(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match="kcmf_schema_match"):
        con.sql(
            f"SELECT meld_learn('kcmf_schema_match', {{'a': {DOB}, 'b': {BIRTH}}}, true)"
        ).fetchall()


def test_rules_of_the_workspace_take_the_place_of_those_that_ship(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    rules = [
        {
            "ord": 1,
            "condition": "both are dates",
            "then": "yes",
            "else": "no",
            "unmet": None,
            "check": None,
        }
    ]
    workspace = open_workspace(resolve()[0].workspace)
    save_rules(workspace, read_rules("mine", "schema_match", rules))
    con.sql(f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{{T2}, 'rules': 'mine'}})").fetchall()
    assert "If both are dates, the answer is yes" in backend.asked[-1].system
    n_asked = len(backend.asked)
    con.sql(f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{{T2}}})").fetchall()
    assert len(backend.asked) == n_asked + 1  # other rules are another question
    with pytest.raises(duckdb.Error, match="mine"):
        con.sql(f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{'rules': 'mien'}})").fetchall()


def test_the_schemas_of_a_question_are_knowledge(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.execute(
        "CREATE TABLE l AS FROM (VALUES ('visits', 'doctor', 'the provider of it', 'visits'),"
        " ('provider', 'npi', 'number', 'people who give care')) AS t(\"table\", \"column\","
        " description, table_description)"
    )
    con.execute(
        "CREATE TABLE r AS FROM (VALUES ('staff', 'id', 'who it is', 'staff')) AS"
        ' t("table", "column", description, table_description)'
    )
    con.execute("FROM meld.index('l'); FROM meld.index('r')").fetchall()
    detail = con.execute(
        "SELECT kcmf_schema_match_detail(l, r, {'tier': 't2', 'sources': ['dak']}) FROM l, r"
        " WHERE l.\"column\" = 'doctor'"
    ).fetchone()
    assert detail is not None
    assert detail[0]["knowledge"] == [{"source": "dak", "text": "provider: people who give care"}]


def test_a_prompt_that_is_too_long_is_asked_in_fewer_words(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    def script(prompt: Prompt) -> Completion:
        if len(prompt.system + prompt.question) > 1_600:
            return Completion(None, prompt_tokens=999, error="prompt_too_long: 999 tokens")
        return first_choice(prompt)

    backend.script = script
    long = "{'column': 'a', 'description': repeat('word ', 900)}"
    assert one(con, f"SELECT kcmf_schema_match({long}, {BIRTH}, {{{T2}}})") is True
    assert len(backend.asked) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("'sources': ['dk']", "dak"),
        ("'sources': []", "empty"),
        ("'sources': ['none+dak']", "joins 'none'"),
        ("'sources': ['eak:nowhere']", "nowhere"),
        ("'sources': ['eak']", "no knowledge base"),
        ("'sources': ['wikidata']", "remote"),
        ("'mode': 'chose'", "'choose' or 'generate'"),
        ("'demonstrations': -1", "from 0 on"),
        ("'self_indicator': 'x'", "true or false"),
        ("'rules': 'nope'", "nope"),
        ("'min_probability': 0.5", "min_probability"),
    ],
)
def test_bad_options_are_named(con: duckdb.DuckDBPyConnection, options: str, message: str) -> None:
    with pytest.raises(duckdb.Error, match=message):
        con.sql(f"SELECT kcmf_schema_match({DOB}, {BIRTH}, {{'tier': 't2', {options}}})").fetchall()


def test_entities_have_no_schema(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match="dak"):
        con.sql("SELECT kcmf_entity_match('a', 'b', {'sources': ['dak']})").fetchall()


def test_null_empty_and_many_rows(con: duckdb.DuckDBPyConnection, backend: ScriptedBackend) -> None:
    assert one(con, f"SELECT kcmf_schema_match(NULL, {DOB}, {{{T2}}})") is None
    assert (
        con.sql(f"SELECT kcmf_entity_match(x, x, {{{T2}}}) FROM range(0) AS t(x)").fetchall() == []
    )
    found = con.sql(
        f"SELECT kcmf_entity_match('a', x::VARCHAR, {{{T2}}}) FROM range(600) AS t(x)"
    ).fetchall()
    assert found == [(True,)] * 600
    assert len(backend.asked) == 600


def test_what_it_cost_is_counted(con: duckdb.DuckDBPyConnection, backend: ScriptedBackend) -> None:
    con.sql(f"SELECT kcmf_entity_match('a', 'b', {{{T2}}})").fetchall()
    prompts, tokens, tier2 = one(
        con, "SELECT engine_prompts, prompt_tokens, tier2 FROM meld.stats()"
    )
    assert (prompts, tokens, tier2) == (1, 10, 1)


def test_examples_stand_as_the_question_does(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    for name in ("l", "r"):
        con.execute(
            f"CREATE TABLE {name} AS SELECT '{name}' AS \"table\", 'c' || i AS \"column\","
            " 'about ' || i AS description FROM range(6) AS t(i)"
        )
        con.execute(f"FROM meld.index('{name}')").fetchall()
    con.sql(
        "SELECT meld_learn('schema_match', {'a': l, 'b': r}, l.\"column\" = r.\"column\")"
        " FROM l, r WHERE l.\"column\" < 'c4' AND r.\"column\" < 'c4'"
    ).fetchall()
    for a, b in (("l", "r"), ("r", "l")):
        backend.asked.clear()
        con.sql(
            f"SELECT kcmf_schema_match({a}, {b}, {{{T2}}}) FROM {a}, {b}"
            f" WHERE {a}.\"column\" = 'c5' AND {b}.\"column\" = 'c5'"
        ).fetchall()
        [prompt] = backend.asked
        assert prompt.turns
        for question, _ in prompt.turns:
            assert question.index(f'"name": "{a}-') < question.index(f'"name": "{b}-')


class Flaky:
    """A stand-in for the client of remote services: fails until it is told to work."""

    works = False
    asked: ClassVar[list[str]] = []

    def __init__(self, *given: object) -> None: ...

    def facts(self, service: str, keywords: Sequence[str]) -> dict[str, RemoteFacts]:
        self.asked.extend(keywords)
        fact = RemoteFacts(("One of a is b.",), None)
        if not self.works:
            fact = RemoteFacts((), "timeout", passing=True)
        return dict.fromkeys(keywords, fact)


def test_an_answer_without_the_service_asked_for_is_given_but_not_kept(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meld_duckdb.retrieval.remote.RemoteKnowledge", Flaky)
    asked = "{'tier': 't2', 'sources': ['wikidata']}"
    sql = f"SELECT kcmf_schema_match_detail({DOB}, {PRICE}, {asked})"
    first = one(con, sql)
    assert first["answer"] is True
    assert first["knowledge"] == []
    assert {e["text"] for e in first["evidence"] if e["kind"] == "unavailable"} == {
        "wikidata: timeout"
    }
    monkeypatch.setattr(Flaky, "works", True)
    second = one(con, sql)
    assert second["knowledge"] == [{"source": "wikidata", "text": "One of a is b."}]
    # Words of the names are sent, each alone; nothing else of a record is.
    assert set(Flaky.asked) <= {"person", "birth", "datetime", "orders", "price", "cholera"}
    assert one(con, sql)["knowledge"] == second["knowledge"]


def add_base(name: str, facts: list[tuple[str, str, str]], *, replace_all: bool = False) -> None:
    session = LocalService(resolve()[0]).session
    rows = [(term, relation, other, None) for term, relation, other in facts]
    about = About("a test", "nowhere", hierarchy=("includes",))
    Knowing(session).add(name, rows, about, replace_all=replace_all)
