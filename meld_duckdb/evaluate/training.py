"""Train the workspace of an exam; no question that is graded enters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate.case import Exam
from meld_duckdb.planner.questions import build_query
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.pipeline import Pipeline, TrainSettings
from meld_duckdb.train.stages import Finished

Learn = Callable[[duckdb.DuckDBPyConnection, Path, Exam], None]


def train(
    connection: duckdb.DuckDBPyConnection,
    workspace: Path,
    task: str,
    exam: Exam,
    notice: Callable[[str], None],
) -> list[str]:
    """Run the retrieval stages on a workspace whose labels are taught.

    Returns:
        What came of it, a line per stage.

    Raises:
        InputError: The training of this task is not evaluated.
    """
    if exam.held_out is None:
        raise InputError(
            f"meld eval does not train for the task {task!r}", hint="leave out --train"
        )
    asked = connection.execute(exam.held_out).fetchall()
    built = [build_query(task, row) for row in asked]
    held_out = hold_out(query for query in built if isinstance(query, Query))
    settings, _ = resolve({"workspace": workspace, "progress": False})
    session = LocalService(settings).session
    finished = Pipeline(session, TrainSettings(held_out=held_out), notice).run((task,))
    return [_line(stage) for stage in finished]


def _line(stage: Finished) -> str:
    shown = ", ".join(f"{name} {value}" for name, value in stage.metrics.items())
    return f"{stage.name} ({stage.seconds:.0f} s): {shown}"
