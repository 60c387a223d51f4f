"""Decide whether tier 2 answers the questions of a group of labels; see `planner.gate`.

All opinions are of models that had not seen the labels they are judged by. For a task with two
answers the language model's log-odds are added to those of the tiers before, and it is used where
that makes the labels more likely (`train.stack`); for the others its answer takes the place of an
unsure one, and it is used where statements would then be right more often, by more than
`train.stack.ERRORS` standard errors: what is not likely enough to be said (`planner.finish`) is not
right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from meld_duckdb.features.stack import Stack, log_odds
from meld_duckdb.planner.cascade import UNSURE
from meld_duckdb.planner.finish import finish
from meld_duckdb.planner.gate import Gate
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.session import Session
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.train.expert import fitted_scorer
from meld_duckdb.train.folds import draw_folds, groups_of
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.offered import subject
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.stack import ERRORS, Verdict, fit_stack

_LEAST = 10
_FOLDS = 5


def fit_gate(
    group: LabelGroup,
    before: Sequence[Answer | None],
    answers: Sequence[Answer],
    *,
    model_digest: str,
    experts: str,
    seed: int = 42,
) -> Gate:
    """Judge tier 2 on the labels that were set aside.

    Args:
        group: Its ``dev`` rows are judged by.
        before: What the tiers before say of each, without having seen it; see `opinions_before`.
        answers: What the language model says of each, likewise.
        model_digest: Identity of the language model.
        experts: Identity of the experts, see `planner.mixture.Mixture.digest`.
        seed: Of the parts for cross-fitting.
    """
    verdict = (_judge_two if TASKS[group.task].labels is not None else _judge_many)(
        group, before, answers, seed
    )
    return Gate(
        group.task,
        group.key,
        verdict.use,
        verdict.reason,
        verdict.low,
        verdict.high,
        verdict.stack if TASKS[group.task].labels is not None else None,
        model_digest,
        experts,
        verdict.metrics,
    )


def opinions_before(session: Session, group: LabelGroup) -> list[Answer | None]:
    """What the tiers before tier 2 say of the labels set aside, without having seen each.

    That is tier 0, fitted to all labels of the task but these, as a statement says it: without a
    value that is not likely enough. Where an expert of tier 1 is used, it is what both said when it
    was judged.
    """
    before = _said_by_features(session, group.task, [row.query for row in group.dev])
    expert = session.experts.of(group.task, group.key, "unsure")
    labels = TASKS[group.task].labels
    if expert is None or labels is None:
        return before
    known, least = expert.card.opinions, expert.card.stack.threshold
    return [
        Answer(labels[0] if known[d] >= least else labels[1], known[d], 1) if d in known else own
        for own, d in zip(before, (row.query.digest for row in group.dev), strict=True)
    ]


def _said_by_features(session: Session, task: str, queries: Sequence[Query]) -> list[Answer | None]:
    """What tier 0 says, fitted to all labels but those of the queries; None for nothing."""
    own = {subject(task, query) for query in queries}
    known = [d for d in session.demonstrator.labelled(task) if subject(task, d.query) not in own]
    hidden = {record.digest for query in queries for record in query.records}
    scorer = fitted_scorer(session, task, known, hidden)
    answers: list[Answer | None] = [None] * len(queries)
    contexts = session.tables.find(queries)
    for context in dict.fromkeys(contexts):
        at = [i for i, those in enumerate(contexts) if those == context]
        for i, answer in zip(at, scorer.score([queries[i] for i in at], context), strict=True):
            if answer is not None:
                least = scorer.least(queries[i], context)
                answers[i] = finish(TASKS[task], queries[i], Options(), answer, least)
    return answers


def _judge_two(
    group: LabelGroup, before: Sequence[Answer | None], answers: Sequence[Answer], seed: int
) -> Verdict:
    """Judge a task with two answers: both opinions are added up."""
    positive = (TASKS[group.task].labels or ("", ""))[0]
    own = np.array([_probability(a) for a in before])
    other = log_odds(np.array([_probability(a) for a in answers]))
    yes = np.array([row.answer == positive for row in group.dev])
    if len(yes) < _LEAST or yes.all() or not yes.any():
        reason = f"{len(yes)} labels set aside, {int(yes.sum())} {positive}: too few to tell"
        return Verdict(False, reason, Stack(), 0.0, 1.0, {"labels": float(len(yes))})
    groups = groups_of([row.query for row in group.dev])
    folds = draw_folds(groups, [row.answer for row in group.dev], _FOLDS, seed)
    said = np.array([a is not None and a.value == positive for a in before])
    cut = float(own[said].min() + own[~said].max()) / 2 if 0 < said.sum() < len(said) else 0.5
    verdict = fit_stack(own, other, yes, folds, cut)
    return replace(
        verdict,
        reason=verdict.reason.replace("tier 1", "tier 2"),
        metrics={name.replace("tier1", "tier2"): v for name, v in verdict.metrics.items()},
    )


def _judge_many(
    group: LabelGroup, before: Sequence[Answer | None], answers: Sequence[Answer], _seed: int
) -> Verdict:
    """Judge a task with many answers: the language model's takes the place of an unsure one."""
    unsure = np.array([_probability(a) < UNSURE[1] or a is None for a in before])
    failed = np.array([a.error is not None for a in answers], dtype=bool)
    task, options = TASKS[group.task], Options()
    said = [
        finish(task, row.query, options, a, 0.0) for row, a in zip(group.dev, answers, strict=True)
    ]
    old = _right(group.dev, before)
    new = np.where(unsure & ~failed, _right(group.dev, said), old)
    n = len(new)
    if n < _LEAST:
        return Verdict(False, f"{n} labels set aside: too few to tell", Stack(), 0.0, 1.0, {})
    gains = new.astype(float) - old.astype(float)
    error = float(gains.std(ddof=1) / np.sqrt(n))
    use = float(gains.mean()) > ERRORS * error
    reason = (
        f"tier 2 {'adds' if use else 'adds no more than chance could'}: accuracy "
        f"{old.mean():.3f} to {new.mean():.3f} (+- {error:.3f}) on {n} labels scored by models "
        "that had not seen them"
    )
    metrics = {
        "labels": float(n),
        "accuracy_before": round(float(old.mean()), 4),
        "accuracy_both": round(float(new.mean()), 4),
        "asked_share": round(float(unsure.mean()), 4),
    }
    return Verdict(use, reason, Stack(), -1.0, UNSURE[1], metrics)


def _right(rows: Sequence[TrainingRow], answers: Sequence[Answer | None]) -> np.ndarray:
    return np.array(
        [a is not None and a.value == row.answer for row, a in zip(rows, answers, strict=True)]
    )


def _probability(answer: Answer | None) -> float:
    return 0.5 if answer is None or answer.probability is None else answer.probability
