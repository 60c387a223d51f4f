"""``meld train``: let a workspace learn from labels, those it has and those of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meld_duckdb.cli.train_progress import Progress

if TYPE_CHECKING:
    from meld_duckdb.settings import Settings
    from meld_duckdb.train.label_files import Checked, KeyedTable, LabelFile, Split

_STAGES = ("retrieval",)


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
    help="Which part of the training: retrieval makes pseudo-labels, encoder and tier 1.",
)
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
) -> None:
    """Learn LABELS and train on all labels and the indexed tables of a workspace.

    LABELS are Parquet, CSV or JSON files, or FILE.duckdb:TABLE; TASK=FILE names the task of one.
    Rows whose split is 'test' or 'valid' are left out. A stage whose inputs did not change is
    skipped, so that a run that was stopped goes on where it was.
    """
    from meld_duckdb.settings import resolve

    settings, _ = resolve({"workspace": workspace})
    shown = Progress()
    files = _files(labels, tests, tasks, lefts, rights, (left_key, right_key))
    done = _train(settings, files, tasks, shown)
    if as_json:
        click.echo(json.dumps(done, indent=1))
