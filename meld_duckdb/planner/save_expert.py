"""Put a trained expert into a workspace: readers see the old one or the new one, never a part."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from meld_duckdb.engine.cross_encoder import FILES, weights_digest
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.expert_card import CARD, ExpertCard, Key, read_card
from meld_duckdb.records import digest


def save_expert(experts: Path, card: ExpertCard, weights: Path) -> ExpertCard:
    """Save an expert; older ones of the same task and key go.

    Args:
        experts: The directory of experts, made on first use.
        card: Its card; the id is given here, from what the expert is and not from when it was made.
        weights: Directory with adapter and head, which stays as it is.

    Returns:
        The card with its id.
    """
    experts.mkdir(parents=True, exist_ok=True)
    named = f"{card.task}-{digest(*card.key)[:8]}"
    content = digest(card.inputs, replace(card, id="").digest)
    card = replace(card, id=f"{named}-{content[:8]}")
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=experts))
    try:
        for name in FILES:
            shutil.copyfile(weights / name, folder / name)
        (folder / CARD).write_text(card.to_json(), "utf-8")
        folder.chmod(0o755)
        _put(folder, experts / card.id)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for old in experts.glob(f"{named}-*"):
        if old.name != card.id:
            shutil.rmtree(old, ignore_errors=True)
    return card


def _put(folder: Path, place: Path) -> None:
    """Put a finished directory in its place; a damaged one of the same expert goes."""
    if place.exists():
        gone = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
        place.rename(gone / "old")
        shutil.rmtree(gone, ignore_errors=True)
    folder.rename(place)


def existing_expert(
    experts: Path, task: str, key: Key, inputs: str, encoder: Path
) -> ExpertCard | None:
    """The card of an expert made from the same inputs; None where there is none that is whole."""
    for folder in sorted(experts.glob(f"{task}-{digest(*key)[:8]}-*")):
        card = whole_expert(folder, encoder)
        if card is not None and card.inputs == inputs:
            return card
    return None


def whole_expert(folder: Path, encoder: Path) -> ExpertCard | None:
    """The card of an expert whose files are those it was written for; None for any other."""
    try:
        card = read_card(folder)
        return card if weights_digest(encoder, folder) == card.weights else None
    except ArtefactError:
        return None
