"""Remove what is of no use any more before or while experts are trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from meld_duckdb.engine.adapters import open_adapter, read_weights
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.adapter_card import read_adapter_card
from meld_duckdb.planner.expert_card import Key
from meld_duckdb.planner.gate import read_gate
from meld_duckdb.planner.mixture import MERGED
from meld_duckdb.planner.router import read_router
from meld_duckdb.train.install import remove_folder
from meld_duckdb.train.label_groups import group_name
from meld_duckdb.train.lora import CHECKPOINT
from meld_duckdb.workspace import Workspace

Notice = Callable[[str], None]

_FORMER = "{} is removed: no label of {} belongs to its tables or columns as they are now"


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


def remove_unreadable(workspace: Workspace, beside: Path, notice: Notice) -> None:
    """Remove adapters, router and gates that are damaged or of another version.

    Statements that need them fail until then; training makes them anew and needs none of them.

    Args:
        workspace: Where they are.
        beside: Directory of the same file system that the router is moved to first.
        notice: Called with a line for each, which says why.
    """
    for folder in adapter_folders(workspace.adapters_path):
        try:
            read_adapter_card(folder)
            open_adapter(folder)
            read_weights(folder)
        except ArtefactError as error:
            _tell(notice, folder, error)
            remove_folder(folder, workspace.adapters_path)
    try:
        read_router(workspace.router_path)
    except ArtefactError as error:
        _tell(notice, workspace.router_path, error)
        remove_folder(workspace.router_path, beside)
    for path in sorted(workspace.calibration_path.glob("*.json")):
        try:
            read_gate(path)
        except ArtefactError as error:
            _tell(notice, path, error)
            path.unlink()


def remove_former(
    workspace: Workspace, trained: Path, keys: Collection[tuple[str, Key]], notice: Notice
) -> None:
    """Remove what was trained for tables or columns that no label belongs to any more.

    A table with other rows is another one: the expert of its former rows has learned from labels
    that that of the present ones sets aside. It goes where its task has one of the latter; adapters
    that were not trained in this workspace stay. A killed run goes on where it was.

    Args:
        workspace: Where experts and gates are.
        trained: Directory of what training leaves behind, a directory per group of labels.
        keys: Task and key of all labels, see `label_groups.label_keys`.
        notice: Called with a line for each, which says why.

    Raises:
        ArtefactError: An expert or a gate cannot be read.
    """
    cards = [read_adapter_card(folder) for folder in adapter_folders(workspace.adapters_path)]
    tasks = {card.task for card in cards if (card.task, card.key) in keys}
    stay = set(keys)
    for card in cards:
        of = (card.task, card.key)
        if card.task not in tasks or of in keys:
            continue
        if (trained / group_name(*of)).is_dir():
            notice(_FORMER.format(f"the expert {card.id}", card.task))
            remove_folder(workspace.adapters_path / card.id, workspace.adapters_path)
        else:
            stay.add(of)
    for path in sorted(workspace.calibration_path.glob("*.json")):
        gate = read_gate(path)
        if gate.task in tasks and (gate.task, gate.key) not in stay:
            notice(_FORMER.format(f"the gate {path.name}", gate.task))
            path.unlink()
    names = {group_name(*of) for of in keys}
    for folder in sorted(folder for task in tasks for folder in trained.glob(f"{task}-*")):
        if folder.name not in names:
            remove_folder(folder, trained)


def adapter_folders(adapters: Path) -> Iterator[Path]:
    """Directories of the experts among those of the adapters, in order; they need not be there."""
    if adapters.is_dir():
        yield from sorted(
            folder
            for folder in adapters.iterdir()
            if folder.is_dir() and folder.name[0] not in "._" and folder.name != MERGED
        )


def _tell(notice: Notice, place: Path, error: ArtefactError) -> None:
    notice(
        f"{place.name} is removed, to be trained anew by meld train --stages experts: {error.what}"
    )
