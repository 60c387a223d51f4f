"""``meld train``: let a workspace learn from labels, those it has and those of files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meld_duckdb.cli.expert_options import expert_options, mixture_settings
from meld_duckdb.cli.train_progress import Progress

if TYPE_CHECKING:
    from meld_duckdb.planner.session import Session
    from meld_duckdb.settings import Settings
    from meld_duckdb.train.label_files import Checked, LabelFile
    from meld_duckdb.train.mixture_settings import MoeSettings

_STAGES = ("retrieval", "experts", "all")


@click.command()
@click.argument("labels", nargs=-1)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task of the LABELS; without any, learn from the labels of this task that are there "
    "(may be repeated; all tasks with labels otherwise).",
)
@click.option(
    "--test",
    "tests",
    metavar="LABELS",
    multiple=True,
    help="More labels, all of them test rows: held out of all training. May be repeated.",
)
@click.option(
    "--left",
    "lefts",
    metavar="FILE",
    multiple=True,
    help="Table that ltable_id refers to; one for all LABELS, or one each in order.",
)
@click.option(
    "--right", "rights", metavar="FILE", multiple=True, help="Table that rtable_id refers to."
)
@click.option("--left-key", default="id", show_default=True, help="Key column of --left.")
@click.option("--right-key", default="id", show_default=True, help="Key column of --right.")
@click.option(
    "--stages",
    type=click.Choice(_STAGES),
    default="retrieval",
    show_default=True,
    help="Which part of the training: retrieval makes pseudo-labels, encoder and tier 1; experts "
    "trains adapters of the language model and their router.",
)
@expert_options
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of every stage as JSON.")
def train(
    labels: tuple[str, ...],
    tasks: tuple[str, ...],
    tests: tuple[str, ...],
    lefts: tuple[str, ...],
    rights: tuple[str, ...],
    left_key: str,
    right_key: str,
    stages: str,
    workspace: Path | None,
    as_json: bool,
    **experts: Any,
) -> None:
    """Learn LABELS and train on all labels and the indexed tables of a workspace.

    LABELS are Parquet, CSV or JSON files, or FILE.duckdb:TABLE; TASK=FILE names the task of one.
    Rows whose split is 'test' or 'valid' are left out. A stage whose inputs did not change is
    skipped, so that a run that was stopped goes on where it was.
    """
    from meld_duckdb.cli.label_sources import read_label_files
    from meld_duckdb.settings import resolve
    from meld_duckdb.train.label_files import check_labels

    mixture = mixture_settings(stages, **experts)
    settings, _ = resolve({"workspace": workspace})
    keys = (left_key, right_key)
    files = read_label_files(labels, tests, tasks, (lefts, rights), keys)
    done = _train(settings, check_labels(files), files, tasks, stages, mixture)
    if as_json:
        click.echo(json.dumps(done, indent=1))


def _train(
    settings: Settings,
    given: Sequence[Checked],
    files: Sequence[LabelFile],
    tasks: Sequence[str],
    part: str,
    mixture: MoeSettings,
) -> list[dict[str, Any]]:
    """Check labels against the workspace, learn them, train, and ask about validation rows."""
    from meld_duckdb.train.given_labels import remember_held_out
    from meld_duckdb.train.judge_valid import judge_valid
    from meld_duckdb.train.mixture_settings import EXPERTS
    from meld_duckdb.train.pipeline import RETRIEVAL, Pipeline, TrainSettings
    from meld_duckdb.train.pseudo_labels import held_out_of

    shown = Progress()
    session = _reviewed(settings, given, shown)
    if (unfit := session.shed_adapter()) is not None:
        shown.line(f"{unfit}: it is tuned anew")
    held_out = held_out_of(session) | remember_held_out(session, given)
    rows = _learned(session, given, files, shown)
    how = TrainSettings(held_out=held_out, mixture=mixture)
    pipeline = Pipeline(session, how, notice=shown.line, progress=shown.step)
    shown.rest_s = lambda: pipeline.rest_s
    wanted = tuple(dict.fromkeys((*tasks, *(labels.task for labels in given))))
    stages = {"retrieval": RETRIEVAL, "experts": EXPERTS, "all": (*RETRIEVAL, *EXPERTS)}[part]
    for f in pipeline.run(wanted, stages):
        rows.append({"stage": f.name, "seconds": f.seconds, "skipped": f.skipped, **f.metrics})
    for labels in given:
        if labels.valid:
            found = judge_valid(session, labels.task, labels.valid)
            said = ", ".join(f"{name} {value}" for name, value in found.items())
            shown.line(f"validation rows of {labels.task}: {said}")
            rows.append({"stage": f"valid {labels.task}", **found})
    return rows


def _reviewed(settings: Settings, given: Sequence[Checked], shown: Progress) -> Session:
    """Open the workspace, once the labels are known to be good for it."""
    from meld_duckdb.service import LocalService
    from meld_duckdb.train.given_labels import held_out_path, review
    from meld_duckdb.train.held_out import NOTHING, HeldOut
    from meld_duckdb.workspace import is_workspace

    if not is_workspace(settings.workspace):
        for labels in given:
            review(labels, {}, NOTHING)
        session = LocalService(settings).session
    else:
        session = LocalService(settings).session
        remembered = HeldOut.read(held_out_path(session.workspace))
        for labels in given:
            review(labels, session.demonstrator.labels(labels.task), remembered)
    for labels in given:
        for line in (*labels.lines, *(f"warning: {text}" for text in labels.warnings)):
            shown.line(line)
    return session


def _learned(
    session: Session, given: Sequence[Checked], files: Sequence[LabelFile], shown: Progress
) -> list[dict[str, Any]]:
    """Index the tables of the labels and learn the labels; gives a row per task."""
    from meld_duckdb.train.given_labels import index_tables, teach

    tables = {table.name: table for file in files for table in file.tables or ()}
    for line in index_tables(session, list(tables.values())):
        shown.line(line)
    rows: list[dict[str, Any]] = []
    for labels in given:
        learned = teach(session, labels)
        held = {"test": len(labels.test), "valid": len(labels.valid)}
        rows.append({"stage": f"labels {labels.task}", "learned": learned, **held})
        shown.line(
            f"labels {labels.task}: {learned} learned, {held['test']} test and "
            f"{held['valid']} validation rows held out"
        )
    return rows
