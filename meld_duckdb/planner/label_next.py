"""Which questions to label next, per task: where a label changes or confirms most."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.features.active import choose_rows, choose_uncertain, shape
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.session import Session
from meld_duckdb.planner.whole import ask_cells, ask_pairs, chosen_columns
from meld_duckdb.records import Record
from meld_duckdb.retrieval.methods import Blocking
from meld_duckdb.tasks.base import Answer, Demonstration

_K = 3
_BINS = 4
_FREE = Options(tier="t0")


@dataclass(frozen=True, slots=True)
class Question:
    """Something worth labelling.

    Attributes:
        left: Position of the row.
        right: Position of the other row of a pair, else None.
        column: Column of a cell, else None: the whole row is to be checked.
        probability: What the product says now; of a whole row, of its likeliest error.
    """

    left: int
    right: int | None
    column: str | None
    probability: float | None


def label_next(
    session: Session, task: str, left: Sequence[Record], right: Sequence[Record], n: int, same: bool
) -> list[Question]:
    """Choose at most ``n`` questions that have no label yet, the most useful first.

    Args:
        session: Answers with tier 0.
        task: ``match`` chooses pairs, ``detect_error`` and ``repair`` whole rows, ``impute`` cells.
        left: Rows of the table.
        right: Rows of the other table of a pair.
        n: How many.
        same: Whether both are one table.

    Raises:
        InputError: The task is another one.
    """
    if task not in _CHOOSERS:
        what, hint = unknown_name("task", task, _CHOOSERS)
        raise InputError(what, hint=hint)
    return _CHOOSERS[task](session, task, left, right, n, same)


def _pairs(
    session: Session, task: str, left: Sequence[Record], right: Sequence[Record], n: int, same: bool
) -> list[Question]:
    found = session.block(left, right, Blocking(_K, "lexical"), same=same)
    pairs = list(zip(found.left.tolist(), found.right.tolist(), strict=True))
    known = {frozenset(r.digest for r in d.query.records) for d in _labelled(session, task)}
    pairs = [(i, j) for i, j in pairs if {left[i].digest, right[j].digest} not in known]
    answers, _ = ask_pairs(session.planner, session.tables, task, left, right, pairs, _FREE)
    probabilities = [answer.probability or 0.0 for answer in answers]
    chosen = choose_uncertain(probabilities, _cut(answers), [i for i, _ in pairs], n)
    return [Question(*pairs[at], None, probabilities[at]) for at in chosen]


def _rows(
    session: Session, task: str, left: Sequence[Record], right: Sequence[Record], n: int, same: bool
) -> list[Question]:
    columns = chosen_columns(left, None)
    cells, _ = ask_cells(
        session.planner, session.tables, "detect_error", left, columns, _FREE, missing_only=False
    )
    kinds: list[list[Hashable]] = [[] for _ in left]
    worst = [0.0] * len(left)
    for cell in cells:
        probability = cell.answer.probability or 0.0
        level = min(int(probability * _BINS), _BINS - 1)
        kinds[cell.row].append((cell.column, shape(cell.value), level))
        worst[cell.row] = max(worst[cell.row], probability)
    labelled = (*_labelled(session, "repair"), *_labelled(session, "detect_error"))
    known = {d.query.records[0].digest for d in labelled}
    free = [i for i, record in enumerate(left) if record.digest not in known]
    chosen = choose_rows([kinds[i] for i in free], n)
    return [Question(free[at], None, None, worst[free[at]]) for at in chosen]


def _missing(
    session: Session, task: str, left: Sequence[Record], right: Sequence[Record], n: int, same: bool
) -> list[Question]:
    columns = chosen_columns(left, None)
    cells, _ = ask_cells(
        session.planner, session.tables, task, left, columns, _FREE, missing_only=True
    )
    known = {(d.query.records[0].digest, d.query.target) for d in _labelled(session, task)}
    cells = [c for c in cells if (left[c.row].digest, c.column) not in known]
    probabilities = [cell.answer.probability or 0.0 for cell in cells]
    groups = [(cell.column, _best(cell.answer)) for cell in cells]
    chosen = choose_uncertain(probabilities, 0.0, groups, n)
    return [Question(cells[i].row, None, cells[i].column, probabilities[i]) for i in chosen]


def _labelled(session: Session, task: str) -> Sequence[Demonstration]:
    return session.demonstrator.labelled(task)


def _best(answer: Answer) -> str:
    candidates = (e.text for e in answer.evidence if e.kind == "candidate")
    return answer.value or next(candidates, "")


def _cut(answers: Sequence[Answer]) -> float:
    """The probability at which the answer changes."""
    above = [a.probability or 0.0 for a in answers if a.value == "match"]
    below = [a.probability or 0.0 for a in answers if a.value != "match"]
    return (min(above) + max(below)) / 2 if above and below else 0.5


_CHOOSERS: dict[str, Callable[..., list[Question]]] = {
    "match": _pairs,
    "detect_error": _rows,
    "repair": _rows,
    "impute": _missing,
}
