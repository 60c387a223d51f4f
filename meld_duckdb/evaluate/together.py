"""Evaluate data sets with one workspace: labels of all are taught, then it is trained once.

Experts of one data set may then answer questions of another, as in the paper's setting. The
tables of every data set are indexed under its own name; the test questions of all are held out.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from meld_duckdb.evaluate.case import TIER, Case, Exam, Reply
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import interval
from meld_duckdb.evaluate.run import Result, Value, data_digest, load
from meld_duckdb.planner.questions import build_query
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import HeldOut, hold_out
from meld_duckdb.train.pipeline import Pipeline, TrainSettings

Notice = Callable[[str], None]

_INDEXED = re.compile(r"meld\.index\('([^']+)'")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and how it is asked.

    Attributes:
        stages: Stages of the training; none for labels alone.
        training: Its settings.
        asked: Settings of the connection that asks, for example ``{"experts": 1}``.
        tier: Option ``tier`` of every call.
    """

    stages: Sequence[str]
    training: TrainSettings
    asked: Mapping[str, object]
    tier: str


def evaluate_together(
    cases: Sequence[tuple[Case, DataSet]],
    plan: Plan,
    seed: int,
    notice: Notice,
    keep: Path | None = None,
) -> Iterator[Result]:
    """Teach all, train once, ask each; a result per case.

    Args:
        cases: Cases with their data sets.
        plan: What is trained and asked.
        seed: Of the bootstrap.
        notice: Called with a line now and then.
        keep: Directory of the workspace, to go on with; None for one that is gone afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="meld-eval-") as folder:
        workspace = keep or Path(folder) / "workspace"
        held_out: list[Query] = []
        for case, _ in cases:
            notice(f"teaching {case.task} on {case.dataset}: {case.labels} labels")
            with fresh_connection(workspace) as (connection, _):
                held_out += _teach(connection, case)
        lines = _train(workspace, plan, hold_out(held_out), notice)
        for case, data in cases:
            started = time.perf_counter()
            with fresh_connection(workspace, **plan.asked) as (connection, _):
                load(connection, case.exam)
                replies = _ask(connection, case.exam, plan.tier)
            values = [Value(m.name, m.value, *interval(m, seed)) for m in case.gold.grade(replies)]
            yield Result(
                case.task,
                case.dataset,
                case.labels,
                case.gold.n,
                case.gold.positives,
                tuple(values),
                tiers=dict(Counter(r.tier for r in replies if r.tier is not None)),
                failures=sum(r.error is not None for r in replies),
                seconds=time.perf_counter() - started,
                notes=(*case.notes, *lines),
                digest=data_digest(data),
            )


def _teach(connection: duckdb.DuckDBPyConnection, case: Case) -> list[Query]:
    load(connection, case.exam)
    prefix = re.sub(r"\W", "_", f"{case.task}_{case.dataset}")
    for statement in case.exam.setup:
        for table in _INDEXED.findall(statement):
            connection.execute(f'CREATE VIEW "{prefix}_{table}" AS FROM "{table}"')
        named = _INDEXED.sub(rf"meld.index('{prefix}_\1'", statement)
        connection.execute(named).fetchall()
    if case.exam.held_out is None:
        return []
    asked = connection.execute(case.exam.held_out).fetchall()
    built = (build_query(case.task, row) for row in asked)
    return [query for query in built if isinstance(query, Query)]


def _train(workspace: Path, plan: Plan, held_out: HeldOut, notice: Notice) -> list[str]:
    if not plan.stages:
        return []
    settings, _ = resolve({"workspace": workspace, "progress": False})
    session = LocalService(settings).session
    training = replace(plan.training, held_out=held_out)
    done = Pipeline(session, training, notice).run(stages=plan.stages)
    return [
        f"{stage.name}: {', '.join(f'{k} {v}' for k, v in stage.metrics.items())}" for stage in done
    ]


def _ask(connection: duckdb.DuckDBPyConnection, exam: Exam, tier: str) -> list[Reply]:
    rows = connection.execute(exam.ask.replace(TIER, f"'{tier}'")).fetchall()
    replies = [Reply()] * exam.n
    for n, answer, probability, ranking, settled, error in rows:
        replies[n] = Reply(answer, probability, tuple(ranking or ()), settled, error)
    return replies
