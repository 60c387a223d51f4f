"""Stages of a mixture that come after its experts: the router over all, and a gate per group.

Paper: MELD §4.4 (router).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from meld_duckdb.planner.gate import gate_json, gate_name
from meld_duckdb.planner.mixture import routed_text
from meld_duckdb.planner.router import write_router
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer
from meld_duckdb.train.asking import Asker
from meld_duckdb.train.gates import fit_gate, opinions_before
from meld_duckdb.train.install import install_router
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.mixture_settings import MoeSettings, asked_inputs
from meld_duckdb.train.outcomes import expert_outcomes
from meld_duckdb.train.router import train_router
from meld_duckdb.train.stages import Metrics, Stage
from meld_duckdb.workspace import write_atomic

_VERSION = 1
_GATE_VERSION = 3


class Routing:
    """The stages over the experts that a workspace has.

    Args:
        session: The workspace, open.
        groups: The labels of all tasks with experts, without those held out.
        settings: Of all stages.
        model: Identity of the language model.
        folder: Where files of the stages are kept.
        notice: Called with a line now and then.
    """

    def __init__(
        self,
        session: Session,
        groups: Sequence[LabelGroup],
        settings: MoeSettings,
        model: str,
        folder: Path,
        notice: Callable[[str], None],
    ) -> None:
        self._session, self._groups, self._settings = session, groups, settings
        self._model, self._folder, self._notice = model, folder, notice

    def _asker(self, group: LabelGroup) -> Asker:
        return Asker(self._session, group, self._settings.demonstrations)

    def router(self) -> Stage:
        """Trains the router from what the experts say to the labels set aside."""
        session = self._session
        out = session.workspace.router_path
        inputs = {g.name: asked_inputs(g, self._model, self._settings) for g in self._groups}

        def work() -> Metrics:
            cards = session.mixture.own
            names = list(cards)
            outcomes, eligible = expert_outcomes(
                list(cards.values()),
                {digest(*inputs[group.name]): group for group in self._groups},
                lambda card, group: self._asker(group).answers(
                    group.dev, session.workspace.adapters_path / card.id, card.path
                ),
                self._folder / "outcomes.json",
                self._notice,
                session.mixture.settings.tasks,
            )
            rows = [(group, row) for group in self._groups for row in group.dev]
            texts = [routed_text(group.task, row.query) for group, row in rows]
            router, report = train_router(
                session.encoder.encode(texts),
                session.encoder.encode([card.description for card in cards.values()]),
                names,
                outcomes,
                self._settings.router,
                session.encoder_digest,
                eligible,
            )
            install_router(
                out, self._folder, lambda folder: write_router(router, folder, report.metrics)
            )
            return {"trained": report.used, "why": report.reason, **report.metrics}

        depends = (
            *(part for of_group in inputs.values() for part in of_group),
            *(card.digest for card in session.mixture.own.values()),
            session.encoder_digest,
            repr(self._settings.router),
            session.mixture.settings.tasks,
        )
        return Stage("router", _VERSION, depends, work, out.is_dir)

    def gate(self, group: LabelGroup) -> Stage:
        """Decides whether the language model answers questions like those of a group."""
        session = self._session
        out = session.workspace.calibration_path / gate_name(group.task, group.key)

        def work() -> Metrics:
            gate = fit_gate(
                group,
                opinions_before(session, group),
                self._mixed_answers(group),
                model_digest=self._model,
                experts=session.mixture.digest(group.task),
                seed=self._settings.seed,
            )
            out.parent.mkdir(exist_ok=True)
            write_atomic(out, gate_json(gate))
            return {"used": gate.use, "why": gate.reason, **gate.metrics}

        inputs = (
            *asked_inputs(group, self._model, self._settings),
            session.mixture.digest(group.task),
            session.demonstrator.digest(group.task),
            str(self._settings.seed),
            *(expert.digest for expert in session.experts.own()),
        )
        return Stage(f"gate {group.name}", _GATE_VERSION, inputs, work, out.is_file)

    def _mixed_answers(self, group: LabelGroup) -> list[Answer]:
        """Answers of the merged experts to the labels set aside, as at query time."""
        mixture, asker = self._session.mixture, self._asker(group)
        found: list[Answer] = [Answer()] * len(group.dev)
        choices = mixture.route(group.task, [row.query for row in group.dev])
        for at in mixture.groups(group.task, choices):
            choice = choices[at[0]]
            rows = [group.dev[i] for i in at]
            adapter = None if choice is None else mixture.adapter(choice).path
            path = () if choice is None else mixture.path(group.task, choice)
            for i, answer in zip(at, asker.answers(rows, adapter, path), strict=True):
                found[i] = answer
        return found
