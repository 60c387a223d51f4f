"""``meld train``: let a workspace learn from its labels."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

_STAGES = ("retrieval", "experts", "all")


@click.command()
@click.option(
    "--stages",
    type=click.Choice(_STAGES),
    default="retrieval",
    show_default=True,
    help="Which part of the training: retrieval makes pseudo-labels, encoder and tier 1; experts "
    "trains adapters of the language model and their router.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Learn from the labels of this task; may be repeated. All tasks with labels otherwise.",
)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of every stage as JSON.")
def train(stages: str, tasks: tuple[str, ...], workspace: Path | None, as_json: bool) -> None:
    """Learn from the labels and the indexed tables of a workspace.

    Rows indexed as split 'test' are left out. A stage whose inputs did not change is skipped, so
    that a run that was stopped goes on where it was.
    """
    from meld_duckdb.service import LocalService
    from meld_duckdb.settings import resolve
    from meld_duckdb.train.mixture import EXPERTS
    from meld_duckdb.train.pipeline import RETRIEVAL, Pipeline, TrainSettings
    from meld_duckdb.train.pseudo_labels import held_out_of

    settings, _ = resolve({"workspace": workspace})
    session = LocalService(settings).session
    held_out = held_out_of(session)
    shown = Progress()
    pipeline = Pipeline(
        session,
        TrainSettings(held_out=held_out),
        notice=shown.line,
        progress=shown.step,
    )
    parts = {"retrieval": RETRIEVAL, "experts": EXPERTS, "all": (*RETRIEVAL, *EXPERTS)}
    finished = pipeline.run(tasks, parts[stages])
    if as_json:
        rows = [
            {"stage": f.name, "seconds": f.seconds, "skipped": f.skipped, **dict(f.metrics)}
            for f in finished
        ]
        click.echo(json.dumps(rows, indent=1))


class Progress:
    """Steps of a stage on standard error: on one line of a terminal, else now and then."""

    every_s = 10.0

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._open = False
        self._what = ""

    def line(self, text: str) -> None:
        """Print a line of its own."""
        if self._open:
            click.echo(err=True)
        self._open, self._what = False, ""
        click.echo(text, err=True)

    def step(self, what: str, done: int, total: int) -> None:
        """Show how far a stage is and how long it will take."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._shown_at = what, now, 0.0
        terminal = self._stream.isatty()
        if done < total and now - self._shown_at < (0.5 if terminal else self.every_s):
            return
        self._shown_at = now
        left = (now - self._started) / max(done, 1) * (total - done)
        text = f"{what}: {done} of {total}, about {left:.0f} s left"
        click.echo(f"\r{text}\x1b[K" if terminal else text, err=True, nl=not terminal)
        self._open = terminal
