"""The card of an expert of tier 2: a LoRA adapter on the language model.

An adapter is a directory ``<workspace>/adapters/<id>/``: ``card.json`` beside the weights. Nothing
in it is executed.

Paper: MELD §4.2, an expert per data set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.planner.artefacts import read_versioned
from meld_duckdb.planner.expert_card import Key
from meld_duckdb.records import digest

FORMAT = "meld-adapter/1"
CARD = "expert.json"

_HINT = "train it again with meld train --stages experts, or remove its directory"


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """What is known of an adapter without loading it.

    Attributes:
        id: Its name: that of its directory, and in ``_detail.experts``.
        task: The task it was trained for; it may be asked about others.
        key: Tables or columns of its training questions, see `expert_card.expert_key`.
        description: What a question is routed by where no router was trained, and the start of
            its place in one: task, columns, answers, a few values.
        model: Name of the language model it belongs to.
        model_digest: Identity of that model's weights.
        weights: Identity of the adapter's files.
        path: Names of the steps its questions are completed by before they are asked.
        demonstrations: Labels shown with a question in training, and so when it is asked.
        rows: Training rows by origin.
        metrics: Held-out figures.
        settings: How it was trained.
        inputs: Digest of everything it was made from.
    """

    id: str
    task: str
    key: Key
    description: str
    model: str
    model_digest: str
    weights: str
    path: tuple[str, ...] = ()
    demonstrations: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = ""

    @property
    def digest(self) -> str:
        """Identity of everything in it that can change an answer."""
        named = (
            self.id,
            self.task,
            *self.key,
            self.description,
            self.weights,
            *self.path,
            str(self.demonstrations),
        )
        return digest(FORMAT, *named)

    def to_json(self) -> str:
        """What `read_adapter_card` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read_adapter_card(folder: Path) -> AdapterCard:
    """Read and check the card of an adapter's directory.

    Raises:
        ArtefactCorrupt: There is none, or it does not say what it should.
        ArtefactIncompatible: Another version of the product wrote it.
    """
    path = folder / CARD
    found = read_versioned(path, FORMAT, "card of an expert", _HINT)
    try:
        for name in ("key", "path"):
            found[name] = tuple(str(part) for part in found[name])
        card = AdapterCard(**found)
        texts = (card.id, card.task, card.model_digest, card.weights)
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError("a name or digest is missing")
        if card.id != folder.name:
            raise ValueError(f"it is the card of {card.id!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactCorrupt(f"{path} is no card of an expert: {error}", hint=_HINT) from error
    return card
