"""Put a trained expert into a workspace: readers see the old one or the new one, never a part."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from meld_duckdb.engine.cross_encoder import FILES
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.expert_card import CARD, ExpertCard, Key, read_card
from meld_duckdb.records import digest


def save_expert(experts: Path, card: ExpertCard, weights: Path) -> ExpertCard:
    """Save an expert; older ones of the same task and key go.

    Args:
        experts: The directory of experts, made on first use.
        card: Its card; the id is given here.
        weights: Directory with adapter and head, which stays as it is.

    Returns:
        The card with its id.
    """
    experts.mkdir(parents=True, exist_ok=True)
    named = f"{card.task}-{digest(*card.key)[:8]}"
    card = replace(card, id=f"{named}-{digest(card.inputs, card.weights, str(card.made))[:8]}")
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=experts))
    try:
        for name in FILES:
            shutil.copyfile(weights / name, folder / name)
        (folder / CARD).write_text(card.to_json(), "utf-8")
        folder.chmod(0o755)
        folder.rename(experts / card.id)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for old in experts.glob(f"{named}-*"):
        if old.name != card.id:
            shutil.rmtree(old, ignore_errors=True)
    return card


def existing_expert(experts: Path, task: str, key: Key, inputs: str) -> ExpertCard | None:
    """The card of an expert made from the same inputs; None where there is no readable one."""
    for folder in sorted(experts.glob(f"{task}-{digest(*key)[:8]}-*")):
        try:
            card = read_card(folder)
        except ArtefactError:
            continue
        complete = all((folder / name).is_file() for name in FILES)
        if card.inputs == inputs and complete:
            return card
    return None
