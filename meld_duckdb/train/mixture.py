"""Training of the mixture of experts, stage by stage.

    groups of labels -> pretrain, each task with several groups
                     -> adapter -> path -> refine -> install, each group
                     -> router over all experts -> gate, each group

Every stage leaves a file or directory in ``<workspace>/train``; `train.stages` skips what did not
change. Nothing of a label that was set aside enters an expert.

Paper: MELD §4.2 (initial experts, meta-paths), §4.3 (refinement); the router: `train.routing`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from meld_duckdb import safe_json
from meld_duckdb.errors import TrainingError
from meld_duckdb.models import model_digest
from meld_duckdb.planner.adapter_card import AdapterCard
from meld_duckdb.planner.expert_card import Key
from meld_duckdb.planner.expert_list import key_namer
from meld_duckdb.planner.metapath import Path as MetaPath
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.train.aside import note_aside, parted_as_trained
from meld_duckdb.train.asking import Asker
from meld_duckdb.train.clearing import clear_half_saved, put_aside_unreadable, remove_former
from meld_duckdb.train.install import (
    file_digest,
    install_adapter,
    new_card,
    weights_digest,
)
from meld_duckdb.train.label_groups import LabelGroup, not_set_aside, rows_by_group
from meld_duckdb.train.lora import LoraSettings, has_shape, train_adapter
from meld_duckdb.train.metapath import search_path
from meld_duckdb.train.mixture_settings import (
    EXPERTS,
    MoeSettings,
    as_asked,
    group_inputs,
    shared_tasks,
)
from meld_duckdb.train.refine import diverse_rows, finished_round, refine
from meld_duckdb.train.routing import Routing
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.stages import Metrics, Stage, read_stages
from meld_duckdb.workspace import write_atomic

_VERSION = 1


class MixtureTraining:
    """The stages over one workspace.

    Args:
        session: The workspace, open.
        groups: The labels, without those held out.
        extra: Rows that are no labels, of all tasks.
        settings: Of all stages.
        notice: Called with a line now and then.
        others: Labels of tasks that are not trained now; their experts share the router.
        keys: Labels of the tasks that are, by task and key; see `label_groups.label_keys`.
    """

    def __init__(
        self,
        session: Session,
        groups: Sequence[LabelGroup],
        extra: Sequence[TrainingRow],
        settings: MoeSettings,
        notice: Callable[[str], None],
        others: Sequence[LabelGroup] = (),
        keys: Mapping[tuple[str, Key], Collection[str]] = MappingProxyType({}),
    ) -> None:
        max_chars = session.settings.answer.max_record_chars
        self._settings = settings = as_asked(settings, session.mixture.settings, max_chars)
        self._session, self._notice = session, notice
        self._groups, self._others, self._keys = groups, others, keys
        self._extra = rows_by_group(session, groups, extra, settings.extra)
        self._folder = session.workspace.path / "train" / "experts"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._base = session.model_path
        self._model = model_digest(self._base)
        self._pretrained = False

    def stages(self, names: Sequence[str] = EXPERTS) -> Iterator[Stage]:
        """The stages of some names, in order; each sees what those before it wrote.

        A group that cannot be trained is told and left out; the others go on.

        Raises:
            TrainingError: No group can be trained.
        """
        clear_half_saved(self._folder)
        put_aside_unreadable(self._session.workspace, self._notice)
        self._pretrained = "pretrain" in names and self._settings.pretrain
        for task in shared_tasks(self._groups):
            if self._pretrained:
                yield self._pretrain(task)
        for group in self._groups:
            if "adapter" in names:
                yield self._adapter(group)
            if why := self._why_not(f"adapter {group.name}"):
                self._leave_out(group, why)
                continue
            for name in ("path", "refine"):
                if name in names:
                    yield getattr(self, f"_{name}")(group)
        self._check_any()
        if "refine" in names:  # only now, so that a task is never without the one or the other
            remove_former(self._session.workspace, self._folder, self._keys, self._notice)
        routed = self._routed()
        routing = Routing(
            self._session, routed, self._settings, self._model, self._folder, self._notice
        )
        if "router" in names and routed:
            yield routing.router()
        if "gate" in names:
            for group in routed:
                yield routing.gate(group)

    def _routed(self) -> list[LabelGroup]:
        """The labels that the router is fitted to, in one order whatever is trained now."""
        tasks = {card.task for card in self._session.mixture.own.values()}
        others = [group for group in self._others if group.task in tasks]
        groups = sorted((*self._groups, *others), key=lambda group: (group.task, group.key))
        parted = (parted_as_trained(self._folder / group.name, group) for group in groups)
        return [group for group in parted if group.dev]

    def _why_not(self, stage: str) -> str | None:
        """Why a stage trained nothing when it was last run; None where it did, or never ran."""
        metrics = read_stages(self._session.workspace).get(stage, {}).get("metrics", {})
        return str(metrics["why"]) if metrics.get("used") is False else None

    def _was_tried(self, stage: str, out: Path) -> bool:
        return out.is_dir() or self._why_not(stage) is not None

    def _leave_out(self, group: LabelGroup, why: str) -> None:
        place = key_namer(self._session)(group.key)
        self._notice(f"no expert of {group.task} for {place} is trained: {why}")

    def _check_any(self) -> None:
        reasons = [self._why_not(f"adapter {group.name}") for group in self._groups]
        if reasons and all(reasons):
            raise TrainingError(
                f"none of the {len(reasons)} experts could be trained; of the first: {reasons[0]}",
                hint="give labels with both answers, or other options: meld train --help",
            )

    def _asker(self, group: LabelGroup) -> Asker:
        return Asker(self._session, group, self._settings.demonstrations)

    def _train(
        self,
        group: LabelGroup,
        rows: Sequence[TrainingRow],
        out: Path,
        settings: LoraSettings,
        path: MetaPath,
    ) -> Path:
        asker = self._asker(group)
        train_adapter(
            rows,
            self._base,
            out,
            settings,
            dev=group.dev,
            progress=self._notice,
            prompt=asker.prompting([*rows, *group.dev], path),
        )
        return out

    def _pretrain(self, task: str) -> Stage:
        """One adapter from the labels of all tables of a task: where their experts begin."""
        out = self._folder / f"pretrain-{task}"
        groups = [group for group in self._groups if group.task == task]
        rows = [row for group in groups for row in not_set_aside(group.learn, group, self._groups)]
        dev = [row for group in groups for row in group.dev]
        settings, begin = self._settings, self._begin(task)

        def work() -> Metrics:
            makers = {}
            for group in groups:
                asked = [*group.learn, *group.dev]
                maker = self._asker(group).prompting(asked)
                makers.update({row.query.digest: maker for row in asked})
            try:
                trained = train_adapter(
                    rows,
                    self._base,
                    out,
                    replace(settings.lora, start=begin),
                    dev=dev,
                    progress=self._notice,
                    prompt=lambda row, limit: makers[row.query.digest](row, limit),
                )
            except TrainingError as error:  # all labels of the task have one answer
                return _untrained(error)
            losses = trained.dev_losses
            return {
                "groups": len(groups),
                "rows": len(rows),
                "log_loss": round(min(losses), 4) if losses else None,
            }

        inputs = (
            *(group.digest for group in groups),
            *(row.digest for row in rows),
            self._model,
            repr(replace(settings.lora, start=None)),
            f"{settings.dev_parts} {settings.demonstrations} {settings.seed}",
            weights_digest(begin),
        )
        name = f"pretrain {task}"
        return Stage(name, _VERSION, inputs, work, lambda: self._was_tried(name, out))

    def _start(self, task: str) -> str | None:
        """Where the first adapter of a group begins; None for the language model as it is."""
        shared = self._pretrained and task in shared_tasks(self._groups)
        if shared and not self._why_not(f"pretrain {task}"):
            return str(self._folder / f"pretrain-{task}")
        return self._begin(task)

    def _begin(self, task: str) -> str | None:
        """Where a task begins: the adapter of the settings, or a starter of their shape."""
        lora = self._settings.lora
        if lora.start is not None:
            return lora.start
        found = self._session.mixture.starter(task)
        return str(found) if found is not None and has_shape(found, lora) else None

    def _adapter(self, group: LabelGroup) -> Stage:
        out = self._folder / group.name / "0"
        rows = [*group.learn, *self._extra[group.name]]
        start = self._start(group.task)
        settings = replace(self._settings.lora, start=start)

        def work() -> Metrics:
            try:
                self._train(group, rows, out, settings, ())
            except TrainingError as error:  # its labels have one answer, or are too long
                return _untrained(error)
            metric, likely = self._asker(group).score(out)
            return {
                "rows": len(rows),
                "set aside": len(group.dev),
                "score": round(metric, 4),
                "log_loss": round(-likely, 4),
            }

        inputs = (
            *group_inputs(group, self._model, self._settings),
            weights_digest(start),
            *(sorted(row.digest for row in rows)),
        )
        name = f"adapter {group.name}"
        return Stage(name, _VERSION, inputs, work, lambda: self._was_tried(name, out))

    def _path(self, group: LabelGroup) -> Stage:
        out = self._folder / group.name / "path.json"
        adapter = self._folder / group.name / "0"

        def work() -> Metrics:
            asker = self._asker(group)
            known: dict[str, float] = {}

            def score(path: MetaPath) -> float:
                rows = asker.completed(group.dev, path)
                key = digest(*(row.query.digest for row in rows))
                if key not in known:
                    known[key] = asker.score(adapter, path)[0]
                return known[key]

            settings = self._settings
            path, log = search_path(score, settings.sub_paths) if settings.path else ((), [])
            tried = [
                {"round": t.round, "path": t.path, "score": round(t.score, 4), "taken": t.accepted}
                for t in log
            ]
            write_atomic(out, json.dumps({"path": path, "tried": tried}, indent=1))
            return {"path": " > ".join(path) or "none", "tried": len(log)}

        inputs = (
            *group_inputs(group, self._model, self._settings),
            file_digest(adapter / "adapter_model.safetensors"),
            f"{self._settings.path} {self._settings.sub_paths}",
        )
        return Stage(f"path {group.name}", _VERSION, inputs, work, out.is_file)

    def _refine(self, group: LabelGroup) -> Stage:
        folder = self._folder / group.name
        path = self._found_path(group)
        others = [
            row
            for other in self._groups
            if other.task == group.task and other.key != group.key
            for row in not_set_aside((*other.learn, *self._extra[other.name]), other, self._groups)
        ]

        def work() -> Metrics:
            asker = self._asker(group)
            rows = [*group.learn, *self._extra[group.name]]
            first = asker.score(folder / "0", path)
            labels = TASKS[group.task].labels
            added = diverse_rows(
                asker.embed(group.learn),
                others,
                asker.embed(others) if others else np.zeros((0, 1), np.float32),
                self._settings.refine,
                None if labels is None else labels[0],
                self._settings.seed,
            )

            def learn_on(number: int, last: Path, more: Sequence[TrainingRow]) -> Path:
                lora = replace(self._settings.lora, start=str(last))
                out, learned = folder / str(number), [*rows, *more]
                made_from = (
                    *group_inputs(group, self._model, self._settings),
                    weights_digest(str(last)),
                    *path,
                    *(row.digest for row in learned),
                )
                try:
                    return finished_round(
                        out, made_from, lambda: self._train(group, learned, out, lora, path)
                    )
                except TrainingError as error:
                    self._notice(f"round {number} of {group.name} is left out: {error.what}")
                    return last

            best, log = refine(folder / "0", first, added, learn_on, lambda p: asker.score(p, path))
            card = self._card(group, path, rows, log[int(best.name)].score)
            installed = install_adapter(self._session.workspace.adapters_path, card, best)
            note_aside(folder, group)
            return {
                "id": installed.id,
                "best round": int(best.name),
                "scores": " ".join(f"{r.score[0]:.3f}" for r in log),
            }

        inputs = (
            *group_inputs(group, self._model, self._settings),
            file_digest(folder / "0" / "adapter_model.safetensors"),
            *path,
            repr(self._settings.refine),
            *sorted(row.digest for row in others),
        )
        installed = self._session.workspace.adapters_path
        return Stage(
            f"refine {group.name}",
            _VERSION,
            inputs,
            work,
            lambda: any(installed.glob(f"{group.name}-*")),
        )

    def _card(
        self,
        group: LabelGroup,
        path: MetaPath,
        rows: Sequence[TrainingRow],
        score: tuple[float, float],
    ) -> AdapterCard:
        begin = weights_digest(self._start(group.task))
        return new_card(
            group,
            self._settings,
            (self._session.settings.answer.model, self._model),
            path=path,
            begin=begin,
            rows=rows,
            score=score,
            inputs=digest(*group_inputs(group, self._model, self._settings), begin, *path),
        )

    def _found_path(self, group: LabelGroup) -> MetaPath:
        file = self._folder / group.name / "path.json"
        if not file.is_file():
            return ()
        return tuple(safe_json.read(file)["path"])


def _untrained(error: TrainingError) -> Metrics:
    return {"used": False, "why": error.what}
