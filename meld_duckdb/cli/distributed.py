"""``meld distributed``: large tables by many processes, on this machine or a Ray cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meld_duckdb.cli.index import Progress, say_over

if TYPE_CHECKING:
    from meld_duckdb.distributed import Report, Work

_HOW = (
    click.option("--actors", default=1, show_default=True, help="Processes that work at a time."),
    click.option("--cpus", default=1.0, show_default=True, help="Cores that each takes."),
    click.option("--gpus", default=0.0, show_default=True, help="Devices that each takes."),
    click.option("--batch-rows", default=10_000, show_default=True, help="Rows of a partition."),
    click.option("--address", help="A Ray cluster, 'auto' for the one here; else one is started."),
    click.option(
        "--workspace",
        type=click.Path(path_type=Path),
        help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON line."),
)
_TABLES = (
    click.option("--k", default=10, show_default=True, help="Candidates of a row."),
    click.option(
        "--method", default="lexical", show_default=True, help="How candidates are found."
    ),
)
_SHARDS = (
    click.option(
        "--shard-rows",
        default=1_000_000,
        show_default=True,
        help="Rows of the right table that are searched at a time.",
    ),
)
_NAMES = (
    click.option("--l-id", default="id", show_default=True, help="Column naming left rows."),
    click.option("--r-id", default="id", show_default=True, help="Column naming right rows."),
)
_JUDGED = (
    click.option("--threshold", type=float, help="Probability from which a pair matches."),
    click.option("--tier", type=click.Choice(["t0", "t1", "t2"]), help="Who settles every pair."),
    click.option(
        "--context",
        type=click.Choice(["auto", "whole", "neighbourhood"]),
        default="auto",
        show_default=True,
        help="What of the tables is context of a pair.",
    ),
)
Command = Callable[..., None]


def _with(*options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Give a command several groups of options, in order."""

    def add(command: Command) -> Command:
        for option in reversed([option for group in options for option in group]):
            command = option(command)
        return command

    return add


@click.group("distributed")
def distributed() -> None:
    """Work on large tables by many processes; run again after a kill, it goes on where it stopped.

    INPUT, LEFT and RIGHT are a Parquet file, folder or pattern, or FILE.duckdb:TABLE. OUTPUT is a
    folder of Parquet files.
    """


@distributed.command("run")
@click.argument("statement")
@click.argument("source", metavar="INPUT")
@click.argument("output", type=click.Path(path_type=Path))
@_with(_HOW)
def run(statement: str, source: str, output: Path, **given: Any) -> None:
    """Run a SELECT over every partition of a table, which it calls part."""
    from meld_duckdb.distributed import map_rows

    work, settings, as_json = _work(given)
    _print(map_rows(statement, source, output, work, **settings), as_json)


@distributed.command("block")
@click.argument("left")
@click.argument("right")
@click.argument("output", type=click.Path(path_type=Path))
@_with(_TABLES, _NAMES, _SHARDS, _HOW)
def block(left: str, right: str, output: Path, **given: Any) -> None:
    """Find the k rows of RIGHT most likely the same as each row of LEFT."""
    from meld_duckdb.distributed import block as job

    work, settings, as_json = _work(given)
    _print(job(left, right, output, work, **given, **settings), as_json)


@distributed.command("join")
@click.argument("left")
@click.argument("right")
@click.argument("output", type=click.Path(path_type=Path))
@_with(_TABLES, _NAMES, _JUDGED, _SHARDS, _HOW)
def join(left: str, right: str, output: Path, **given: Any) -> None:
    """Find the pairs of rows that match."""
    from meld_duckdb.distributed import join as job

    work, settings, as_json = _work(given)
    _print(job(left, right, output, work, **given, **settings), as_json)


@distributed.command("dedupe")
@click.argument("source", metavar="INPUT")
@click.argument("output", type=click.Path(path_type=Path))
@_with(_TABLES, _JUDGED, _SHARDS)
@click.option("--id", "id", default="id", show_default=True, help="Column naming the rows.")
@click.option(
    "--linkage",
    type=click.Choice(["majority", "components"]),
    default="majority",
    show_default=True,
    help="How matching pairs make clusters.",
)
@_with(_HOW)
def dedupe(source: str, output: Path, **given: Any) -> None:
    """Put the rows that describe the same thing into clusters."""
    from meld_duckdb.distributed import dedupe as job

    work, settings, as_json = _work(given)
    _print(job(source, output, work, **given, **settings), as_json)


def _work(given: dict[str, Any]) -> tuple[Work, dict[str, Any], bool]:
    """Take out of the options what says how the work is done."""
    from meld_duckdb.distributed import Cluster, Work

    cluster = Cluster(**{name: given.pop(name) for name in ("address", "actors", "cpus", "gpus")})
    how = {
        name: given.pop(name) for name in ("batch_rows", "shard_rows", "context") if name in given
    }
    work = Work(cluster, **how, tell=_Told())
    return work, {"workspace": given.pop("workspace")}, given.pop("as_json")


class _Told:
    """Tells how far a job is: one line a stage."""

    def __init__(self) -> None:
        self._shown: tuple[str, Progress] | None = None

    def __call__(self, stage: str, finished: int, total: int) -> None:
        if self._shown is None or self._shown[0] != stage:
            self._end()
            unit = "partitions"
            self._shown = stage, Progress(stage, sys.stderr.isatty(), say_over, unit=unit)
        self._shown[1](finished, total)
        if finished == total:
            self._end()

    def _end(self) -> None:
        if self._shown is not None:
            self._shown[1].end()


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(report), default=str, ensure_ascii=False))
        return
    click.echo(
        f"{report.rows} rows in {report.partitions} files of {report.output}; {report.computed} "
        f"partitions computed, {report.seconds:.1f} s"
    )
    if report.failures:
        click.echo(
            f"{report.failures} questions have no answer, the first because {report.first_failure}",
            err=True,
        )
