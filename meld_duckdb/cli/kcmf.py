"""``meld kcmf``: the rules that knowledge-compliant matching follows."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meld_duckdb.kcmf.rules import TASKS
from meld_duckdb.settings import resolve
from meld_duckdb.workspace import Workspace

_WORKSPACE = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
_TASK = click.option(
    "--task", type=click.Choice(TASKS), help="Their task, where both have rules of that name."
)


@click.group("kcmf")
def kcmf_group() -> None:
    """Knowledge-compliant matching: what it goes by."""


@kcmf_group.group()
def rules() -> None:
    """Keep rules for matching in the workspace, to be named in queries."""


@rules.command()
@click.argument("name")
@click.argument("source")
@click.option("--task", type=click.Choice(TASKS), required=True, help="What the rules match.")
@click.option("--replace", is_flag=True, help="Overwrite the rules of that name and task.")
@_WORKSPACE
def add(name: str, source: str, task: str, replace: bool, workspace: Path | None) -> None:
    """Keep the rules of SOURCE as NAME.

    SOURCE is a file (CSV, Parquet, JSON) or FILE.duckdb:TABLE with the columns ord, condition,
    then, else, and perhaps unmet and check.
    """
    from meld_duckdb.cli.label_sources import parse_source, read_source
    from meld_duckdb.kcmf.rule_files import save_rules
    from meld_duckdb.kcmf.rules import read_rules
    from meld_duckdb.workspace import open_workspace

    parsed = parse_source(source)
    if parsed.task is not None:
        raise click.UsageError(f"name the task with --task, and the file alone: {parsed.given}")
    read = read_rules(name, task, read_source(parsed).rows)
    settings, _ = resolve({"workspace": workspace})
    save_rules(open_workspace(settings.workspace), read, replace=replace)
    click.echo(f"{name}: {len(read.rules)} rules of {task} kept")


@rules.command("list")
@_WORKSPACE
def list_(workspace: Path | None) -> None:
    """List the rules that can be named, and where they come from."""
    from meld_duckdb.cli.run import print_table
    from meld_duckdb.kcmf.rule_files import list_rules

    rows = [
        (
            listed.name,
            listed.task,
            "" if listed.rules is None else str(len(listed.rules.rules)),
            "built in" if listed.built_in else "workspace",
            f"damaged: meld kcmf rules remove {listed.name} --task {listed.task}"
            if listed.rules is None
            else "ready",
        )
        for listed in list_rules(_folder(workspace))
    ]
    print_table(("name", "task", "rules", "source", "state"), rows)


@rules.command()
@click.argument("name")
@_TASK
@_WORKSPACE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per rule, as add reads.")
def show(name: str, task: str | None, workspace: Path | None, as_json: bool) -> None:
    """Show the rules NAME as the prompt has them."""
    from meld_duckdb.kcmf.rule_files import load_rules, task_of

    folder = _folder(workspace)
    shown = load_rules(folder, name, task or task_of(folder, name))
    if as_json:
        for row in shown.rows():
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        click.echo(shown.text())


@rules.command()
@click.argument("name")
@_TASK
@_WORKSPACE
def remove(name: str, task: str | None, workspace: Path | None) -> None:
    """Remove the rules NAME from the workspace."""
    from meld_duckdb.kcmf.rule_files import remove_rules, task_of

    folder = _folder(workspace)
    task = task or task_of(folder, name)
    remove_rules(folder, name, task)
    click.echo(f"{name}: rules of {task} removed")


def _folder(workspace: Path | None) -> Path:
    """Where the rules of the workspace are; it need not be there."""
    settings, _ = resolve({"workspace": workspace})
    return Workspace(settings.workspace.absolute()).rules_path
