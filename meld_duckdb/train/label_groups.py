"""The labels of a workspace, a group per expert: one task, one set of tables or columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from meld_duckdb.planner.expert_card import Key, expert_key
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest, plain_text
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration
from meld_duckdb.tasks.letters import MOST_OPTIONS
from meld_duckdb.train.expert import held_out_tier0
from meld_duckdb.train.folds import draw_folds, groups_of
from meld_duckdb.train.offered import (
    WITH_OPTIONS,
    in_order_of,
    offered,
    subject,
    with_all_options,
)
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.stack import IntArray

LEAST = 10
"""Labels below which a group has no expert."""

_VALUES = 3
_VALUE_CHARS = 60


@dataclass(frozen=True, slots=True)
class LabelGroup:
    """Labels of one task and key, in two parts that share no record where that can be had.

    Attributes:
        task: Name of the task.
        key: See `expert_card.expert_key`.
        learn: What the expert learns from.
        dev: What choices are made by: path, rounds, router, gate.
    """

    task: str
    key: Key
    learn: tuple[TrainingRow, ...]
    dev: tuple[TrainingRow, ...]

    @property
    def name(self) -> str:
        """A name for files and messages."""
        return group_name(self.task, self.key)

    @property
    def digest(self) -> str:
        """Identity of all its labels."""
        parts = [sorted(row.digest for row in part) for part in (self.learn, self.dev)]
        return digest(self.task, *self.key, "learn", *parts[0], "dev", *parts[1])

    @property
    def description(self) -> str:
        """What questions are routed by: task, columns, answers and a few values."""
        records = [row.query.records[0] for row in self.learn]
        columns = list(dict.fromkeys(name for record in records for name in record.fields))
        values = [
            plain_text(" ".join(record.present.values()), _VALUE_CHARS)
            for record in sorted(records, key=lambda r: r.digest)[:_VALUES]
        ]
        targets = sorted({row.query.target for row in self.learn if row.query.target})
        answers = sorted({row.answer for row in self.learn})[:_VALUES]
        return " | ".join(
            [self.task, *(f"COL {name}" for name in (*columns, *targets)), *values, *answers]
        )


def group_name(task: str, key: Key) -> str:
    """See `LabelGroup.name`."""
    return f"{task}-{digest(*key)[:8]}"


def label_groups(
    session: Session,
    labels: Mapping[str, Sequence[TrainingRow]],
    *,
    dev_parts: int = 3,
    seed: int = 42,
    notice: Callable[[str], None] = lambda line: None,
) -> list[LabelGroup]:
    """Group the labels of a workspace, and set one of ``dev_parts`` parts of each aside.

    Labels of a task with options get them back, as many as a language model can be offered; see
    `train.offered`.

    Args:
        session: Knows the tables.
        labels: Labels of each task.
        dev_parts: 2 sets a half aside, 3 a third.
        seed: Of the draw.
        notice: Called with a line for each group of so many labels that teaches nothing.

    Returns:
        Groups of at least `LEAST` labels that an expert can learn from and be judged by, by task
        and key.
    """
    found: list[LabelGroup] = []
    for task, rows in sorted(labels.items()):
        for key, own in sorted(_by_key(session, task, rows).items()):
            if len(own) < LEAST:
                continue
            group = _parted(session, task, key, own, dev_parts, seed)
            if (why := _unfit(group)) is None:
                found.append(group)
            else:
                notice(f"{group.name}: no expert: {why}")
    return found


def _unfit(group: LabelGroup) -> str | None:
    """Why no expert can be trained from a group; None where one can."""
    n_labels, n_learned = len(group.learn) + len(group.dev), len(group.learn)
    if not group.learn or not group.dev:
        return (
            f"its {n_labels} labels are of one record, and those learned from share none with "
            "those judged by; label other records too"
        )
    labels = TASKS[group.task].labels
    answers = {row.answer for row in group.learn}
    if labels is not None and len(answers) < len(labels):
        return (
            f"of its {n_labels} labels all {n_learned} to learn from say {answers.pop()!r}, "
            f"expected both {labels[0]!r} and {labels[1]!r}"
        )
    if group.task in WITH_OPTIONS and not any(_is_choice(row) for row in group.learn):
        return (
            f"of its {n_labels} labels none of the {n_learned} to learn from has two options, one "
            "of them the answer"
        )
    return None


def _is_choice(row: TrainingRow) -> bool:
    options = row.query.domain or ()
    return len(options) > 1 and row.answer in options


def label_keys(
    session: Session, labels: Mapping[str, Sequence[TrainingRow]]
) -> dict[tuple[str, Key], frozenset[str]]:
    """Task and key of all labels, also of those too few for a group, to the labels' identities."""
    return {
        (task, key): frozenset(map(label_identity, own))
        for task, rows in labels.items()
        for key, own in _by_key(session, task, rows).items()
    }


def label_identity(row: TrainingRow) -> str:
    """Identity of a label, the same with whatever options it is asked."""
    return digest(row.task, subject(row.task, row.query), row.answer)


def _by_key(
    session: Session, task: str, rows: Sequence[TrainingRow]
) -> dict[Key, list[TrainingRow]]:
    found: dict[Key, list[TrainingRow]] = {}
    contexts = session.tables.find([row.query for row in rows])
    for row, context in zip(rows, contexts, strict=True):
        found.setdefault(expert_key(task, row.query, context), []).append(row)
    return found


def _parted(
    session: Session,
    task: str,
    key: Key,
    rows: Sequence[TrainingRow],
    dev_parts: int,
    seed: int,
) -> LabelGroup:
    ordered = sorted(rows, key=lambda row: row.digest)
    answers = [row.answer for row in ordered] if TASKS[task].labels is not None else None
    folds = draw_folds(groups_of([row.query for row in ordered]), answers, dev_parts, seed)
    if task in WITH_OPTIONS:
        ordered = _with_options(session, task, ordered, folds)
    learn = tuple(row for row, fold in zip(ordered, folds, strict=True) if fold != 0)
    dev = tuple(row for row, fold in zip(ordered, folds, strict=True) if fold == 0)
    return LabelGroup(task, key, learn, dev)


def _with_options(
    session: Session, task: str, rows: Sequence[TrainingRow], folds: IntArray
) -> list[TrainingRow]:
    """Rows with the options that a language model is offered; of many those tier 0 ranks best.

    The right one is always among those learned from. For labels set aside (fold 0) it may be
    missing, as when statements ask.
    """
    answers = {row.answer for row in rows if row.answer}
    queries = [with_all_options(task, row.query, answers) for row in rows]
    if any(len(query.domain or ()) > MOST_OPTIONS for query in queries):
        labels = [Demonstration(q, row.answer) for q, row in zip(queries, rows, strict=True)]
        said = held_out_tier0(session, task, labels, session.tables.find(queries), folds)
        queries = [
            in_order_of(
                label.query, offered(task, label, answer, MOST_OPTIONS, with_answer=bool(fold))
            )
            for label, answer, fold in zip(labels, said, folds.tolist(), strict=True)
        ]
    return [replace(row, query=query) for row, query in zip(rows, queries, strict=True)]


def rows_by_group(
    session: Session, groups: Sequence[LabelGroup], rows: Sequence[TrainingRow], most: int
) -> dict[str, list[TrainingRow]]:
    """Rows that are no labels, by name of their group, at most so many; none of a record set aside.

    Which are kept is drawn by their digests.
    """
    named = {(g.task, g.key): g for g in groups}
    hidden = {g.name: _records(g.dev) for g in groups}
    found: dict[str, list[TrainingRow]] = {g.name: [] for g in groups}
    contexts = session.tables.find([row.query for row in rows])
    for row, context in zip(rows, contexts, strict=True):
        group = named.get((row.task, expert_key(row.task, row.query, context)))
        if group is not None and not hidden[group.name] & _records([row]):
            found[group.name].append(row)
    return {
        name: sorted(of_group, key=lambda row: digest("draw", row.digest))[:most]
        for name, of_group in found.items()
    }


def not_set_aside(
    rows: Sequence[TrainingRow], group: LabelGroup, groups: Sequence[LabelGroup]
) -> list[TrainingRow]:
    """Rows of a group without those of records that another group of its task set aside."""
    others = [g for g in groups if g.task == group.task and g.key != group.key]
    hidden = {record for other in others for record in _records(other.dev)}
    return [row for row in rows if not hidden & _records([row])]


def _records(rows: Sequence[TrainingRow]) -> set[str]:
    return {record.digest for row in rows for record in row.query.records}
