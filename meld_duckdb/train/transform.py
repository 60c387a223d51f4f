"""Labelled questions of one task made into labelled questions of another.

    transform(rows, "impute", random.Random(7), held_out=...)

Paper: MELD §2.2 and §4.1: by masking or self-annotation a labelled query of one task becomes one
of another; the example given is matching to imputation. The other ways of `TRANSFORMS` are ours.
Every question is built as the SQL functions build it, and a row is kept only if a model that gives
its answer would be read as giving it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from meld_duckdb.records import Record
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Completion, Demonstration
from meld_duckdb.train.held_out import NOTHING, HeldOut, question_key
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.transforms import TRANSFORMED, TRANSFORMS, Material

__all__ = ["TRANSFORMED", "TRANSFORMS", "Material", "reads_back", "transform"]

_SHOWN_CHARS = 2_000


def transform(
    rows: Iterable[TrainingRow],
    target: str,
    rng: random.Random,
    *,
    source: str | None = None,
    tables: Sequence[Sequence[Record]] = (),
    held_out: HeldOut = NOTHING,
    most: int | None = None,
) -> list[TrainingRow]:
    """Make rows of a task from rows of others.

    Args:
        rows: Rows of any tasks. Those held out, and those that were themselves transformed, are no
            sources: what is wrong in one would be copied on.
        target: Task of the rows made; ``"block"`` gives pairs for the encoder, which no model is
            asked about.
        rng: Chooses columns, wrong values, options and their order. The same rows, tables and seed
            give the same rows.
        source: Only from this task; from all that `TRANSFORMS` knows if None.
        tables: Tables the records stand in, as far as known: their values are plausible errors,
            and tell which values can be guessed at all.
        held_out: Questions and records of test splits; no row is made from them or asks about
            them.
        most: Rows wanted at most; drawn, if there are more.

    Returns:
        Rows with origin ``"transformed:<task>"``, each question once, in the order of the sources.
    """
    given = [
        row
        for row in rows
        if not row.origin.startswith(TRANSFORMED) and not held_out.covers(row.query)
    ]
    kept_tables = [[r for r in table if not held_out.covers_record(r)] for table in tables]
    found: dict[str, TrainingRow] = {}
    for (task, made), way in TRANSFORMS.items():
        sources = [row for row in given if row.task == task]
        if made != target or not sources or (source is not None and task != source):
            continue
        for row in way(sources, Material(rng, sources, kept_tables)):
            if reads_back(row) and not held_out.covers(row.query):
                found.setdefault(question_key(row.query), row)
    made_rows = list(found.values())
    if most is None or len(made_rows) <= most:
        return made_rows
    return [made_rows[i] for i in sorted(rng.sample(range(len(made_rows)), most))]


def reads_back(row: TrainingRow) -> bool:
    """Tell whether its task can ask the question and would read the answer as this very answer.

    Rows of a task that asks no model (``"block"``) count as such.
    """
    if row.task not in TASKS:
        return True
    task = TASKS[row.task]
    prompt = task.prompt(row.query, (Demonstration(row.query, row.answer),), _SHOWN_CHARS)
    said = row.answer if task.labels is not None else prompt.turns[-1][1] if prompt.turns else ""
    if row.query.domain and row.answer in row.query.domain[: len(prompt.choices)]:
        said = prompt.choices[row.query.domain.index(row.answer)]
    if prompt.choices and said not in prompt.choices:
        return False
    shares = tuple(float(choice == said) for choice in prompt.choices)
    return task.parse(row.query, Completion(said, shares, 1.0)).value == row.answer
