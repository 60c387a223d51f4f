"""What is said of validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.train.judge_valid import judge_valid


def session(answers: dict[str, Answer]) -> Any:
    """Answers a question by the text of its first record."""

    def answer(
        task: object, queries: Sequence[Query], options: object
    ) -> tuple[list[Answer], None]:
        return [answers[q.records[0].text] for q in queries], None

    return SimpleNamespace(planner=SimpleNamespace(answer=answer))


def asked(text: str) -> Query:
    return Query((make_record({"text": text}),), "text")


def test_of_two_answers_the_first_is_looked_for() -> None:
    found = {
        "a": Answer("match", tier=0),
        "b": Answer("match", tier=1),
        "c": Answer("mismatch", tier=0),
    }
    rows = [(asked("a"), "match"), (asked("b"), "mismatch"), (asked("c"), "match")]
    assert judge_valid(session(found), "match", rows) == {
        "rows": 3, "of": 3, "precision": 0.5, "recall": 0.5, "F1": 0.5, "tier 0": 2, "tier 1": 1,
    }  # fmt: skip


def test_of_many_answers_those_that_are_right_are_counted() -> None:
    found = {
        "a": Answer("Rome", tier=0),
        "b": Answer(error="too_unsure: x"),
        "c": Answer("", tier=0),
    }
    rows = [(asked("a"), "Rome"), (asked("b"), "Oslo"), (asked("c"), "")]
    assert judge_valid(session(found), "repair", rows)["accuracy"] == 0.667
    some = judge_valid(session(found), "repair", rows, most=1)
    assert (some["rows"], some["of"]) == (1, 3)
