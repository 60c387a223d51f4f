"""What a workspace answers on validation rows, which no stage of training has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meld_duckdb.planner.options import Options
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.stages import Metrics

MOST = 1_000
"""Rows asked about at most, drawn by their digest."""


def judge_valid(
    session: Session, task: str, labelled: Sequence[tuple[Query, str]], most: int = MOST
) -> Metrics:
    """Ask what was labelled, as a query would, and compare.

    Args:
        session: The workspace, trained.
        task: Name of the task.
        labelled: Validation rows with their answers.
        most: Rows asked about at most.

    Returns:
        Number of rows, precision, recall and F1 of the first of two answers, else the share of
        right answers; and the rows that each tier settled.
    """
    drawn = sorted(labelled, key=lambda label: digest("valid", label[0].digest))[:most]
    answers, _ = session.planner.answer(TASKS[task], [q for q, _ in drawn], Options())
    said = [answer.value for answer in answers]
    truth = [answer for _, answer in drawn]
    tiers = Counter(f"tier {answer.tier}" for answer in answers if answer.tier is not None)
    found: dict[str, float] = {"rows": len(drawn), "of": len(labelled)}
    labels = TASKS[task].labels
    if labels is None:
        right = sum(s == t for s, t in zip(said, truth, strict=True))
        found["accuracy"] = round(right / max(1, len(drawn)), 3)
    else:
        found |= _f1([s == labels[0] for s in said], [t == labels[0] for t in truth])
    return {**found, **dict(sorted(tiers.items()))}


def _f1(said: Sequence[bool], truth: Sequence[bool]) -> dict[str, float]:
    hits = sum(s and t for s, t in zip(said, truth, strict=True))
    precision, recall = hits / max(1, sum(said)), hits / max(1, sum(truth))
    f1 = 2 * hits / max(1, sum(said) + sum(truth))
    return {"precision": round(precision, 3), "recall": round(recall, 3), "F1": round(f1, 3)}
