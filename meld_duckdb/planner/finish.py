"""What belongs to a call and not to the cached answer: thresholds, and what is said when unsure."""

from __future__ import annotations

from dataclasses import replace

from meld_duckdb.planner.options import Options
from meld_duckdb.tasks.base import Answer, Evidence, Query, Task
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER

LEAST_GENERATED = 0.5
"""A value that a language model made up or chose counts from this probability on."""

NOTHING = Answer(error="no_answer: no tier could say anything about this row")


def finish(task: Task, query: Query, options: Options, answer: Answer, least: float) -> Answer:
    """Apply the options of the call to an answer.

    Args:
        task: The task.
        query: The question.
        options: Options of the call.
        answer: What a tier answered.
        least: Calibrated bound of tier 0, used where the call names none.
    """
    probability = answer.probability
    if answer.error is not None or probability is None:
        return answer
    answer = replace(answer, ranking=answer.ranking[: options.k])
    if task.labels is not None:
        if options.threshold is None:
            return answer
        positive = probability >= options.threshold
        return replace(answer, value=task.labels[0] if positive else task.labels[1])
    if options.min_probability is not None:
        least = options.min_probability
    elif answer.tier == LANGUAGE_MODEL_TIER:
        least = LEAST_GENERATED
    if probability < least:
        answer = _unsure(task, query, answer, least)
    if task.when_unsure == "keep" and answer.error is None:
        answer = replace(answer, changed=answer.value != _current(query))
    return answer


def _unsure(task: Task, query: Query, answer: Answer, least: float) -> Answer:
    """Say what the task says when its best value is not likely enough; the value is evidence."""
    best = answer.value or ""
    if task.when_unsure == "keep":
        current = _current(query)
        if best == current:
            return answer
        kept = dict(answer.ranking).get(current, 1.0 - (answer.probability or 0.0))
        return replace(answer, value=current, probability=kept, evidence=_doubted(answer))
    if task.when_unsure == "absent":
        absent = dict(answer.ranking).get("", 1.0 - (answer.probability or 0.0))
        return replace(answer, value="", probability=absent, evidence=_doubted(answer))
    reason = f"low_confidence: best value has probability {answer.probability:.2f}"
    return replace(
        answer,
        value=None,
        evidence=_doubted(answer),
        error=f"{reason}, {least:.2f} wanted",
    )


def _doubted(answer: Answer) -> tuple[Evidence, ...]:
    return (
        Evidence("candidate", answer.value or "", answer.probability or 0.0),
        *answer.evidence,
    )


def _current(query: Query) -> str:
    return query.records[0].fields.get(query.target or "") or ""
