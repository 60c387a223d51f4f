"""Train the tier-1 expert of a task and its tables from the labels of a session, and judge it.

    made rows -> one cross-encoder to start from
    labels -> folds -> tier 0 and tier 1 trained without each fold say what they think of it
           -> `train.stack` decides -> the cross-encoder on all labels -> <workspace>/experts/<id>/

A label is judged by models that have seen neither it nor another label of the same records. The
expert is saved either way; where it does not add to tier 0 its card says so and no row pays for it.

Paper: MELD §4.2 and §4.3; an expert there is a LoRA on the language model.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from meld_duckdb import models
from meld_duckdb.engine.cross_encoder import CrossEncoder, files_digest
from meld_duckdb.errors import TrainingError
from meld_duckdb.features.stack import FloatArray
from meld_duckdb.planner.expert_card import ExpertCard, Key, expert_key
from meld_duckdb.planner.save_expert import existing_expert, save_expert
from meld_duckdb.planner.scorers import make_scorers
from meld_duckdb.planner.scorers.base import Scorer
from meld_duckdb.planner.session import Session
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Demonstration
from meld_duckdb.tasks.pairs import BINARY, CHOOSING, option_pairs
from meld_duckdb.train.cross_encoder import (
    POSITIVE,
    Progress,
    T1Settings,
    train_cross_encoder,
)
from meld_duckdb.train.folds import draw_folds, groups_of, without
from meld_duckdb.train.held_out import NOTHING, HeldOut
from meld_duckdb.train.offered import offered, subject
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.stack import IntArray, Verdict, fit_option_stack, fit_stack

_LOG = logging.getLogger(__name__)

LEAST_LABELS = 10
"""Labels below which no expert is trained."""

Opinions = list[Answer | None]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """The labels of one expert, and what is said of them by models that have not seen them.

    Attributes:
        task: Name of the task.
        rows: Labels with the options that tier 0 ranks best.
        extra: Rows that are no labels and share no record with one.
        folds: Fold of each label, [n].
        tier0: Held-out tier-0 answers.
    """

    task: str
    rows: list[TrainingRow]
    extra: list[TrainingRow]
    folds: IntArray
    tier0: Opinions


def may_have_expert(task: str, rows: Sequence[TrainingRow]) -> bool:
    """Tell whether labels may give an expert: enough of them, of both answers if there are two."""
    least = 2 if task in BINARY else 1
    return (
        task in BINARY | CHOOSING
        and len(rows) >= LEAST_LABELS
        and len({row.answer for row in rows}) >= least
    )


def keyed_labels(
    session: Session, task: str, held_out: HeldOut
) -> tuple[list[Demonstration], list[Context], list[Key]]:
    """The labels of a task that are not held out, and the tables and the key of each."""
    labels = [d for d in session.demonstrator.labelled(task) if not held_out.covers(d.query)]
    contexts = session.tables.find([label.query for label in labels])
    keys = [expert_key(task, d.query, c) for d, c in zip(labels, contexts, strict=True)]
    return labels, contexts, keys


def train_expert(
    session: Session,
    task: str,
    key: Key | None = None,
    rows_extra: Sequence[TrainingRow] = (),
    settings: T1Settings | None = None,
    progress: Progress = lambda line: None,
    held_out: HeldOut = NOTHING,
) -> ExpertCard:
    """Train, judge and save the expert of a task for questions with one key.

    Trained once and asked again for the same labels, rows, settings and encoder, it returns the
    card that is there.

    Args:
        session: Gives labels, tables, encoder and the place to save to.
        task: Name of the task; one of `tasks.pairs.BINARY` or `CHOOSING`.
        key: Which questions, see `planner.expert_card.expert_key`; None for the key of most labels.
        rows_extra: Self-annotated and transformed rows of the same task. They are never judged by;
            those that share a record with a label are left out.
        settings: See `T1Settings`.
        progress: Called with a line per fold and pass.
        held_out: Labels of these are not used.

    Returns:
        The card; ``use`` tells whether queries will ask the expert, ``reason`` why.

    Raises:
        TrainingError: The task has no such expert, or there are too few labels.
    """
    settings = settings or T1Settings()
    if task not in BINARY | CHOOSING:
        raise TrainingError(
            f"{task} has no tier-1 expert", hint=f"known: {', '.join(sorted(BINARY | CHOOSING))}"
        )
    started = time.perf_counter()
    key, labels, contexts = _labels_of(session, task, key, held_out)
    extra = [row for row in rows_extra if row.task == task]
    inputs = _inputs_digest(session, task, key, labels, extra, settings)
    known = existing_expert(session.experts_path, task, key, inputs, session.encoder_path)
    if known is not None:
        progress(f"the expert {known.id} is trained on these rows already")
        return known
    lesson = _prepare(session, task, labels, contexts, extra, settings, progress)
    with _scratch(session) as folder:
        start = _groundwork(session, lesson, Path(folder) / "start", settings, progress)
        verdict = _judge(session, lesson, start, progress)
        place = Path(folder) / "expert"
        rows = [*lesson.rows, *lesson.extra]
        trained = train_cross_encoder(lesson.rows, session.encoder_path, place, start, (), progress)
        card = ExpertCard(
            id="",
            task=task,
            key=key,
            use=verdict.use,
            reason=verdict.reason,
            stack=verdict.stack,
            low=verdict.low,
            high=verdict.high,
            shortlist=settings.options,
            max_tokens=settings.max_tokens,
            encoder=session.settings.answer.encoder,
            encoder_digest=models.model_digest(session.encoder_path),
            weights=trained.digest,
            labels=session.demonstrator.digest(task),
            inputs=inputs,
            rows=dict(Counter(row.origin for row in rows)),
            settings=asdict(settings) | {"start": settings.start and Path(settings.start).name},
            metrics=verdict.metrics,
            opinions={
                r.query.digest: p for r, p in zip(lesson.rows, verdict.opinions, strict=False)
            },
            made=time.time(),
            seconds=round(time.perf_counter() - started, 1),
        )
        card = save_expert(session.experts_path, card, place)
    progress(f"expert {card.id}: {'used' if card.use else 'not used'}: {card.reason}")
    return card


def _scratch(session: Session) -> TemporaryDirectory[str]:
    """A directory in the workspace: what a killed run leaves in it, the next one removes."""
    place = session.workspace.path / "train"
    place.mkdir(exist_ok=True)
    return TemporaryDirectory(prefix=".expert-", dir=place)


def _labels_of(
    session: Session, task: str, key: Key | None, held_out: HeldOut
) -> tuple[Key, list[Demonstration], list[Context]]:
    """The labels with a key, or with the commonest one, and the tables of each."""
    labels, contexts, keys = keyed_labels(session, task, held_out)
    if key is None and keys:
        [(key, _)] = Counter(keys).most_common(1)
    at = [i for i, own in enumerate(keys) if own == key]
    if key is None or len(at) < LEAST_LABELS:
        raise TrainingError(
            f"{len(at)} labels of {task} belong to these tables, at least {LEAST_LABELS} are "
            "needed for an expert",
            hint=f"teach more: SELECT meld_learn('{task}', ...); FROM meld.label_next proposes",
        )
    return key, [labels[i] for i in at], [contexts[i] for i in at]


def _prepare(
    session: Session,
    task: str,
    labels: Sequence[Demonstration],
    contexts: Sequence[Context],
    extra: Sequence[TrainingRow],
    settings: T1Settings,
    progress: Progress,
) -> _Lesson:
    groups = groups_of([label.query for label in labels])
    answers = [label.answer for label in labels]
    folds = draw_folds(groups, answers if task in BINARY else None, settings.folds, settings.seed)
    progress(f"tier 0 of {len(labels)} labels, without each of {len(set(folds.tolist()))} folds")
    tier0 = held_out_tier0(session, task, labels, contexts, folds)
    rows = [
        TrainingRow(
            task,
            d.query if task in BINARY else offered(task, d, said, settings.options),
            d.answer,
        )
        for d, said in zip(labels, tier0, strict=True)
    ]
    return _Lesson(task, rows, _apart(extra, rows, settings), folds, tier0)


def _apart(
    extra: Sequence[TrainingRow], labels: Sequence[TrainingRow], settings: T1Settings
) -> list[TrainingRow]:
    """Rows that share no record with a label and were not made from one, at most as many as set.

    So one training on them serves all folds. Which are kept is drawn by their digests.
    """
    hidden = {r.digest for row in labels for r in row.query.records}
    sources = {row.digest for row in labels}
    kept = [
        row
        for row in extra
        if row.source not in sources and not hidden & {r.digest for r in row.query.records}
    ]
    return sorted(kept, key=lambda row: digest("draw", row.digest))[: settings.most_extra]


def held_out_tier0(
    session: Session,
    task: str,
    labels: Sequence[Demonstration],
    contexts: Sequence[Context],
    folds: IntArray,
) -> Opinions:
    """What tier 0 says of each label when it has learned the labels of the other folds only.

    Args:
        session: Gives the tables, the encoder and labels of other tasks.
        task: Name of the task.
        labels: Labels of the expert.
        contexts: Tables of each.
        folds: Fold of each, [n].

    Returns:
        One answer per label, in order; None where features say nothing.
    """
    answers: Opinions = [None] * len(labels)
    own = {subject(task, label.query) for label in labels}
    elsewhere = [
        d for d in session.demonstrator.labelled(task) if subject(task, d.query) not in own
    ]
    for fold in np.unique(folds).tolist():
        asked = np.flatnonzero(folds == fold).tolist()
        hidden = {r.digest for i in asked for r in labels[i].query.records}
        known = [*elsewhere, *(labels[i] for i in np.flatnonzero(folds != fold).tolist())]
        scorer = fitted_scorer(session, task, known, hidden)
        for context in dict.fromkeys(contexts[i] for i in asked):
            at = [i for i in asked if contexts[i] == context]
            said = scorer.score([labels[i].query for i in at], context)
            for i, answer in zip(at, said, strict=True):
                answers[i] = answer
    return answers


def fitted_scorer(
    session: Session, task: str, labels: Sequence[Demonstration], hidden: set[str]
) -> Scorer:
    """Tier 0 of a task fitted to labels, and to those of other tasks but of hidden records."""
    known = {task: labels}

    def told(name: str) -> Sequence[Demonstration]:
        if name not in known:
            known[name] = without(session.demonstrator.labelled(name), hidden)
        return known[name]

    return make_scorers(session.tables, session.encode_untuned, told)[task]


def _groundwork(
    session: Session, lesson: _Lesson, place: Path, settings: T1Settings, progress: Progress
) -> T1Settings:
    """Train on the rows that are no labels, once for all folds.

    Gives the settings with what was learned as their start, or as they are where such rows are
    missing or all have one answer.
    """
    rows = lesson.extra
    if not rows or (lesson.task in BINARY and len({row.answer for row in rows}) < 2):
        return settings
    progress(f"tier 1 of {len(rows)} rows that are no labels")
    before = replace(settings, epochs=settings.extra_epochs)
    train_cross_encoder(rows, session.encoder_path, place, before, (), progress)
    return replace(settings, start=str(place))


def _judge(session: Session, lesson: _Lesson, settings: T1Settings, progress: Progress) -> Verdict:
    """Let both tiers judge labels they have not seen, and decide."""
    odds = held_out_tier1(session, lesson, settings, progress)
    if lesson.task in BINARY:
        positive = POSITIVE[lesson.task]
        yes = np.array([row.answer == positive for row in lesson.rows])
        tier0 = np.array(
            [0.5 if a is None or a.probability is None else a.probability for a in lesson.tier0]
        )
        own_cut = _cut(lesson.tier0, tier0, positive)
        return fit_stack(tier0, np.array([o[0] for o in odds]), yes, lesson.folds, own_cut)
    at, shares = [], []
    for i, (row, said) in enumerate(zip(lesson.rows, lesson.tier0, strict=True)):
        ranked = dict(said.ranking) if said is not None else {}
        before = np.array([ranked.get(option, 0.0) for option in row.query.domain or ()])
        if row.answer in (row.query.domain or ()) and len(before) > 1 and before.sum() > 0:
            at.append(i)
            shares.append(before / before.sum())
    right = [(lesson.rows[i].query.domain or ()).index(lesson.rows[i].answer) for i in at]
    return fit_option_stack(shares, [odds[i] for i in at], right, lesson.folds[at])


def _cut(said: Opinions, tier0: FloatArray, positive: str) -> float:
    """About where tier 0 begins to answer yes: between the surest no and the least sure yes."""
    yes = np.array([a is not None and a.value == positive for a in said])
    if not yes.any() or yes.all():
        return 0.5
    return float((tier0[yes].min() + tier0[~yes].max()) / 2)


def held_out_tier1(
    session: Session, lesson: _Lesson, settings: T1Settings, progress: Progress
) -> list[FloatArray]:
    """Log-odds of each label's pairs by cross-encoders that were trained without its fold."""
    odds: list[FloatArray] = [np.zeros(0)] * len(lesson.rows)
    with _scratch(session) as folder:
        for fold in np.unique(lesson.folds).tolist():
            asked = np.flatnonzero(lesson.folds == fold).tolist()
            known = [lesson.rows[i] for i in np.flatnonzero(lesson.folds != fold).tolist()]
            place = Path(folder) / str(fold)
            train_cross_encoder(known, session.encoder_path, place, settings, ())
            model = CrossEncoder(
                session.encoder_path,
                place,
                device=session.settings.device,
                max_tokens=settings.max_tokens,
            )
            pairs = [option_pairs(lesson.task, lesson.rows[i].query) for i in asked]
            found = model.score([pair for each in pairs for pair in each]).astype(np.float64)
            ends = np.cumsum([len(each) for each in pairs]).tolist()
            for i, each, end in zip(asked, pairs, ends, strict=True):
                odds[i] = found[end - len(each) : end]
            progress(f"tier 1 without fold {fold + 1}: {len(asked)} labels judged")
    return odds


def _inputs_digest(
    session: Session,
    task: str,
    key: Key,
    labels: Sequence[Demonstration],
    extra: Sequence[TrainingRow],
    settings: T1Settings,
) -> str:
    """Identity of everything an expert is made from."""
    rows = sorted(f"{d.query.digest} {d.answer}" for d in labels)
    others = sorted(f"{row.digest} {row.origin} {row.weight}" for row in extra)
    start = "" if settings.start is None else files_digest(Path(settings.start))
    encoder, how = models.model_digest(session.encoder_path), repr(replace(settings, start=None))
    return digest(task, *key, "labels", *rows, "extra", *others, how, start, encoder)
