"""Labels as people give them, in SQL or in files: a query by its parts, and its answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.planner.questions import given_parts, label_query
from meld_duckdb.records import value_text
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query

MAY_BE_BLANK = frozenset({"repair", "extract_attribute", "link_entity"})
"""Tasks with the answer that there is nothing (no value, no candidate); it is given as NULL."""

_TRUE_WORDS = frozenset({"true", "1", "yes", "t"})
_FALSE_WORDS = frozenset({"false", "0", "no", "f"})


def read_labels(task: str, query: object, answer: object) -> Iterator[tuple[Query, str]]:
    """Read one label: its question and its answer as the task words it.

    A repair may be given as a whole row: every column of it that the row asked about has is a
    label. Nothing comes of a query of which a part is NULL.

    Args:
        task: Name of the task.
        query: The parts of the question by name, or JSON text of them.
        answer: The answer; of a task with two answers also true, false, 1, 0, yes, no.

    Raises:
        InputError: The task is unknown, a part is missing or cannot be read, or it is no answer.
    """
    if task not in TASKS:
        what, hint = unknown_name("task", task, TASKS)
        raise InputError(what, hint=hint)
    fields = given_parts(f"query of a {task} label", query)
    if task == "repair" and isinstance(answer, Mapping) and "column" not in fields:
        for column, value in answer.items():
            built = label_query(task, {**fields, "column": column})
            if isinstance(built, Query):
                yield built, label_answer(task, value)
        return
    built = label_query(task, fields)
    if isinstance(built, Query):
        yield built, label_answer(task, answer)
    elif built is not None:
        raise InputError(f"the query of a {task} label cannot be read: {built}")


def label_answer(task: str, answer: object) -> str:
    """The answer of a label as the task words it; the empty text for NULL.

    Raises:
        InputError: A task with two answers has another one.
    """
    labels = TASKS[task].labels
    text = value_text(answer) or ""
    if labels is None:
        return text
    word = text.strip().lower()
    if word in labels:
        return word
    if word in _TRUE_WORDS:
        return labels[0]
    if word in _FALSE_WORDS:
        return labels[1]
    raise InputError(
        f"the answer of a {task} label is {text!r}, expected true, false, {labels[0]!r} or "
        f"{labels[1]!r}"
    )
