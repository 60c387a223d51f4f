"""``meld workspace``: what happened to index and labels, and how to undo or mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meld_duckdb.settings import resolve

if TYPE_CHECKING:
    from meld_duckdb.planner.ledger import Ledger

_WORKSPACE = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
_TABLES = ("tables", "entries", "labels", "knowledge")


@click.group("workspace")
def workspace_group() -> None:
    """Undo, mend and tidy what is indexed and learned."""


@workspace_group.command()
@_WORKSPACE
def versions(workspace: Path | None) -> None:
    """List the operations that can be gone back to: when, what, and the rows there were after."""
    from meld_duckdb.cli.run import print_table

    operations = _ledger(workspace).operations()
    rows = [
        (
            str(op.version),
            op.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            op.what,
            *(str(op.n_rows.get(name, 0)) for name in _TABLES),
        )
        for op in operations
    ]
    print_table(("version", "time", "what", *_TABLES), rows)


@workspace_group.command()
@click.argument("version", type=int)
@_WORKSPACE
def rollback(version: int, workspace: Path | None) -> None:
    """Bring index, labels and facts back to what they were after VERSION; can itself be undone."""
    ledger = _ledger(workspace)
    ledger.rollback(version)
    click.echo(f"back at version {version}, kept as version {ledger.operations()[-1].version}")


@workspace_group.command()
@click.option(
    "--vectors",
    is_flag=True,
    help="Also forget all vectors, for an encoder whose vectors have another length.",
)
@_WORKSPACE
def rebuild(vectors: bool, workspace: Path | None) -> None:
    """Make the catalogue of tables and labels anew from what can be read of a damaged index."""
    from meld_duckdb.retrieval.catalogue import is_whole
    from meld_duckdb.workspace import Workspace, mend_manifest, set_aside

    dimension = _dimension() if vectors else None
    place = Workspace(resolve({"workspace": workspace})[0].workspace.absolute())
    aside = mend_manifest(place)
    if aside is not None:
        click.echo(f"the damaged manifest is kept as {aside}; meld train trains anew", err=True)
    if not is_whole(place.catalogue_path):
        aside = set_aside(place.catalogue_path)
        click.echo(f"the damaged catalogue is kept as {aside}", err=True)
    ledger = _ledger(workspace)
    for line in ledger.rebuild():
        click.echo(line, err=True)
    if dimension is not None:
        ledger.forget_vectors(dimension)
        click.echo("no row has a vector now: index the tables again, and meld train", err=True)
    counts = ledger.operations()[-1].n_rows
    click.echo(f"{counts.get('tables', 0)} tables, {counts.get('labels', 0)} labels")


def _dimension() -> int:
    """Length of the vectors of the encoder that the settings name."""
    from meld_duckdb.models import locate
    from meld_duckdb.retrieval.encoder import Encoder, read_dimension

    settings, _ = resolve()
    path = locate(settings.answer.encoder, settings.model_dir, "encoder")
    return read_dimension(path) or Encoder(path, device=settings.device).dimension


@workspace_group.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Versions that can still be gone back to.",
)
@_WORKSPACE
def compact(keep: int, workspace: Path | None) -> None:
    """Merge small files and remove versions, so that less disk is used."""
    _ledger(workspace).compact(keep)


@workspace_group.command()
@click.argument("table")
@_WORKSPACE
def drop(table: str, workspace: Path | None) -> None:
    """Forget the indexed TABLE; the table itself is not touched."""
    click.echo(f"{table}: {_ledger(workspace).drop_table(table)} rows forgotten")


def _ledger(path: Path | None) -> Ledger:
    from meld_duckdb.planner.ledger import Ledger
    from meld_duckdb.retrieval.catalogue import Catalogue
    from meld_duckdb.workspace import open_workspace

    settings, _ = resolve({"workspace": path})
    workspace = open_workspace(settings.workspace)
    catalogue = Catalogue(workspace.catalogue_path, workspace.lance_path)
    return Ledger(workspace, catalogue, lambda text: click.echo(f"meld: {text}", err=True))
