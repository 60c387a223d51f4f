"""What a model says becomes an answer of the domain, or one short text, or a reason; never more."""

from __future__ import annotations

import ast
from pathlib import Path

import duckdb
import pytest

from meld_duckdb.kcmf.prompts import read_answer, read_keywords
from meld_duckdb.records import make_record
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Completion, Prompt, Query
from meld_duckdb.tasks.pairs import option_pairs
from tests.scripted import ScriptedBackend
from tests.security.attacks import ATTACKS, question
from tests.security.calls import CALLS, DOMAINS, GENERATES, ask, fill

SAID = {
    **{name: text for name, text in ATTACKS.items() if name != "surrogates"},  # see test_texts
    "a letter beyond": "Z",
    "two letters": "AB",
    "yes and more": "yes; DROP TABLE t",
    "number": "1e999999",
    "call": "meld_learn('match', 'x', true)",
    "path": "../../etc/passwd",
    "nothing": "",
    "null": "NULL",
}
MOST_CHARS = 200


@pytest.mark.parametrize("task", CALLS)
def test_a_model_that_says_anything_answers_nothing_else(
    task: str, con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, tmp_path: Path
) -> None:
    def script(prompt: Prompt) -> Completion:
        text = said[len(backend.asked) % len(said)]
        shares = tuple(1 / len(prompt.choices) for _ in prompt.choices)
        return Completion(text, shares, 0.9, prompt_tokens=3)

    said = list(SAID.values())
    backend.script, backend.batch_size = script, 1
    fill(con, [f"row {i}" for i in range(len(said))])
    before = con.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
    answers = ask(con, task, "'tier': 't2'")
    assert len(backend.asked) >= len(said)
    if task in DOMAINS:
        assert {detail["answer"] for detail in answers} <= DOMAINS[task]
    else:
        for detail in answers:
            answer = detail["answer"]
            assert answer is None or isinstance(answer, str), answer
            assert answer is None or len(answer) <= MOST_CHARS, answer
            assert answer is None or len(answer.splitlines()) == 1, answer
    assert con.execute("SELECT count(*) FROM t").fetchone() == (len(said),)
    assert con.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall() == before
    assert not Path("/tmp/owned").exists()


@pytest.mark.parametrize("task", ASKED)
def test_no_text_but_a_choice_is_an_answer_where_choices_are_given(task: str) -> None:
    query, shown = question(task, "value", "x")
    choices = ASKED[task].prompt(query, shown, 1_000).choices
    assert choices
    for text in SAID.values():
        if text in choices:
            continue
        shares = tuple(1 / len(choices) for _ in choices)
        found = ASKED[task].parse(query, Completion(text, shares, 0.9))
        assert found.value is None and found.error is not None, text


@pytest.mark.parametrize("task", sorted(GENERATES))
def test_what_is_written_is_one_short_line_or_refused(task: str) -> None:
    query = Query((make_record({"text": "sony", "city": "rome"}),), "city")
    for text in SAID.values():
        found = ASKED[task].parse(query, Completion(text, probability=0.5))
        assert (found.value is None) == (found.error is not None), text
        if found.value is not None:
            assert len(found.value) <= MOST_CHARS and len(found.value.splitlines()) <= 1, text


def test_reasoning_counts_by_its_last_line_only() -> None:
    for text in SAID.values():
        assert read_answer(text) is None, text
        assert all(len(word) <= 60 and "\n" not in word for word in read_keywords(text, 8)), text
    assert read_answer("1. yes, they match\nThe final answer is: no.") == "no"


def test_a_cell_that_is_nested_without_end_is_one_pair_like_any_other() -> None:
    for name in ("nested_json", "deep_object"):
        [(left, right)] = option_pairs(
            "match", Query((make_record({"a": ATTACKS[name]}), make_record({"a": "x"})))
        )
        assert {left[:3], right[:3]} == {"a: "} and max(len(left), len(right)) <= 600


def test_the_package_evaluates_no_literal_of_python() -> None:
    """Not even the tame way: what a model or a file says is parsed as JSON, TOML or not at all."""
    for path in (Path(__file__).parents[2] / "meld_duckdb").rglob("*.py"):
        named = {
            n.attr
            for n in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(n, ast.Attribute)
        }
        assert "literal_eval" not in named, path
