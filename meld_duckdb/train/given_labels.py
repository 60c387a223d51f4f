"""Labels from files against a workspace: whether they suffice, then into it.

Everything is checked before anything is written: where a file is refused, the workspace is as it
was. What was held out by one run is remembered, so that no later run learns it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.session import Session
from meld_duckdb.records import Record
from meld_duckdb.retrieval.catalogue import table_digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.expert import LEAST_LABELS
from meld_duckdb.train.held_out import HeldOut, hold_out, question_key
from meld_duckdb.train.label_files import Checked, KeyedTable
from meld_duckdb.workspace import Workspace

_PAIR = 2


def held_out_path(workspace: Workspace) -> Path:
    """Where the test and validation rows of all runs are remembered, by digest."""
    return workspace.path / "train" / "held-out.json"


def held_out_by(checked: Iterable[Checked], max_chars: int) -> HeldOut:
    """What test and validation rows hold out: the pair, or the one record that is asked about."""
    queries = [q for each in checked for q, _ in (*each.test, *each.valid)]
    records = [r for q in queries if len(q.records) != _PAIR or q.target for r in _asked_about(q)]
    return hold_out(queries, records, max_chars)


def remember_held_out(session: Session, checked: Iterable[Checked]) -> HeldOut:
    """Add test and validation rows to those of earlier runs; gives all of them."""
    path = held_out_path(session.workspace)
    before = HeldOut.read(path)
    now = before | held_out_by(checked, session.settings.answer.max_record_chars)
    if now != before:
        path.parent.mkdir(exist_ok=True)
        now.write(path)
    return now


def _asked_about(query: Query) -> list[Record]:
    """The record, with and without the value that is asked for."""
    record = query.records[0]
    return [record] if query.target is None else [record, record.without(query.target)]


def review(checked: Checked, known: Mapping[str, str], remembered: HeldOut) -> None:
    """Check labels of a task against those the workspace has; what is left out is told.

    Args:
        checked: From the files; lines and warnings are added.
        known: The task's labels of the workspace: digest of the question to the answer.
        remembered: What earlier runs held out.

    Raises:
        TrainingError: There are too few labels, or none of them is of the kind that is looked for.
    """
    kept = [label for label in checked.learn if question_key(label[0]) not in remembered.queries]
    if len(kept) < len(checked.learn):
        checked.warnings.append(
            f"{checked.task}: {len(checked.learn) - len(kept)} rows left out: an earlier run held "
            "them out; to learn them remove train/held-out.json from the workspace"
        )
    checked.learn = kept
    fresh = {_plain(query).digest: answer for query, answer in checked.learn}
    held = {_plain(query).digest for query, _ in (*checked.test, *checked.valid)}
    answers = {key: a for key, a in {**known, **fresh}.items() if key not in held}
    _check_enough(checked, Counter(answers.values()))
    changed = sum(1 for key, a in fresh.items() if known.get(key, a) != a)
    again = sum(1 for key, a in fresh.items() if known.get(key) == a)
    if changed:
        checked.warnings.append(f"{checked.task}: {changed} labels replace another answer")
    if again:
        checked.lines.append(f"{checked.task}: {again} labels are in the workspace already")
    if learned := held & known.keys():
        checked.warnings.append(
            f"{checked.task}: {len(learned)} valid or test rows were learned before; training "
            "leaves them out, queries know them: see meld workspace rollback"
        )


def _check_enough(checked: Checked, answers: Counter[str]) -> None:
    task, labels = checked.task, TASKS[checked.task].labels
    if answers.total() < LEAST_LABELS:
        raise TrainingError(
            f"{answers.total()} labels of {task} to learn from, at least {LEAST_LABELS} are needed "
            "for training",
            hint=f"give more; fewer are of use without it: SELECT meld_learn('{task}', ...)",
        )
    if labels is None or len(answers) > 1:
        return
    yes, no = labels
    if yes not in answers:
        raise TrainingError(
            f"all {answers.total()} labels of {task} say {no!r}, none {yes!r}: there is nothing to "
            "learn from",
            hint=f"add labels that say {yes!r}; FROM meld.label_next('{task}', t) proposes some",
        )
    checked.warnings.append(
        f"{task}: all {answers.total()} labels say {yes!r}, none {no!r}: the expert, which needs "
        "both, is left out"
    )


def index_tables(session: Session, tables: Sequence[KeyedTable]) -> list[str]:
    """Index tables that are not yet, without embedding them; gives a line for each.

    Their content is what makes them known: under whatever name, they are not indexed twice.
    """
    lines = []
    for table in tables:
        content = table_digest(table.records)
        if content in {known.digest for known in session.catalogue.tables()}:
            continue
        done = session.index(table.name, table.records, embed=False)
        lines.append(f"{table.source}: {done.n_entries} rows indexed as {table.name}")
    return lines


def teach(session: Session, checked: Checked) -> int:
    """Learn labels that the workspace does not have; gives their number."""
    known = session.demonstrator.labels(checked.task)
    fresh = [(q, a) for q, a in checked.learn if known.get(_plain(q).digest) != a]
    session.learn(checked.task, fresh)
    return len(fresh)


def _plain(query: Query) -> Query:
    return replace(query, domain=None)
