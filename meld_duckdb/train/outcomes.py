"""Which experts answer which labels set aside rightly; what was asked once is kept.

Asking is what training a router costs, so an expert is asked about its own task only, where that
is all it will answer. A killed run goes on at the expert it was at, and training again after new
labels asks only what those labels or new experts change.
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
    tasks: str = "own",
) -> tuple[Outcomes, Outcomes]:
    """Let experts answer the labels that groups have set aside.

    Args:
        cards: The experts, [m].
        groups: The groups by everything, other than the expert, that their answers depend on.
        ask: Answers of an expert to the labels a group has set aside, in their order.
        kept: File of what was found before; written after each expert.
        notice: Called with a line after each expert that was asked.
        tasks: ``"own"``: an expert is asked about groups of its task; ``"all"``: about any.

    Returns:
        Whether each answered each label rightly, and whether it was asked: bool [n, m] both,
        labels group by group.
    """
    known, found = _read(kept), {}
    n = sum(len(group.dev) for group in groups.values())
    outcomes, eligible = np.zeros((2, n, len(cards)), dtype=np.bool_)
    for j, card in enumerate(cards):
        n_asked, at = 0, 0
        for on, group in groups.items():
            rows = slice(at, at + len(group.dev))
            at = rows.stop
            if tasks == "own" and card.task != group.task:
                continue
            key = digest(card.weights, *card.path, on)
            if len(known.get(key, ())) != len(group.dev):
                said = ask(card, group)
                known[key] = [a.value == r.answer for a, r in zip(said, group.dev, strict=True)]
                n_asked += 1
            found[key] = outcomes[rows, j] = known[key]
            eligible[rows, j] = True
        if n_asked:
            write_atomic(kept, json.dumps(known))
            notice(f"expert {j + 1} of {len(cards)}: asked about {n_asked} groups of labels")
    write_atomic(kept, json.dumps(found))
    return outcomes, eligible


def _read(kept: Path) -> dict[str, list[bool]]:
    """What was found before; nothing where the file is missing or damaged."""
    try:
        found = safe_json.read(kept)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, list)}
