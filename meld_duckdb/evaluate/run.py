"""Measure a case: the product gets the exam, its replies are graded apart from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import duckdb

from meld_duckdb.errors import InputError, MeldError
from meld_duckdb.evaluate.asking import load, replies_of
from meld_duckdb.evaluate.baselines import Encode
from meld_duckdb.evaluate.case import Case, Exam, Reply
from meld_duckdb.evaluate.cells import prepare_detect_error, prepare_impute, prepare_repair
from meld_duckdb.evaluate.choices import (
    prepare_annotate_column,
    prepare_extract_attribute,
    prepare_extract_relation,
)
from meld_duckdb.evaluate.entities import prepare_link_entity
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.labels import Request
from meld_duckdb.evaluate.layout import ALL_TASKS, KCMF, TASKS, DataSet, find_datasets
from meld_duckdb.evaluate.pairs import prepare_block, prepare_match
from meld_duckdb.evaluate.result import Result, failed, graded
from meld_duckdb.evaluate.schemas import prepare_schema_match
from meld_duckdb.evaluate.together import evaluate_together
from meld_duckdb.evaluate.training import Learn, Training, train
from meld_duckdb.planner.knowing import Knowing
from meld_duckdb.planner.load_known import load_known
from meld_duckdb.retrieval.known_bases import known_base
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve

_ENCODED: dict[str, Callable[..., list[Case]]] = {
    "annotate_column": prepare_annotate_column,
    "extract_relation": prepare_extract_relation,
    "schema_match": prepare_schema_match,
    "kcmf_schema_match": partial(prepare_schema_match, function="kcmf_schema_match"),
}
_PLAIN: dict[str, Callable[[DataSet, Request], list[Case]]] = {
    "block": prepare_block,
    "match": prepare_match,
    "kcmf_entity_match": partial(prepare_match, function="kcmf_entity_match"),
    "detect_error": prepare_detect_error,
    "repair": prepare_repair,
    "impute": prepare_impute,
    "link_entity": prepare_link_entity,
    "extract_attribute": prepare_extract_attribute,
}


def evaluate(
    task: str,
    root: Path,
    request: Request,
    *,
    tier: str,
    encode: Encode | None,
    notice: Callable[[str], None],
    training: Training | None = None,
    asked: Mapping[str, object] | None = None,
    together: bool = False,
    bases: Sequence[str] = (),
) -> Iterator[Result]:
    """Evaluate a task, or all, on every data set below a directory; a result per line.

    Args:
        task: One of `layout.TASKS` or `layout.KCMF`, or ``"all"`` of the former.
        root: A data set or a directory of them.
        request: Which labels and how many questions.
        tier: Option ``tier`` of every call.
        encode: Texts to vectors, for the baselines that use the encoder.
        notice: Called with one line when a case begins and ends.
        training: What is trained after the labels are taught; None for nothing.
        asked: Settings of training and of the connection that asks.
        together: Whether all data sets share one workspace, which is trained once.
        bases: Public knowledge bases that the workspaces have; not together.

    Raises:
        InputError: No data set serves the task, or one cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no directory", hint="give the data with --data DIR")
    datasets = [(t, d) for t in (*TASKS, *KCMF) for d in _found(root, t, task)]
    if not datasets:
        find_datasets(root, TASKS[0])
    prepared = ((c, data) for name, data in datasets for c in prepare(name, data, request, encode))
    if together:
        found = evaluate_together(list(prepared), request.seed, tier, notice, training, asked)
    else:
        found = (
            measure(case, data, request.seed, tier, notice, training, asked, bases)
            for case, data in prepared
        )
    for result in found:
        notice(f"  {result.task} on {result.dataset}: {_outcome(result)} in {result.seconds:.1f} s")
        yield result


def _found(root: Path, name: str, wanted: str) -> list[DataSet]:
    if wanted == name:
        return find_datasets(root, name)
    if wanted != ALL_TASKS or name in KCMF:
        return []
    try:
        return find_datasets(root, name)
    except InputError:
        return []


def prepare(task: str, data: DataSet, request: Request, encode: Encode | None) -> list[Case]:
    """Read a data set and split what may be seen from what grades it.

    Raises:
        InputError: A file is not in the layout of the data.
    """
    try:
        if task in _ENCODED:
            return partial(_ENCODED[task], encode=encode)(data, request)
        return _PLAIN[task](data, request)
    except KeyError as error:
        raise InputError(
            f"{data.folder}: there is no column or row {error}",
            hint="see docs/evaluation.md for the layout",
        ) from error


def _outcome(result: Result) -> str:
    if result.error is not None:
        return f"not possible: {result.error}"
    return f"{result.values[0].metric} {result.values[0].value:.3f}"


def measure(
    case: Case,
    data: DataSet,
    seed: int,
    tier: str,
    notice: Callable[[str], None] = lambda _: None,
    training: Training | None = None,
    asked: Mapping[str, object] | None = None,
    bases: Sequence[str] = (),
) -> Result:
    """Ask the product in a workspace of its own, then grade its replies and the baselines'."""
    learned: list[str] = []

    def learn(connection: duckdb.DuckDBPyConnection, workspace: Path, exam: Exam) -> None:
        learned.extend(train(connection, workspace, case.task, exam, notice, training, asked))

    notice(f"{case.task} on {case.dataset}: {case.labels} labels, {case.exam.n} questions")
    started = time.perf_counter()
    try:
        replies = ask(case.exam, tier, None if training is None else learn, asked, bases)
    except (duckdb.Error, MeldError) as error:
        return failed(case, data, time.perf_counter() - started, error)
    return graded(case, data, replies, seed, time.perf_counter() - started, learned)


def ask(
    exam: Exam,
    tier: str,
    learn: Learn | None = None,
    asked: Mapping[str, object] | None = None,
    bases: Sequence[str] = (),
) -> list[Reply]:
    """Answer an exam with a fresh database and a fresh workspace.

    Args:
        exam: The exam.
        tier: Option ``tier`` of every call.
        learn: Trains the workspace after the labels are taught; see `training.train`.
        asked: Settings of the connection.
        bases: Public knowledge bases that are loaded first.

    Returns:
        A reply per question, in order; an empty one where the statement gave no row.
    """
    with fresh_connection(None, **(asked or {})) as (connection, workspace):
        load(connection, exam)
        if bases:
            settings, _ = resolve({"workspace": workspace, "progress": False, **(asked or {})})
            knowing = Knowing(LocalService(settings).session)
            for name in bases:
                load_known(knowing, known_base(name))
        for statement in exam.setup:
            connection.execute(statement).fetchall()
        if learn is not None:
            learn(connection, workspace, exam)
        return replies_of(connection, exam, tier)
