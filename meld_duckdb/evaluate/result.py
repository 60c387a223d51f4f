"""A line of the report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from meld_duckdb.evaluate.case import Case, Reply
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import interval


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


def graded(
    case: Case,
    data: DataSet,
    replies: Sequence[Reply],
    seed: int,
    seconds: float,
    notes: Sequence[str] = (),
) -> Result:
    """Grade the replies to a case, and those of its baselines."""
    values = tuple(Value(m.name, m.value, *interval(m, seed)) for m in case.gold.grade(replies))
    return replace(
        failed(case, data, seconds),
        values=values,
        baselines={k: case.gold.grade(b())[0].value for k, b in case.baselines.items()},
        tiers=dict(sorted(Counter(r.tier for r in replies if r.tier is not None).items())),
        failures=sum(r.error is not None for r in replies),
        notes=(*case.notes, *notes),
    )


def failed(case: Case, data: DataSet, seconds: float, error: Exception | None = None) -> Result:
    """The line of a case that could not be asked."""
    return Result(
        case.task,
        case.dataset,
        case.labels,
        case.gold.n,
        case.gold.positives,
        (),
        notes=case.notes,
        digest=data_digest(data),
        seconds=seconds,
        error=None if error is None else " ".join(str(error).split())[:500],
    )


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
