"""Labels: ``meld_learn``, and which to give next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from meld_duckdb.arrow import as_array, python_values
from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.handlers.base import (
    HandlerBase,
    expect,
    given_options,
    table_records,
    whole_number,
)
from meld_duckdb.planner.label_next import label_next
from meld_duckdb.planner.questions import label_query
from meld_duckdb.records import value_text
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.udfs import SqlFunction

_TRUE_WORDS = frozenset({"true", "1", "yes", "t"})
_FALSE_WORDS = frozenset({"false", "0", "no", "f"})


class LabelHandlers(HandlerBase):
    """Handlers of labels."""

    def learn(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_learn(task, query, answer)``: true per stored label, NULL where a part is NULL."""
        expect(function, columns, 3)
        rows = list(zip(*(python_values(as_array(c)) for c in columns), strict=True))
        labelled: dict[str, list[tuple[Query, str]]] = {}
        stored: list[bool | None] = []
        for task, query, answer in rows:
            if task is None or query is None or (answer is None and task not in _MAY_BE_BLANK):
                stored.append(None)
                continue
            found = list(_labels(str(task), query, answer))
            labelled.setdefault(str(task), []).extend(found)
            stored.append(True if found else None)
        for task, labels in labelled.items():
            if labels:
                self.service.session.learn(task, labels)
        return pa.array(stored, pa.bool_())

    def label_next(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.label_next(task, t)``: questions that are worth a label."""
        expect(function, columns, 4)
        task, left, right, options = (python_values(as_array(c))[0] for c in columns)
        given = given_options(options)
        found = label_next(
            self.service.session,
            str(task),
            table_records(left),
            table_records(right),
            whole_number(given, "n", 20),
            given.get("same") is True,
        )
        items = [
            {
                "l": question.left + 1,
                "r": None if question.right is None else question.right + 1,
                "column": question.column,
                "probability": question.probability,
            }
            for question in found
        ]
        return pa.array([items], _QUESTION)


_QUESTION = pa.list_(
    pa.struct(
        [
            ("l", pa.int64()),
            ("r", pa.int64()),
            ("column", pa.string()),
            ("probability", pa.float64()),
        ]
    )
)
_MAY_BE_BLANK = frozenset({"repair", "extract_attribute", "link_entity"})
"""Tasks with the answer that there is nothing (no value, no candidate); in SQL it is NULL."""


def _labels(task: str, query: object, answer: object) -> Iterator[tuple[Query, str]]:
    """Check one row of ``meld_learn``; nothing where a part of the query is NULL.

    A repair may be given as a whole row: every column of it that the row asked about has is a
    label.
    """
    if task not in TASKS:
        what, hint = unknown_name("task", task, TASKS)
        raise InputError(what, hint=hint)
    fields = _parts(task, query)
    if task == "repair" and isinstance(answer, Mapping) and "column" not in fields:
        for column, value in answer.items():
            built = label_query(task, {**fields, "column": column})
            if isinstance(built, Query):
                yield built, _label_answer(task, value)
        return
    built = label_query(task, fields)
    if isinstance(built, Query):
        yield built, _label_answer(task, answer)
    elif built is not None:
        raise InputError(f"the query of a {task} label cannot be read: {built}")


def _parts(task: str, query: object) -> Mapping[str, object]:
    fields = query
    if isinstance(query, str):
        try:
            fields = json.loads(query)
        except ValueError:
            fields = None
    if not isinstance(fields, Mapping):
        raise InputError(
            f"the query of a {task} label is {str(query)[:200]!r}, expected a STRUCT",
            hint="write it as {'name of the argument': ..., ...}",
        )
    return fields


def _label_answer(task: str, answer: object) -> str:
    labels = TASKS[task].labels
    text = value_text(answer) or ""
    if labels is None:
        return text
    word = text.lower()
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
