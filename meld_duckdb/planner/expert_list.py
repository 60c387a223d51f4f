"""The experts of a workspace, a line each, for ``FROM meld.experts()``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.planner.cascade import choose_policy
from meld_duckdb.planner.expert_card import ANY, Key
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.session import Session

_UNJUDGED = "not judged yet: meld train --stages experts"


@dataclass(frozen=True, slots=True)
class ExpertLine:
    """One expert.

    Attributes:
        expert: Its name.
        tier: 1 for a cross-encoder, 2 for an adapter of the language model.
        task: The task it was trained for.
        trained_for: Tables or columns of its questions.
        used: Whether it is asked unless a call says otherwise.
        reason: Why, with held-out figures.
        rows: Training rows of all origins.
        metrics: Held-out figures by name.
        path: Steps that complete its records.
        model: Model it belongs to.
        size_bytes: Of its files.
        answers: Stored answers that it gave or had a part in.
    """

    expert: str
    tier: int
    task: str
    trained_for: str
    used: bool
    reason: str
    rows: int
    metrics: dict[str, float]
    path: list[str]
    model: str
    size_bytes: int
    answers: int


def list_experts(session: Session) -> list[ExpertLine]:
    """All experts that belong to the models of the settings, by tier and name.

    Raises:
        ArtefactCorrupt: A directory of an expert is damaged.
    """
    counts = session.expert_counts()
    named = key_namer(session)
    lines = []
    for expert in session.experts.own():
        card = expert.card
        lines.append(
            ExpertLine(
                expert=card.id,
                tier=1,
                task=card.task,
                trained_for=named(card.key),
                used=card.use,
                reason=card.reason,
                rows=sum(card.rows.values()),
                metrics={name: float(value) for name, value in card.metrics.items()},
                path=[],
                model=card.encoder,
                size_bytes=_size(expert.folder),
                answers=counts.get(card.id, 0),
            )
        )
    for adapter in session.mixture.cards.values():
        gate = session.gates.find(adapter.task, adapter.key)
        used, reason = gate is not None and gate.use, _UNJUDGED if gate is None else gate.reason
        if adapter.key == ANY:
            policy = choose_policy(adapter.task, session.settings.answer.model, Options())
            used, reason = policy.engine, policy.reason
        figures = dict(adapter.metrics) | ({} if gate is None else gate.metrics)
        lines.append(
            ExpertLine(
                expert=adapter.id,
                tier=2,
                task=adapter.task,
                trained_for=named(adapter.key),
                used=used,
                reason=reason,
                rows=sum(adapter.rows.values()),
                metrics={name: float(value) for name, value in figures.items()},
                path=list(adapter.path),
                model=adapter.model,
                size_bytes=_size(session.mixture.folder(adapter.id)),
                answers=counts.get(adapter.id, 0),
            )
        )
    return lines


def key_namer(session: Session) -> Callable[[Key], str]:
    """Words a key: names of tables, or of columns."""
    names = {table.digest: table.name for table in session.catalogue.tables()}

    def named(key: Key) -> str:
        if key == ANY:
            return "any tables, where the workspace has no expert of the task"
        if key and not key[0]:
            return " | ".join(", ".join(safe_json.loads(columns)) for columns in key[1:])
        return ", ".join(sorted(dict.fromkeys(names.get(part, part[:8]) for part in key)))

    return named


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
