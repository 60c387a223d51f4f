"""The stage that trains a task's experts of tier 1: one for all tables with labels enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meld_duckdb.errors import TrainingError
from meld_duckdb.models import model_digest
from meld_duckdb.planner.expert_card import Key
from meld_duckdb.planner.expert_list import key_namer
from meld_duckdb.planner.save_expert import whole_expert
from meld_duckdb.planner.session import Session
from meld_duckdb.train.cross_encoder import T1Settings
from meld_duckdb.train.expert import LEAST_LABELS, keyed_labels, train_expert
from meld_duckdb.train.held_out import HeldOut
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.stages import Metrics, Notice, Stage, read_stages

VERSION = 1
"""Raised when the same labels give another expert."""


def expert_stage(
    session: Session,
    task: str,
    extra: Sequence[TrainingRow],
    settings: T1Settings,
    held_out: HeldOut,
    read: Sequence[str],
    notice: Notice,
) -> Stage:
    """Make the stage.

    Args:
        session: The workspace, open.
        task: Name of the task.
        extra: Rows of the task that are no labels.
        settings: Of the experts.
        held_out: Test questions and records.
        read: Identity of the labels and of ``extra``.
        notice: Called with a line now and then.
    """
    name = f"expert {task}"
    _, _, all_keys = keyed_labels(session, task, held_out)
    keys = [key for key, n in Counter(sorted(all_keys)).most_common() if n >= LEAST_LABELS]

    def work() -> Metrics:
        return _train(session, task, keys, extra, settings, held_out, notice)

    def is_done() -> bool:
        metrics = read_stages(session.workspace).get(name, {}).get("metrics", {})
        made = str(metrics.get("id") or "").split()  # none where none was to be made
        folder, base = session.workspace.experts_path, session.encoder_path
        return all(whole_expert(folder / one, base) is not None for one in made)

    inputs = (
        *read,
        *(part for key in keys for part in key),
        model_digest(session.encoder_path),
        repr(settings),
        held_out.digest,
    )
    return Stage(name, VERSION, inputs, work, is_done)


def _train(
    session: Session,
    task: str,
    keys: Sequence[Key],
    extra: Sequence[TrainingRow],
    settings: T1Settings,
    held_out: HeldOut,
    notice: Notice,
) -> Metrics:
    """Train them, those of most labels first; the figures are of the first."""
    cards, why = [], ""
    for key in keys or (None,):
        try:
            cards.append(train_expert(session, task, key, extra, settings, notice, held_out))
        except TrainingError as error:  # the labels are spread, or one-sided in a fold
            why = why or error.what
            place = "" if key is None else f" for {key_namer(session)(key)}"
            notice(f"no expert of {task}{place}: {error.what}")
    if not cards:
        return {"used": False, "why": why}
    names, used = " ".join(card.id for card in cards), any(card.use for card in cards)
    return {"id": names, "used": used, "why": cards[0].reason, **cards[0].metrics}
