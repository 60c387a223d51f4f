"""``meld estimate``: what a statement will cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meld_duckdb.cli.run import open_database, print_table
from meld_duckdb.register import estimate as estimate_statement

if TYPE_CHECKING:
    from meld_duckdb.estimate.service import EstimateLine

_COUNTS = (
    "rows",
    "distinct_inputs",
    "cache_hits",
    "evaluations",
    "tier0",
    "tier1",
    "tier2",
    "engine_prompts",
    "prompt_tokens",
)


@click.command()
@click.argument("statement")
@click.option(
    "--db", "database", default=":memory:", show_default=True, help="DuckDB file to open."
)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    help="Different inputs of a task that are all looked at; of more, a sample is (default 2000).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def estimate(
    statement: str, database: str, workspace: Path | None, sample: int | None, as_json: bool
) -> None:
    """Tell what an SQL statement will cost: rows, tiers, prompts, seconds. Nothing is kept."""
    connection = open_database(database, workspace)
    lines = estimate_statement(connection, statement, sample=sample)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(line) for line in lines]))
        return
    from meld_duckdb.estimate.service import LOADING

    functions = [line for line in lines if line.function != LOADING]
    if not functions:
        click.echo("the statement asks nothing of meld")
        return
    rows = [_cells(line) for line in functions]
    if len(functions) > 1:
        rows.append(_total(functions))
    print_table(("function", *_COUNTS, "seconds", "exact"), rows)
    for line in lines:
        if line.function == LOADING:
            click.echo(f"{LOADING}: {_seconds(line.seconds)} s")


def _cells(line: EstimateLine) -> tuple[str, ...]:
    counts = (str(getattr(line, name)) for name in _COUNTS)
    return (line.function, *counts, _seconds(line.seconds), "yes" if line.exact else "no")


def _total(lines: Sequence[EstimateLine]) -> tuple[str, ...]:
    counts = (str(sum(getattr(line, name) for line in lines)) for name in _COUNTS)
    known = [line.seconds for line in lines if line.seconds is not None]
    seconds = sum(known) if len(known) == len(lines) else None
    exact = all(line.exact for line in lines)
    return ("total", *counts, _seconds(seconds), "yes" if exact else "no")


def _seconds(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
