"""Measure a case: the product gets the exam, its replies are graded apart from it."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb

from meld_duckdb.errors import InputError, MeldError
from meld_duckdb.evaluate.baselines import Encode
from meld_duckdb.evaluate.case import TIER, Case, Exam, Reply
from meld_duckdb.evaluate.cells import prepare_detect_error, prepare_impute, prepare_repair
from meld_duckdb.evaluate.choices import (
    prepare_annotate_column,
    prepare_extract_attribute,
    prepare_extract_relation,
)
from meld_duckdb.evaluate.entities import prepare_link_entity
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.labels import Request
from meld_duckdb.evaluate.layout import ALL_TASKS, TASKS, DataSet, find_datasets
from meld_duckdb.evaluate.metrics import interval
from meld_duckdb.evaluate.pairs import prepare_block, prepare_match
from meld_duckdb.evaluate.schemas import prepare_schema_match
from meld_duckdb.evaluate.training import Learn, train

_ENCODED = {
    "annotate_column": prepare_annotate_column,
    "extract_relation": prepare_extract_relation,
    "schema_match": prepare_schema_match,
}
_PLAIN: dict[str, Callable[[DataSet, Request], list[Case]]] = {
    "block": prepare_block,
    "match": prepare_match,
    "detect_error": prepare_detect_error,
    "repair": prepare_repair,
    "impute": prepare_impute,
    "link_entity": prepare_link_entity,
    "extract_attribute": prepare_extract_attribute,
}


@dataclass(frozen=True, slots=True)
class Value:
    """A metric with its 95 % bootstrap interval."""

    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report.

    Attributes:
        task: The task.
        dataset: The data set, with its variant.
        labels: Number of labels taught.
        n: Graded items.
        positives: Positive ones; None where the word has no meaning.
        values: The metrics, the headline first; empty if the task could not be asked.
        baselines: Headline of each baseline.
        tiers: Answers by the tier that settled them.
        failures: Questions without an answer because of an error.
        seconds: Of the product alone: indexing, teaching and asking.
        notes: What a reader must know.
        digest: SHA-256 of the data files, shortened.
        error: Why there are no values.
    """

    task: str
    dataset: str
    labels: int
    n: int
    positives: int | None
    values: tuple[Value, ...]
    baselines: Mapping[str, float] = field(default_factory=dict)
    tiers: Mapping[int, int] = field(default_factory=dict)
    failures: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    digest: str = ""
    error: str | None = None


def evaluate(
    task: str,
    root: Path,
    request: Request,
    *,
    tier: str,
    encode: Encode | None,
    notice: Callable[[str], None],
    trained: bool = False,
) -> Iterator[Result]:
    """Evaluate a task, or all, on every data set below a directory; a result per line.

    Args:
        task: One of `layout.TASKS`, or ``"all"``.
        root: A data set or a directory of them.
        request: Which labels and how many questions.
        tier: Option ``tier`` of every call.
        encode: Texts to vectors, for the baselines that use the encoder.
        notice: Called with one line when a case begins and ends.
        trained: Whether ``meld train --stages retrieval`` is run after the labels are taught.

    Raises:
        InputError: No data set serves the task, or one cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no directory", hint="give the data with --data DIR")
    datasets = [(t, d) for t in TASKS for d in _found(root, t, task)]
    if not datasets:
        find_datasets(root, TASKS[0])
    for name, data in datasets:
        for case in prepare(name, data, request, encode):
            notice(f"{case.task} on {case.dataset}: {case.labels} labels, {case.exam.n} questions")
            result = measure(case, data, request.seed, tier, notice if trained else None)
            notice(f"  {_outcome(result)} in {result.seconds:.1f} s")
            yield result


def _found(root: Path, name: str, wanted: str) -> list[DataSet]:
    if wanted == name:
        return find_datasets(root, name)
    if wanted != ALL_TASKS:
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
    notice: Callable[[str], None] | None = None,
) -> Result:
    """Ask the product, then grade its replies and those of the baselines.

    With a ``notice`` the workspace is trained first; the notice is told about it.
    """
    learned: list[str] = []

    def learn(connection: duckdb.DuckDBPyConnection, workspace: Path, exam: Exam) -> None:
        learned.extend(train(connection, workspace, case.task, exam, notice or (lambda _: None)))

    shape = Result(
        case.task, case.dataset, case.labels, case.gold.n, case.gold.positives, (),
        notes=case.notes, digest=data_digest(data),
    )  # fmt: skip
    started = time.perf_counter()
    try:
        replies = ask(case.exam, tier, None if notice is None else learn)
    except (duckdb.Error, MeldError) as error:
        seconds = time.perf_counter() - started
        return _with(shape, seconds=seconds, error=" ".join(str(error).split())[:500])
    seconds = time.perf_counter() - started
    values = tuple(Value(m.name, m.value, *interval(m, seed)) for m in case.gold.grade(replies))
    return _with(
        shape,
        values=values,
        baselines={k: case.gold.grade(b())[0].value for k, b in case.baselines.items()},
        tiers=dict(sorted(Counter(r.tier for r in replies if r.tier is not None).items())),
        failures=sum(r.error is not None for r in replies),
        seconds=seconds,
        notes=(*case.notes, *learned),
    )


def _with(shape: Result, **values: object) -> Result:
    from dataclasses import replace

    return replace(shape, **values)  # type: ignore[arg-type]


def ask(exam: Exam, tier: str, learn: Learn | None = None) -> list[Reply]:
    """Answer an exam with a fresh database and a fresh workspace.

    Args:
        exam: The exam.
        tier: Option ``tier`` of every call.
        learn: Trains the workspace after the labels are taught; see `training.train`.

    Returns:
        A reply per question, in order; an empty one where the statement gave no row.
    """
    with fresh_connection() as (connection, workspace):
        load(connection, exam)
        for statement in exam.setup:
            connection.execute(statement).fetchall()
        if learn is not None:
            learn(connection, workspace, exam)
        rows = connection.execute(exam.ask.replace(TIER, f"'{tier}'")).fetchall()
    replies = [Reply()] * exam.n
    for n, answer, probability, ranking, settled, error in rows:
        replies[n] = Reply(answer, probability, tuple(ranking or ()), settled, error)
    return replies


def load(connection: duckdb.DuckDBPyConnection, exam: Exam) -> None:
    """Make the tables of an exam in the database; nothing else is ever put there."""
    for name, table in exam.tables.items():
        connection.register("__given", table)
        connection.execute(f'CREATE TABLE "{name}" AS FROM __given')
        connection.unregister("__given")


def data_digest(data: DataSet) -> str:
    """SHA-256 over the Parquet files of a data set, by name; 16 hexadecimal digits."""
    found = hashlib.sha256()
    for path in sorted(data.folder.glob("*.parquet")):
        found.update(path.name.encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def best_baseline(result: Result) -> tuple[str, float] | None:
    """The baseline with the highest headline; None without baselines."""
    names: Sequence[str] = sorted(result.baselines, key=lambda k: (-result.baselines[k], k))
    return (names[0], result.baselines[names[0]]) if names else None
