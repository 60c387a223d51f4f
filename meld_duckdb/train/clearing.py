"""Remove what is of no use any more before or while experts are trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from meld_duckdb.engine.adapters import open_adapter, read_weights
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.adapter_card import read_adapter_card
from meld_duckdb.planner.expert_card import Key
from meld_duckdb.planner.gate import read_gate
from meld_duckdb.planner.mixture import adapter_names
from meld_duckdb.planner.router import read_router
from meld_duckdb.train.aside import noted_aside
from meld_duckdb.train.install import remove_folder
from meld_duckdb.train.label_groups import group_name
from meld_duckdb.train.lora import CHECKPOINT
from meld_duckdb.workspace import Workspace

Notice = Callable[[str], None]

ASIDE = "_unreadable"
"""Directory of what cannot be read any more, beside the others of its kind."""

_FORMER = "{} is removed: labels of {} that it set aside have another expert by now"


def clear_half_saved(trained: Path) -> None:
    """Remove what was being saved when a run was killed; checkpoints of trainings stay.

    Args:
        trained: Directory of what training leaves behind, with a directory per group of labels.
    """
    folders = [trained, *(f for f in trained.iterdir() if f.is_dir() and f.name[0] != ".")]
    for part in (part for folder in folders for part in folder.glob(".*")):
        if part.name.endswith(CHECKPOINT):
            continue
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def put_aside_unreadable(workspace: Workspace, notice: Notice) -> None:
    """Put adapters, router and gates aside that are damaged or of another version.

    Statements that need them fail until then. Training needs none of them, and makes those anew
    that there are labels for; the old ones stay in directories `ASIDE` beside them.

    Args:
        workspace: Where they are.
        notice: Called with a line for each, which says why and where it is.
    """
    for folder in adapter_folders(workspace.adapters_path):
        try:
            read_adapter_card(folder)
            open_adapter(folder)
            read_weights(folder)
        except ArtefactError as error:
            _put_aside(folder, workspace.adapters_path / ASIDE, error, notice)
    try:
        read_router(workspace.router_path)
    except ArtefactError as error:
        _put_aside(workspace.router_path, workspace.adapters_path / ASIDE, error, notice)
    for path in sorted(workspace.calibration_path.glob("*.json")):
        try:
            read_gate(path)
        except ArtefactError as error:
            _put_aside(path, workspace.calibration_path / ASIDE, error, notice)


def remove_former(
    workspace: Workspace,
    trained: Path,
    keys: Mapping[tuple[str, Key], Collection[str]],
    notice: Notice,
) -> None:
    """Remove what was trained for tables or columns whose labels have another expert by now.

    A table with other rows is another one: the expert of its former rows has learned from labels
    that that of the present ones sets aside. It goes where a label that it set aside belongs to
    tables or columns that have an expert; adapters that were not trained in this workspace stay. A
    killed run goes on where it was.

    Args:
        workspace: Where experts and gates are.
        trained: Directory of what training leaves behind, a directory per group of labels.
        keys: Task and key of all labels to their identities, see `label_groups.label_keys`.
        notice: Called with a line for each, which says why.

    Raises:
        ArtefactError: An expert or a gate cannot be read.
    """
    cards = [read_adapter_card(folder) for folder in adapter_folders(workspace.adapters_path)]
    present = {(card.task, card.key) for card in cards} & set(keys)
    gone = {}
    for card in cards:
        of = (card.task, card.key)
        taken = {label for own in present if own[0] == card.task for label in keys[own]}
        if of not in keys and taken & noted_aside(trained / group_name(*of)):
            gone[of] = card
    for path in sorted(workspace.calibration_path.glob("*.json")):
        gate = read_gate(path)
        if (gate.task, gate.key) in gone:
            notice(_FORMER.format(f"the gate {path.name}", gate.task))
            path.unlink()
    for card in gone.values():
        notice(_FORMER.format(f"the expert {card.id}", card.task))
        remove_folder(workspace.adapters_path / card.id, workspace.adapters_path)
    used = {group_name(*of) for of in (*keys, *((card.task, card.key) for card in cards))}
    used -= {group_name(*of) for of in gone}
    for folder in sorted(f for task, _ in present for f in trained.glob(f"{task}-*")):
        if folder.name not in used and folder.is_dir():
            remove_folder(folder, trained)


def adapter_folders(adapters: Path) -> Iterator[Path]:
    """Directories of the experts among those of the adapters, in order; they need not be there."""
    for name in adapter_names(adapters):
        yield adapters / name


def _put_aside(path: Path, place: Path, error: ArtefactError, notice: Notice) -> None:
    place.mkdir(parents=True, exist_ok=True)
    kept = place / path.name
    if kept.is_dir():
        remove_folder(kept, place)
    path.replace(kept)
    notice(
        f"{path.name} cannot be used and is put aside in {place}, to be trained anew by meld train "
        f"--stages experts where there are labels for it: {error.what}"
    )
