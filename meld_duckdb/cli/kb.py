"""``meld kb``: knowledge bases of the workspace, out of files or by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from meld_duckdb.cli.index import Progress, say_over
from meld_duckdb.settings import resolve

if TYPE_CHECKING:
    from meld_duckdb.planner.knowing import Added, Knowing
    from meld_duckdb.retrieval.bases import KnowledgeBase, RawFact

_WORKSPACE = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
_EMBED = click.option(
    "--embed", is_flag=True, help="Embed the facts, so that they are found by likeness too: slow."
)
_REPLACE = click.option(
    "--replace", "replace_all", is_flag=True, help="Forget facts of before that are not given now."
)


@click.group("kb")
def kb() -> None:
    """Knowledge bases: facts that explain terms and abbreviations to the functions of KcMF."""


@kb.command()
@click.argument("name")
@click.argument("source")
@click.option(
    "--hierarchy",
    metavar="RELATION",
    multiple=True,
    help="Relation from a broader term to a narrower one; may be given several times.",
)
@click.option("--licence", default="", help="Licence of the facts, to be noted.")
@_REPLACE
@_EMBED
@_WORKSPACE
def add(
    name: str,
    source: str,
    hierarchy: tuple[str, ...],
    licence: str,
    replace_all: bool,
    embed: bool,
    workspace: Path | None,
) -> None:
    """Add the facts of SOURCE, a file or FILE.duckdb:TABLE, to the base NAME.

    SOURCE has the columns term, relation, object and, if you like, text. The relation alias gives
    another name of a term. Run it again after a kill: it goes on where it stopped.
    """
    from meld_duckdb.cli.label_sources import open_batches, parse_source
    from meld_duckdb.planner.knowing import About
    from meld_duckdb.retrieval.bases import check_name

    check_name(name)
    file = parse_source(source)
    about = About(source, source, hierarchy, licence)
    with (
        _opened(workspace, name) as (knowing, progress),
        open_batches(file, ("term", "relation", "object"), ("text",)) as (n_rows, batches),
    ):
        rows = cast("Iterator[RawFact]", chain.from_iterable(batches))
        added = knowing.add(
            name,
            rows,
            about,
            embed=embed,
            replace_all=replace_all,
            n_rows=n_rows,
            progress=progress,
        )
    _say(added, hierarchy)


@kb.command()
@click.argument("name")
@click.option(
    "--from",
    "place",
    type=click.Path(path_type=Path, exists=True),
    help="Take the data from here: the file of the package; wordnet: also a directory.",
)
@_REPLACE
@_EMBED
@_WORKSPACE
def load(
    name: str, place: Path | None, replace_all: bool, embed: bool, workspace: Path | None
) -> None:
    """Load a public knowledge base: icd10cm or wordnet, fetched from the package index."""
    from meld_duckdb.planner.load_known import load_known
    from meld_duckdb.retrieval.known_bases import known_base

    known = known_base(name)
    with _opened(workspace, name) as (knowing, progress):
        added = load_known(
            knowing, known, place, embed=embed, replace_all=replace_all, progress=progress
        )
    _say(added, known.hierarchy)


@kb.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per base.")
@_WORKSPACE
def list_(as_json: bool, workspace: Path | None) -> None:
    """List the knowledge bases of the workspace."""
    from meld_duckdb.cli.run import print_table
    from meld_duckdb.retrieval.bases import list_bases
    from meld_duckdb.workspace import Workspace

    settings, _ = resolve({"workspace": workspace})
    bases = list_bases(Workspace(settings.workspace.absolute()).knowledge_path)
    if as_json:
        for base in bases:
            click.echo(_as_line(base))
        return
    rows = [
        (
            base.name,
            str(base.n_facts),
            ", ".join(base.hierarchy),
            "yes" if base.encoder else "no",
            base.licence,
            base.source,
        )
        for base in bases
    ]
    print_table(("name", "facts", "hierarchy", "embedded", "licence", "source"), rows)


@kb.command()
@click.argument("name")
@_WORKSPACE
def remove(name: str, workspace: Path | None) -> None:
    """Forget the knowledge base NAME, also one that is not complete or damaged."""
    with _opened(workspace, name) as (knowing, _):
        click.echo(f"{name}: {knowing.remove(name)} facts forgotten")


@kb.command()
@click.argument("name")
@click.argument("text")
@click.option(
    "-k",
    "k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many facts at most.",
)
@_WORKSPACE
def find(name: str, text: str, k: int, workspace: Path | None) -> None:
    """Show the facts of the base NAME that say most about TEXT."""
    from meld_duckdb.cli.run import print_table

    with _opened(workspace, name) as (knowing, _):
        found = knowing.find(name, text, k)
    rows = [
        (
            "name" if hit.exact else "words" if hit.similarity is None else f"{hit.similarity:.2f}",
            hit.fact.term,
            hit.fact.relation,
            hit.fact.object,
        )
        for hit in found
    ]
    print_table(("found by", "term", "relation", "object"), rows)


@contextmanager
def _opened(workspace: Path | None, name: str) -> Iterator[tuple[Knowing, Progress | None]]:
    """The knowledge bases of the workspace, and what shows how far the work on one is."""
    from meld_duckdb.planner.knowing import Knowing
    from meld_duckdb.service import LocalService

    settings, _ = resolve({"workspace": workspace})
    progress = Progress(name, sys.stderr.isatty(), say_over) if settings.progress else None
    yield Knowing(LocalService(settings).session), progress
    if progress is not None:
        progress.end()


def _say(added: Added, hierarchy: Sequence[str]) -> None:
    base = added.base
    notes = [f"{added.n_added} new"]
    notes += [f"{added.n_there} there before"] if added.n_there else []
    notes += [f"{added.n_removed} removed"] if added.n_removed else []
    notes += [f"{added.n_duplicates} duplicates"] if added.n_duplicates else []
    notes += [f"{n} rows skipped {why}" for why, n in sorted(added.skipped.items())]
    click.echo(f"{base.name}: {base.n_facts} facts ({', '.join(notes)}), {added.seconds:.1f} s")
    for relation in hierarchy:
        if relation.strip() not in added.relations:
            known = ", ".join(sorted(added.relations)[:20])
            click.echo(f"meld: no fact has the relation {relation!r}; known: {known}", err=True)


def _as_line(base: KnowledgeBase) -> str:
    fields = {**asdict(base), "created_at": base.created_at.isoformat()}
    return json.dumps(fields, ensure_ascii=False)
