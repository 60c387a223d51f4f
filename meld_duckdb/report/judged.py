"""Hold what tier 0 says against learned labels it has not seen, at every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meld_duckdb.evaluate.metrics import Measure, correction_measures, interval
from meld_duckdb.records import Record
from meld_duckdb.report.asked import read_records
from meld_duckdb.report.wanted import Call
from meld_duckdb.retrieval.catalogue import table_digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Demonstration
from meld_duckdb.train.expert import LEAST_LABELS, held_out_tier0
from meld_duckdb.train.folds import draw_folds, groups_of

if TYPE_CHECKING:
    import duckdb
    import numpy.typing as npt

    from meld_duckdb.planner.session import Session
    from meld_duckdb.planner.tables import Context

_FOLDS = 5
_SEED = 0
_THRESHOLDS = tuple(round(i * 0.025, 3) for i in range(41))
_NEVER = -1.0
"""Probability of what is not said at any threshold."""


@dataclass(frozen=True, slots=True)
class Point:
    """What holds at one threshold: the metrics, and the 95 % interval of each."""

    threshold: float
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Judged:
    """Labels of the tables of a call, and how tier 0 does on them.

    Attributes:
        n: Labels.
        n_wanted: Labels with something to find: matches, errors, cells that should change.
        points: One per threshold, ascending; none where the labels are too few.
        at_cut: At the threshold of the call.
    """

    n: int
    n_wanted: int
    points: list[Point]
    at_cut: Point | None = None


def judge(
    session: Session, con: duckdb.DuckDBPyConnection, call: Call, cut: float | None
) -> Judged | None:
    """Judge tier 0 by the labels whose records stand in the tables of a call.

    Each label is judged by a fit to the labels of other records.

    Returns:
        None where there is no such label.
    """
    task = call.kind.task
    known = _known(session, task)
    if not known:
        return None
    records = {table: read_records(con, table) for table in dict.fromkeys(call.tables)}
    digests = {table: table_digest(rows) for table, rows in records.items()}
    homes = {digests[t]: {r.digest for r in rows} for t, rows in records.items()}
    sides = [digests[table] for table in call.tables]
    if call.kind.function == "dedupe":
        sides *= 2
    labels, contexts = _own(known, sides, homes)
    if not labels:
        return None
    wanted = np.array([_is_wanted(task, label) for label in labels])
    if len(labels) < LEAST_LABELS or not wanted.any():
        return Judged(len(labels), int(wanted.sum()), [])
    groups = groups_of([label.query for label in labels])
    binary = TASKS[task].labels is not None
    answers = [label.answer for label in labels] if binary else None
    folds = draw_folds(groups, answers, _FOLDS, _SEED)
    with session.tables.lend({digests[t]: rows for t, rows in records.items()}):
        opinions = held_out_tier0(session, task, labels, contexts, folds)
    said, right = _said(task, labels, opinions)

    def at(threshold: float) -> Point:
        counted = said >= threshold
        measures = correction_measures(right & counted, counted, wanted, groups.tolist())
        return _point(threshold, measures)

    points = [at(threshold) for threshold in _THRESHOLDS]
    return Judged(len(labels), int(wanted.sum()), points, None if cut is None else at(cut))


def _known(session: Session, task: str) -> list[Demonstration]:
    """All labels of a task; what a cell should hold also tells whether it is wrong."""
    labels = list(session.demonstrator.labelled(task))
    if task != "detect_error":
        return labels
    names = TASKS[task].labels or ("", "")
    given = {label.query.digest for label in labels}
    for label in session.demonstrator.labelled("repair"):
        if label.query.digest not in given:
            wrong = _is_wanted("repair", label)
            labels.append(Demonstration(label.query, names[0] if wrong else names[1]))
    return labels


def _own(
    labels: Sequence[Demonstration], sides: Sequence[str], homes: dict[str, set[str]]
) -> tuple[list[Demonstration], list[Context]]:
    """The labels whose records stand in some tables, and the tables of each."""
    orders = dict.fromkeys((tuple(sides), tuple(reversed(sides))))
    found: list[tuple[Demonstration, Context]] = []
    for label in labels:
        records: tuple[Record, ...] = label.query.records
        context = next(
            (
                order
                for order in orders
                if len(order) == len(records)
                and all(r.digest in homes[t] for r, t in zip(records, order, strict=True))
            ),
            None,
        )
        if context is not None:
            found.append((label, context))
    return [label for label, _ in found], [context for _, context in found]


def _current(label: Demonstration) -> str:
    return label.query.records[0].fields.get(label.query.target or "") or ""


def _is_wanted(task: str, label: Demonstration) -> bool:
    """Whether a label is something to find."""
    names = TASKS[task].labels
    if names is not None:
        return label.answer == names[0]
    return task != "repair" or label.answer != _current(label)


def _said(
    task: str, labels: Sequence[Demonstration], opinions: Sequence[Answer | None]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """With which probability something is found for each label, and whether it is right."""
    said = np.full(len(labels), _NEVER)
    right = np.zeros(len(labels), dtype=bool)
    names = TASKS[task].labels
    for i, (label, opinion) in enumerate(zip(labels, opinions, strict=True)):
        if opinion is None or opinion.error is not None or opinion.probability is None:
            continue
        value = opinion.value or ""
        if names is not None:
            right[i] = label.answer == names[0]
        elif value == (_current(label) if task == "repair" else ""):
            continue
        else:
            right[i] = value == label.answer
        said[i] = opinion.probability
    return said, right


def _point(threshold: float, measures: Sequence[Measure]) -> Point:
    return Point(
        threshold,
        {m.name: m.value for m in measures},
        {m.name: interval(m, _SEED) for m in measures},
    )
