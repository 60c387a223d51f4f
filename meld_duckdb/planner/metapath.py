"""Meta-paths: what other tasks add to the records of a question before it is asked.

    records -> impute: missing fields -> extract_attribute: fields that only the other record has

A step only fills: a value that stands there is never changed, so a path ends when nothing is
added. The steps are answered by tier 0 and are kept only where it is sure. Which steps a task
takes was searched for in training (`train.metapath`).

Paper: MELD §4.2, meta-paths; a path of theirs for matching is BLK, DI, AVE, EM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from meld_duckdb.records import Record, is_key_column, is_missing, make_record
from meld_duckdb.tasks.base import Answer, Query

SURE = 0.8
"""Least probability of a value that is filled in."""

LONGEST = 4
"""Steps of a path, at most."""

Path = tuple[str, ...]
Ask = Callable[[str, Sequence[Query]], Sequence[Answer | None]]
"""Answers questions of a task by tier 0: one answer per question, in order."""

_Wanted = list[tuple[int, int, str, Query]]
"""Number of the query, number of the record, field, and the question that fills it."""


def augment(queries: Sequence[Query], path: Path, ask: Ask) -> list[Query]:
    """Complete the records of questions, step by step.

    Args:
        queries: Questions of one task.
        path: Names of `STEPS`, in order.
        ask: Answers the questions of the steps.

    Returns:
        The questions with completed records, in order; a target, options and candidates stay.

    Raises:
        KeyError: There is no such step.
    """
    found = list(queries)
    for name in path:
        wanted = STEPS[name](found)
        if not wanted:
            continue
        answers = ask(name, [query for *_, query in wanted])
        filled: dict[int, dict[int, dict[str, str]]] = {}
        for (i, j, column, _), answer in zip(wanted, answers, strict=True):
            if answer is not None and answer.value and (answer.probability or 0.0) >= SURE:
                filled.setdefault(i, {}).setdefault(j, {})[column] = answer.value
        for i, values in filled.items():
            found[i] = _filled(found[i], values)
    return found


def _filled(query: Query, values: Mapping[int, Mapping[str, str]]) -> Query:
    records = tuple(
        _with(record, values[j]) if j in values else record
        for j, record in enumerate(query.records)
    )
    return replace(query, records=records)


def _with(record: Record, values: Mapping[str, str]) -> Record:
    fields = dict(record.fields)
    for column, value in values.items():
        if is_missing(fields.get(column)):
            fields[column] = value
    return make_record(fields)


def _missing_fields(queries: Sequence[Query]) -> _Wanted:
    """Fields of a record that hold nothing, but for the one that is asked about."""
    return [
        (i, j, column, Query((record,), column))
        for i, query in enumerate(queries)
        for j, record in enumerate(query.records[:2])
        for column, value in record.fields.items()
        if is_missing(value) and column != query.target and not is_key_column(column)
    ]


def _fields_of_the_other(queries: Sequence[Query]) -> _Wanted:
    """Fields that only one of two records has, sought in the text of the other one."""
    wanted: _Wanted = []
    for i, query in enumerate(queries):
        if len(query.records) != 2 or query.domain is not None:
            continue
        for j, record in enumerate(query.records):
            text = " ".join(record.present.values())
            if not text:
                continue
            known = set(record.present)
            for column in query.records[1 - j].present:
                if column not in known and not is_key_column(column):
                    asked = Query((make_record({"text": text}),), column)
                    wanted.append((i, j, column, asked))
    return wanted


STEPS: Mapping[str, Callable[[Sequence[Query]], _Wanted]] = {
    "extract_attribute": _fields_of_the_other,
    "impute": _missing_fields,
}
"""What a step asks about, by the task that answers it."""
