"""What is evaluated: an exam that the product sees, and the gold that it never sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from meld_duckdb.evaluate.metrics import Measure

TIER = "$TIER"
"""Stands in an exam's question for the tier asked for, as a SQL literal."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered to one question.

    Attributes:
        value: The answer as text; None where there is none.
        probability: Its probability.
        ranking: Blocking: right ids, best first.
        tier: Tier that settled it.
        error: Why there is no answer.
    """

    value: str | None = None
    probability: float | None = None
    ranking: tuple[str, ...] = ()
    tier: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Exam:
    """All that the asking code gets: it holds no answer to a question that is graded.

    Attributes:
        tables: Tables of the database, by name.
        setup: Statements that teach labels and index tables.
        ask: The question: n, answer, probability, ranking, tier, error, n from 0 on.
        n: Number of questions.
        held_out: Statement that gives the arguments of every question, which training must not
            touch; None where the task's training is not evaluated.
    """

    tables: Mapping[str, pa.Table]
    setup: tuple[str, ...]
    ask: str
    n: int
    held_out: str | None = None


@dataclass(frozen=True, slots=True)
class Gold:
    """The right answers, as a function that grades replies; never handed to the asking code.

    Attributes:
        grade: Measures of replies to all questions in order; the first is the headline.
        n: Graded items.
        positives: Those of them that are positive; None where the word has no meaning.
    """

    grade: Callable[[Sequence[Reply]], list[Measure]]
    n: int
    positives: int | None = None


Baseline = Callable[[], Sequence[Reply]]


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the report before it is measured.

    Attributes:
        task: The task.
        dataset: The data set, with a variant in brackets where there are several.
        labels: Number of labels taught.
        exam: What the product sees.
        gold: What it is graded by.
        baselines: By name; they are made from labels and questions only.
        notes: What a reader must know.
    """

    task: str
    dataset: str
    labels: int
    exam: Exam
    gold: Gold
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def asking(call: str, source: str, answer: str = "d.answer::VARCHAR") -> str:
    """Write the question of a task function: ``call`` gives a detail, ``source`` has q.n."""
    return (
        f"WITH asked AS MATERIALIZED (SELECT q.n AS n, {call} AS d FROM {source}) "
        f"SELECT n, {answer} AS answer, d.probability AS probability, []::VARCHAR[] AS ranking, "
        "d.tier AS tier, d.error AS error FROM asked ORDER BY n"
    )


def call_options(more: Mapping[str, str]) -> str:
    """Write the options of a call: the tier, and others by name as SQL literals."""
    parts = ("'tier': " + TIER, *(f"'{name}': {value}" for name, value in more.items()))
    return f"{{{', '.join(parts)}}}"


def option_notes(more: Mapping[str, str]) -> tuple[str, ...]:
    """What a reader must know of such options: a line, or nothing."""
    shown = ", ".join(f"{name} {value}" for name, value in more.items())
    return (f"options: {shown}",) if shown else ()


def teaching(task: str, query: str, answer: str, source: str) -> str:
    """Write the statement that teaches labels."""
    learn = f"meld_learn('{task}', {query}, {answer})"
    return f"SELECT count(ok) FROM (SELECT {learn} AS ok FROM {source})"


def indexing(table: str) -> str:
    """Write the statement that indexes a table; features embed what they need themselves."""
    return f"FROM meld.index('{table}', embed := false)"


def texts(columns: Mapping[str, Sequence[str | None]]) -> pa.Table:
    """Make a table of text columns."""
    return pa.table({k: pa.array(list(v), pa.string()) for k, v in columns.items()})


def numbered(columns: Mapping[str, Sequence[str | None]]) -> pa.Table:
    """Make a table of text columns with the number ``n`` of each row ahead."""
    table = texts(columns)
    return table.add_column(0, "n", pa.array(range(len(table)), pa.int64()))


def items(rows: Sequence[Mapping[str, str | None]], columns: Sequence[str]) -> pa.Table:
    """Make a table (n, item) whose items are rows as STRUCTs."""
    kind = pa.struct([(c, pa.string()) for c in columns])
    content = pa.array([{c: row[c] for c in columns} for row in rows], kind)
    return pa.table({"n": pa.array(range(len(rows)), pa.int64()), "item": content})
