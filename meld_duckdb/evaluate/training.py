"""Train the workspace of an exam; no question that is graded enters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate.case import Exam
from meld_duckdb.planner.questions import build_query
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.starter import NONE
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.cross_encoder import T1Settings
from meld_duckdb.train.encoder import EncoderSettings
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.lora import LoraSettings
from meld_duckdb.train.mixture_settings import MoeSettings
from meld_duckdb.train.pipeline import RETRIEVAL, Pipeline, TrainSettings
from meld_duckdb.train.pseudo_labels import AnnotateSettings
from meld_duckdb.train.router import RouterSettings
from meld_duckdb.train.stages import Finished

Learn = Callable[[duckdb.DuckDBPyConnection, Path, Exam], None]


@dataclass(frozen=True, slots=True)
class Training:
    """Stages of ``meld train`` that are run after the labels are taught, and their settings.

    Attributes:
        stages: Names of the stages.
        settings: Of the stages.
        starter: The setting ``starter`` while they run; see `fresh.fresh_connection`.
    """

    stages: tuple[str, ...] = RETRIEVAL
    settings: TrainSettings = field(default_factory=TrainSettings)
    starter: str = NONE


def seeded(seed: int) -> TrainSettings:
    """Settings of a training whose draws all begin with one seed."""
    return TrainSettings(
        annotate=AnnotateSettings(seed=seed),
        encoder=EncoderSettings(seed=seed),
        expert=T1Settings(seed=seed),
        mixture=MoeSettings(
            lora=LoraSettings(seed=seed), router=RouterSettings(seed=seed), seed=seed
        ),
        seed=seed,
    )


def train(
    connection: duckdb.DuckDBPyConnection,
    workspace: Path,
    task: str,
    exam: Exam,
    notice: Callable[[str], None],
    training: Training | None = None,
    settings: Mapping[str, object] | None = None,
) -> list[str]:
    """Run stages of the training on a workspace whose labels are taught; see `run_training`.

    Returns:
        What came of it, a line per stage.

    Raises:
        InputError: The training of this task is not evaluated.
    """
    asked = questions(connection, task, exam, training)
    return run_training(workspace, asked, notice, training, (task,), settings)


def questions(
    connection: duckdb.DuckDBPyConnection, task: str, exam: Exam, training: Training | None = None
) -> list[Query]:
    """The questions of an exam, which training must not touch.

    Raises:
        InputError: The exam does not tell them, and the training reads more than labels.
    """
    if exam.held_out is None:
        if set((training or Training()).stages) & set(RETRIEVAL):
            raise InputError(
                f"meld eval does not run the stages of retrieval for the task {task!r}",
                hint="leave out --train, or give --train experts",
            )
        return []
    built = (build_query(task, row) for row in connection.execute(exam.held_out).fetchall())
    return [query for query in built if isinstance(query, Query)]


def run_training(
    workspace: Path,
    held_out: Sequence[Query],
    notice: Callable[[str], None],
    training: Training | None = None,
    tasks: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
) -> list[str]:
    """Train a workspace.

    Args:
        workspace: Its directory.
        held_out: Questions that no stage may touch.
        notice: Called with a line now and then.
        training: What is trained; retrieval by default.
        tasks: Tasks whose labels are used; all that have labels if empty.
        settings: Of the connection that will ask: a gate holds for the mixture of experts that it
            was measured with. The starter is that of ``training``.

    Returns:
        What came of it, a line per stage.
    """
    training = training or Training()
    own = {"workspace": workspace, "progress": False, "starter": training.starter}
    resolved, _ = resolve({**(settings or {}), **own})
    session = LocalService(resolved).session
    given = replace(training.settings, held_out=hold_out(held_out))
    finished = Pipeline(session, given, notice).run(tasks, training.stages)
    return [_line(stage) for stage in finished]


def _line(stage: Finished) -> str:
    shown = ", ".join(f"{name} {value}" for name, value in stage.metrics.items())
    return f"{stage.name} ({stage.seconds:.0f} s): {shown}"
