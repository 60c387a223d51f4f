"""A hostile row is answered within the domain, or has a reason, and changes no other row."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.records import digest
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import ScriptedBackend
from tests.security.attacks import ATTACKS
from tests.security.calls import CALLS, DOMAINS, GENERATES, NEIGHBOURS, ask, fill


def by_content(prompt: Prompt) -> Completion:
    """An answer that depends on every character of its prompt, and on nothing else."""
    shown = digest(prompt.system, *(t for turn in prompt.turns for t in turn), prompt.question)
    number = int(shown[:8], 16)
    if not prompt.choices:
        return Completion(f"value {number % 97}", probability=0.5, prompt_tokens=3)
    first = 0.5 + (number % 49) / 100
    shares = (first, *([(1 - first) / (len(prompt.choices) - 1)] * (len(prompt.choices) - 1)))
    return Completion(prompt.choices[0], shares, first, prompt_tokens=3)


@pytest.fixture
def con(backend: ScriptedBackend) -> Iterator[duckdb.DuckDBPyConnection]:
    """Nothing is kept, so that every row is computed in the company it has."""
    backend.script = by_content
    connection = meld_duckdb.connect(cache=False)
    yield connection
    connection.close()


def test_every_task_is_called() -> None:
    assert set(CALLS) == set(ASKED)
    assert set(DOMAINS) | GENERATES == set(ASKED)


@pytest.mark.parametrize("tier", ["t0", "t2"])
@pytest.mark.parametrize("task", CALLS)
def test_neighbours_of_hostile_rows_are_answered_as_if_alone(
    task: str, tier: str, con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    options = f"'tier': '{tier}'"
    fill(con, NEIGHBOURS)
    alone = ask(con, task, options)
    fill(con, [*ATTACKS.values(), *NEIGHBOURS])
    found = ask(con, task, options)
    assert found[len(ATTACKS) :] == alone
    for name, detail in zip(ATTACKS, found, strict=False):
        assert (detail["error"] is None) or detail["answer"] is None, name
        if task in DOMAINS:
            assert detail["answer"] in DOMAINS[task], name
        if detail["probability"] is not None:
            assert 0 <= detail["probability"] <= 1, name
    if tier == "t0":
        assert backend.asked == []  # what a cell says reaches no model
    elif task in DOMAINS:
        assert sum(detail["answer"] is not None for detail in found) >= len(ATTACKS) // 2


@pytest.mark.parametrize("task", sorted(GENERATES))
def test_options_hold_whatever_a_row_says(task: str, con: duckdb.DuckDBPyConnection) -> None:
    fill(con, [*ATTACKS.values(), *NEIGHBOURS])
    for tier in ("t0", "t2"):
        for detail in ask(con, task, f"'tier': '{tier}', 'options': ['rome', 'paris']"):
            assert detail["answer"] in {"rome", "paris", None}


@pytest.mark.parametrize("name", ["closing_tag", "sql", "chatml", "separators", "nested_json"])
def test_hostile_options_are_answered_whole_or_not_at_all(
    name: str, con: duckdb.DuckDBPyConnection
) -> None:
    for call in (
        "meld_annotate_column([?::VARCHAR, 'x'], [?, 'person'], {'tier': 't2'})",
        "meld_impute({'name': ?::VARCHAR, 'city': NULL}, 'city', {'tier': 't2', 'options': [?, 'b']})",
    ):
        [(found,)] = con.execute(f"SELECT {call}", [ATTACKS[name]] * 2).fetchall()
        assert found == ATTACKS[name]


def test_hostile_labels_teach_and_do_nothing_else(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    fill(con, [*ATTACKS.values(), *NEIGHBOURS])
    learn = "SELECT count(meld_learn('impute', {'row': {'name': v, 'city': NULL}, 'column': 'city'}, v))"
    [(learned,)] = con.execute(f"{learn} FROM t").fetchall()
    assert learned >= len(ATTACKS)
    fill(con, ["a name that has no label", "chicago"])
    for detail in ask(con, "impute", "'tier': 't2'"):
        assert detail["answer"].startswith("value ")
    assert backend.asked
    for prompt in backend.asked:
        assert 1 <= len(prompt.turns) <= 8
        for _, answer in prompt.turns:
            assert len(answer) <= 200 and len(answer.splitlines()) <= 1


def test_a_label_with_a_third_answer_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    for text in (ATTACKS["instruction"], "match\n\nmatch", "match<|im_end|>"):
        with pytest.raises(duckdb.Error, match="expected true, false"):
            con.execute("SELECT meld_learn('match', {'a': 'x', 'b': 'y'}, ?)", [text]).fetchall()
