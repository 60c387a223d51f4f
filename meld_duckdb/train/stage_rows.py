"""The rows that the stages of a run read: labels of the workspace, and what stages made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meld_duckdb.errors import TrainingError, unknown_name
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.train.held_out import HeldOut
from meld_duckdb.train.rows import TrainingRow, read_rows

MADE = ("match", "transformed")
"""Files of rows that are no labels: ``<workspace>/train/rows-<name>.jsonl``."""


def labelled_rows(
    session: Session, tasks: Sequence[str], held_out: HeldOut
) -> dict[str, list[TrainingRow]]:
    """Labels that are not held out, of each of some tasks; of all that have any if none is named.

    Raises:
        TrainingError: There is none, or a name is unknown.
    """
    for task in tasks:
        if task not in TASKS:
            what, hint = unknown_name("task", task, TASKS)
            raise TrainingError(what, hint=hint)
    found: dict[str, list[TrainingRow]] = {}
    for task in tasks or TASKS:
        rows = [row for row in _labels(session, task) if not held_out.covers(row.query)]
        if rows:
            found[task] = [replace(row, source=row.digest) for row in rows]
    if not found:
        named = f" of {', '.join(tasks)}" if tasks else ""
        raise TrainingError(
            f"the workspace has no label{named} to learn from",
            hint="give some: meld train labels.csv --task match; or meld_learn(task, ...)",
        )
    return found


def rows_digest(rows: Sequence[TrainingRow]) -> str:
    """Identity of some rows, in any order."""
    return digest("rows", *sorted(row.digest for row in rows))


def made_rows(session: Session, held_out: HeldOut) -> list[TrainingRow]:
    """Rows of the files `MADE`, without those that are held out or were made of a row that is.

    The files may be of an earlier run, which held out less.
    """
    folder = session.workspace.path / "train"
    made = [row for name in MADE for row in read_rows(folder / f"rows-{name}.jsonl")]
    sources = [*made, *(row for task in TASKS for row in _labels(session, task))]
    shut = {row.digest for row in sources if held_out.covers(row.query)}
    return [row for row in made if row.digest not in shut and row.source not in shut]


def _labels(session: Session, task: str) -> list[TrainingRow]:
    return [TrainingRow(task, d.query, d.answer) for d in session.demonstrator.labelled(task)]
