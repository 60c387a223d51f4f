"""Which experts answer which labels set aside rightly; what was asked once is kept.

Asking is what training a router costs. A killed run goes on at the expert it was at, and
training again after new labels asks only what those labels or new experts change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from meld_duckdb import safe_json
from meld_duckdb.planner.adapter_card import AdapterCard
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.router import Outcomes
from meld_duckdb.workspace import write_atomic

Ask = Callable[[AdapterCard, LabelGroup], Sequence[Answer]]


def expert_outcomes(
    cards: Sequence[AdapterCard],
    groups: Mapping[str, LabelGroup],
    ask: Ask,
    kept: Path,
    notice: Callable[[str], None],
) -> Outcomes:
    """Let every expert answer the labels that every group has set aside.

    Args:
        cards: The experts, [m].
        groups: The groups by everything, other than the expert, that their answers depend on.
        ask: Answers of an expert to the labels a group has set aside, in their order.
        kept: File of what was found before; written after each expert.
        notice: Called with a line after each expert that was asked.

    Returns:
        Whether each answered each label rightly: bool [n, m], labels group by group.
    """
    known, found = _read(kept), {}
    for number, card in enumerate(cards, start=1):
        keys = {digest(card.weights, *card.path, on): group for on, group in groups.items()}
        asked = [key for key in keys if len(known.get(key, ())) != len(keys[key].dev)]
        for key in asked:
            rows = keys[key].dev
            said = ask(card, keys[key])
            known[key] = [a.value == row.answer for a, row in zip(said, rows, strict=True)]
        found.update({key: known[key] for key in keys})
        if asked:
            write_atomic(kept, json.dumps({**known, **found}))
            notice(f"expert {number} of {len(cards)}: asked about {len(asked)} groups of labels")
    write_atomic(kept, json.dumps(found))
    columns = [
        [right for on in groups for right in found[digest(card.weights, *card.path, on)]]
        for card in cards
    ]
    n = sum(len(group.dev) for group in groups.values())
    return np.array(columns, dtype=np.bool_).reshape(len(cards), n).T


def _read(kept: Path) -> dict[str, list[bool]]:
    """What was found before; nothing where the file is missing or damaged."""
    try:
        found = safe_json.read(kept)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, list)}
