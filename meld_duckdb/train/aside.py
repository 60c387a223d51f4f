"""Which labels an expert has not seen, while those of its group change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.train.label_groups import LabelGroup, label_identity
from meld_duckdb.workspace import write_atomic

_FILE = "aside.json"


def note_aside(folder: Path, group: LabelGroup) -> None:
    """Note in the folder of a group which labels were set aside when its expert was trained."""
    write_atomic(folder / _FILE, json.dumps(sorted(label_identity(row) for row in group.dev)))


def noted_aside(folder: Path) -> frozenset[str]:
    """Identities of the labels that were set aside; none without a note, or with a damaged one."""
    try:
        return frozenset(safe_json.read(folder / _FILE))
    except (OSError, ValueError, TypeError):
        return frozenset()


def parted_as_trained(folder: Path, group: LabelGroup) -> LabelGroup:
    """The group, with the labels set aside that are left of those when its expert was trained.

    Labels learned since part it in another way, in which the expert may have seen some of those set
    aside. Without a note, or with a damaged one, the group is as it comes.
    """
    aside = noted_aside(folder)
    if not aside:
        return group
    rows = sorted((*group.learn, *group.dev), key=lambda row: row.digest)
    return replace(
        group,
        learn=tuple(row for row in rows if label_identity(row) not in aside),
        dev=tuple(row for row in rows if label_identity(row) in aside),
    )
