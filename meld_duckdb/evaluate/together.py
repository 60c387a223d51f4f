"""Evaluate data sets with one workspace: labels of all are taught, then it is trained once.

Experts of one data set may then answer questions of another, as in the paper's setting. The
tables of every data set are indexed under its own name; the test questions of all are held out.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from meld_duckdb.errors import MeldError
from meld_duckdb.evaluate.asking import load, replies_of
from meld_duckdb.evaluate.case import Case
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.result import Result, failed, graded
from meld_duckdb.evaluate.training import Training, questions, run_training
from meld_duckdb.tasks.base import Query

_INDEXED = re.compile(r"meld\.index\('([^']+)'")


def evaluate_together(
    cases: Sequence[tuple[Case, DataSet]],
    seed: int,
    tier: str,
    notice: Callable[[str], None],
    training: Training | None = None,
    asked: Mapping[str, object] | None = None,
    keep: Path | None = None,
) -> Iterator[Result]:
    """Teach all, train once, ask each; a result per case.

    Args:
        cases: Cases with their data sets.
        seed: Of the bootstrap.
        tier: Option ``tier`` of every call.
        notice: Called with a line now and then.
        training: What is trained; None for labels alone.
        asked: Settings of training and of the connection that asks, for example
            ``{"experts": 1}``.
        keep: Directory of the workspace, to go on with; None for one that is gone afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="meld-eval-") as folder:
        workspace = keep or Path(folder) / "workspace"
        held_out: list[Query] = []
        for case, _ in cases:
            notice(f"teaching {case.task} on {case.dataset}: {case.labels} labels")
            with fresh_connection(workspace) as (connection, _):
                held_out += _teach(connection, case, training)
        lines: list[str] = []
        if training is not None:
            lines = run_training(workspace, held_out, notice, training, settings=asked)
        for case, data in cases:
            started = time.perf_counter()
            try:
                with fresh_connection(workspace, **(asked or {})) as (connection, _):
                    load(connection, case.exam)
                    replies = replies_of(connection, case.exam, tier)
            except (duckdb.Error, MeldError) as error:
                yield failed(case, data, time.perf_counter() - started, error)
                continue
            yield graded(case, data, replies, seed, time.perf_counter() - started, lines)


def _teach(
    connection: duckdb.DuckDBPyConnection, case: Case, training: Training | None
) -> list[Query]:
    load(connection, case.exam)
    prefix = re.sub(r"\W", "_", f"{case.task}_{case.dataset}")
    for statement in case.exam.setup:
        for table in _INDEXED.findall(statement):
            connection.execute(f'CREATE VIEW "{prefix}_{table}" AS FROM "{table}"')
        named = _INDEXED.sub(rf"meld.index('{prefix}_\1'", statement)
        connection.execute(named).fetchall()
    if training is None:
        return []
    return questions(connection, case.task, case.exam, training)
