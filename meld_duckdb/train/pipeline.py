"""Training of a workspace, stage by stage.

    labels -> annotate -> transform -> align -> encoder -> embed -> experts

Every stage reads files of the workspace and writes others, so that a killed run goes on where it
stopped, and one whose inputs did not change is skipped. Rows held out enter none of them.

Paper: MELD §4.1; the stages after these belong to the language model.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meld_duckdb.errors import TrainingError
from meld_duckdb.locks import FileLock
from meld_duckdb.models import model_digest, sha256
from meld_duckdb.planner.session import Session
from meld_duckdb.records import digest
from meld_duckdb.train.align_stage import Alignments, AlignSettings, align_workspace
from meld_duckdb.train.cross_encoder import T1Settings
from meld_duckdb.train.encoder import VERSION as ENCODER_VERSION
from meld_duckdb.train.encoder import EncoderSettings, Progress, tune_encoder
from meld_duckdb.train.expert import may_have_expert
from meld_duckdb.train.expert_stage import expert_stage
from meld_duckdb.train.held_out import NOTHING, HeldOut, question_key
from meld_duckdb.train.label_groups import LEAST, LabelGroup, label_groups, label_keys
from meld_duckdb.train.mixture import MixtureTraining
from meld_duckdb.train.mixture_settings import EXPERTS, MoeSettings, stage_names
from meld_duckdb.train.pseudo_labels import AnnotateSettings, annotate_matches, contexts_of
from meld_duckdb.train.rows import TrainingRow, read_rows, write_rows
from meld_duckdb.train.schedule import Schedule, names_of
from meld_duckdb.train.self_annotate import estimate_noise
from meld_duckdb.train.stage_rows import MADE, labelled_rows, made_rows, rows_digest
from meld_duckdb.train.stages import (
    Finished,
    Metrics,
    Notice,
    Stage,
    clear_half_written,
    read_stages,
    run_stage,
)
from meld_duckdb.train.transform import TRANSFORMS, transform
from meld_duckdb.workspace import adopted_adapter

RETRIEVAL = ("annotate", "transform", "align", "encoder", "embed", "expert")
"""Stages of ``meld train --stages retrieval``, in order."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of a run.

    Attributes:
        annotate: Of the pseudo-labels.
        align: Of the aligned entries.
        encoder: Of the encoder.
        expert: Of tier 1.
        mixture: Of tier 2.
        held_out: Test questions and records, which no stage may touch.
        transformed: Rows made from rows of other tasks, of each task at most.
        seed: Of what is drawn.
    """

    annotate: AnnotateSettings = field(default_factory=AnnotateSettings)
    align: AlignSettings = field(default_factory=AlignSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    expert: T1Settings = field(default_factory=T1Settings)
    mixture: MoeSettings = field(default_factory=MoeSettings)
    held_out: HeldOut = NOTHING
    transformed: int = 1_000
    seed: int = 42


class Pipeline:
    """The stages over one workspace.

    Args:
        session: The workspace, open.
        settings: Of all stages.
        notice: Called with a line when a stage begins and ends.
        progress: Told about steps within a stage.
    """

    def __init__(
        self,
        session: Session,
        settings: TrainSettings,
        notice: Notice,
        progress: Progress | None = None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._notice = notice
        self._progress = progress
        self._folder: Path = session.workspace.path / "train"
        self._schedule = Schedule((), {})

    @property
    def rest_s(self) -> float:
        """Seconds that the stages after the one under way take, as far as is known."""
        return self._schedule.rest_s

    def run(self, tasks: Sequence[str] = (), stages: Sequence[str] = RETRIEVAL) -> list[Finished]:
        """Run stages in order.

        Args:
            tasks: Tasks whose labels are used; all that have labels if empty.
            stages: Some of `RETRIEVAL` and `mixture.EXPERTS`.

        Raises:
            TrainingError: There is no label, or a name is unknown; or the stages are of experts
                alone, and no labels teach one.
        """
        workspace = self._session.workspace
        with FileLock(workspace.path / "train.lock", "which trains", self._notice).hold():
            labels = labelled_rows(self._session, tasks, self._settings.held_out)
            self._folder.mkdir(exist_ok=True)
            clear_half_written(
                self._folder,
                workspace.encoder_folder,
                workspace.experts_path,
                workspace.adapters_path,
            )
            names = [n for stage in RETRIEVAL if stage in stages for n in names_of(stage, labels)]
            leave_out = () if self._settings.mixture.pretrain else ("pretrain",)
            wanted = [s for s in EXPERTS if s in stages and s not in leave_out]
            alone = not any(stage in stages for stage in RETRIEVAL)
            groups = self._groups(labels, alone=alone) if wanted else []
            names += stage_names(groups, wanted)
            self._schedule = Schedule(names, read_stages(workspace))
            done = [
                finished
                for stage in RETRIEVAL
                if stage in stages
                for finished in self._run(_STAGES[stage](self, labels))
            ]
            if groups:
                done += self._run(self._experts(groups, labels).stages(wanted))
            return done

    def _groups(self, labels: Mapping[str, list[TrainingRow]], *, alone: bool) -> list[LabelGroup]:
        """Labels by expert; that there is none is an error only where nothing else is to be run."""
        given = self._settings.mixture
        found = label_groups(
            self._session, labels, dev_parts=given.dev_parts, seed=given.seed, notice=self._notice
        )
        what = f"no task has {LEAST} labels of the same tables or columns that teach an expert"
        if not found and alone:
            raise TrainingError(
                what, hint="give more labels: meld train LABELS, or meld_learn(task, query, answer)"
            )
        if not found:
            self._notice(f"the language model gets no experts: {what}")
        return found

    def _experts(
        self, groups: Sequence[LabelGroup], labels: Mapping[str, list[TrainingRow]]
    ) -> MixtureTraining:
        given, held_out = self._settings.mixture, self._settings.held_out
        every = labelled_rows(self._session, (), held_out)
        rest = {task: rows for task, rows in every.items() if task not in labels}
        others = label_groups(self._session, rest, dev_parts=given.dev_parts, seed=given.seed)
        extra = [row for row in self._made() if row.task in labels]
        keys = label_keys(self._session, labels)
        return MixtureTraining(self._session, groups, extra, given, self._notice, others, keys)

    def _made(self) -> list[TrainingRow]:
        return made_rows(self._session, self._settings.held_out)

    def _run(self, stages: Iterable[Stage]) -> Iterator[Finished]:
        """Run stages, each when the one before it is done."""
        lock = self._session.ledger.write_lock
        for stage in stages:
            place = self._schedule.begin(stage.name)

            def say(line: str, place: str = place) -> None:
                self._notice(f"{place}{line}")

            yield run_stage(self._session.workspace, lock, stage, say, self._schedule.left)

    # Every method below gives the stages of one name; they are run before the next name's are
    # asked for, so that a stage sees what the ones before it wrote. Stages depend on the labels
    # that were read, not on those that are there when they begin: one may be taught in between.

    def _annotate(self, labels: Mapping[str, list[TrainingRow]]) -> Iterator[Stage]:
        rows = labels.get("match")
        if not rows:
            return
        contexts = contexts_of(self._session, rows)
        out = self._folder / "rows-match.jsonl"

        def work() -> Metrics:
            held_out, settings = self._settings.held_out, self._settings.annotate
            found: dict[str, TrainingRow] = {}
            for context in contexts:
                for row in annotate_matches(self._session, context, held_out, settings):
                    found.setdefault(row.query.digest, row)
            known = {row.query.digest for row in rows}
            fresh = [row for row in found.values() if row.query.digest not in known]
            write_rows(out, fresh)
            noise = estimate_noise(list(found.values()), rows)
            counts = Counter(row.origin for row in fresh)
            return {**dict(sorted(counts.items())), **noise.metrics}

        inputs = (
            *(part for context in contexts for part in context),
            rows_digest(rows),
            repr(self._settings.annotate),
            self._settings.held_out.digest,
        )
        yield Stage("annotate match", 1, inputs, work, out.is_file)

    def _transform(self, labels: Mapping[str, list[TrainingRow]]) -> Iterator[Stage]:
        out = self._folder / "rows-transformed.jsonl"
        pseudo = self._folder / "rows-match.jsonl"

        tables = [t.digest for t in self._session.catalogue.tables()]

        def work() -> Metrics:
            rows = [row for those in labels.values() for row in those] + read_rows(pseudo)
            known = {(row.task, question_key(row.query)) for row in rows}
            made = [
                row
                for target in sorted({target for _, target in TRANSFORMS} - {"block"})
                for row in transform(
                    rows,
                    target,
                    random.Random(self._settings.seed),
                    tables=[self._session.tables.index(table).records for table in tables],
                    held_out=self._settings.held_out,
                    most=self._settings.transformed,
                )
                if (row.task, question_key(row.query)) not in known
            ]
            write_rows(out, made)
            counts = Counter(f"{row.origin.partition(':')[2]} to {row.task}" for row in made)
            return dict(sorted(counts.items()))

        seed = str(self._settings.seed)
        inputs = (
            *_digests(labels),
            _content(pseudo),
            *tables,
            f"{seed} {self._settings.transformed}",
            self._settings.held_out.digest,
        )
        yield Stage("transform", 1, inputs, work, out.is_file)

    def _align(self, labels: Mapping[str, list[TrainingRow]]) -> Iterator[Stage]:
        out = self._folder / "aligned.json"
        files = [self._folder / f"rows-{name}.jsonl" for name in MADE]
        tables = [t.digest for t in self._session.catalogue.tables()]

        def work() -> Metrics:
            rows = [row for those in labels.values() for row in those]
            rows += [row for row in self._made() if row.task in labels]
            found = align_workspace(
                rows,
                [self._session.tables.index(digest).records for digest in tables],
                self._session.encode_untuned,
                self._settings.held_out,
                self._settings.align,
                self._session.settings.answer.max_record_chars,
            )
            found.write(out)
            return {
                "to learn from": len(found.learn),
                "to choose by": len(found.dev),
                "entries": len(found.corpus),
            }

        inputs = (
            *_digests(labels),
            *(_content(file) for file in files),
            *tables,
            repr(self._settings.align),
            self._settings.held_out.digest,
        )
        yield Stage("align", 1, inputs, work, out.is_file)

    def _encoder(self, labels: Mapping[str, list[TrainingRow]]) -> Iterator[Stage]:
        aligned = self._folder / "aligned.json"
        base = self._session.encoder_path
        inputs = (_content(aligned), model_digest(base), repr(self._settings.encoder))
        workspace = self._session.workspace
        out = workspace.encoder_folder / digest(str(ENCODER_VERSION), *inputs)

        def work() -> Metrics:
            found = Alignments.read(aligned)
            if not found.learn or not found.dev:
                counts = f"{len(found.learn)} aligned entries to learn from, {len(found.dev)} to"
                return {"used": False, "why": f"{counts} choose by: the encoder stays as it is"}
            tuned = tune_encoder(
                found.learn,
                found.dev,
                found.corpus[-self._settings.align.corpus :],
                base,
                out,
                self._settings.encoder,
                self._progress,
            )
            self._session.adopt_encoder(out if tuned.used else None)
            return {"used": tuned.used, "why": tuned.reason, **tuned.metrics}

        def is_done() -> bool:
            used = self._recorded("encoder").get("used")
            return not used or (out.is_dir() and adopted_adapter(workspace) == out.name)

        yield Stage("encoder", ENCODER_VERSION, inputs, work, is_done)

    def _embed(self, labels: Mapping[str, list[TrainingRow]]) -> Iterator[Stage]:
        tables = [t for t in self._session.catalogue.tables() if t.embedded]

        def work() -> Metrics:
            embedded = 0
            for table in tables:
                records = self._session.tables.index(table.digest).records
                embedded += self._session.index(table.name, records, embed=True).n_embedded
            return {"tables": len(tables), "rows embedded": embedded}

        inputs = (self._session.encoder_digest, *(t.digest for t in tables))
        yield Stage("embed", 1, inputs, work)

    def _expert(self, labels: Mapping[str, list[TrainingRow]]) -> Iterator[Stage]:
        given = self._settings
        files = [_content(self._folder / f"rows-{name}.jsonl") for name in MADE]
        made = self._made()
        for task, rows in labels.items():
            if may_have_expert(task, rows):
                extra = [row for row in made if row.task == task]
                read = (rows_digest(rows), *files)
                yield expert_stage(
                    self._session, task, extra, given.expert, given.held_out, read, self._notice
                )

    def _recorded(self, stage: str) -> Metrics:
        """The metrics of a stage as it was last run; empty where it was not."""
        found: Metrics = read_stages(self._session.workspace).get(stage, {}).get("metrics", {})
        return found


def _digests(labels: Mapping[str, Sequence[TrainingRow]]) -> list[str]:
    return [f"{task} {rows_digest(rows)}" for task, rows in labels.items()]


def _content(path: Path) -> str:
    return sha256(path)[:32] if path.is_file() else ""


_STAGES: Mapping[str, Callable[[Pipeline, Mapping[str, list[TrainingRow]]], Iterator[Stage]]] = {
    "annotate": Pipeline._annotate,
    "transform": Pipeline._transform,
    "align": Pipeline._align,
    "encoder": Pipeline._encoder,
    "embed": Pipeline._embed,
    "expert": Pipeline._expert,
}
