"""The card of an expert: what it was trained on, what it may settle, and why it is used or not.

An expert is a directory ``<workspace>/experts/<id>/``: ``card.json`` beside adapter and head. What
a card says is checked when it is read; nothing in the directory is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.stack import Stack
from meld_duckdb.planner.artefacts import read_versioned
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.pairs import TEXT_VERSION

FORMAT = "meld-expert/1"
CARD = "card.json"

Key = tuple[str, ...]
"""What the questions of an expert have in common; see `expert_key`."""

ANY: Key = ("*",)
"""Key of the starter's expert of a task."""

_HINT = "train it again: meld train; or remove its directory"


@dataclass(frozen=True, slots=True)
class ExpertCard:
    """What is known of an expert without loading it.

    Attributes:
        id: Its name: that of its directory, and in ``_detail.experts``.
        task: Name of the task.
        key: Which questions it is for, see `expert_key`.
        use: Whether it is asked unless a call says otherwise: it was shown to add to tier 0.
        reason: Why, with the figures behind it.
        stack: How its log-odds are added to tier 0's.
        low: It is asked where tier 0's probability is above this ...
        high: ... and below this.
        shortlist: Options of a question that it reads, those that tier 0 ranks best.
        max_tokens: Tokens of a pair that it reads.
        encoder: Name of the encoder it was trained on.
        encoder_digest: Identity of that encoder.
        weights: Identity of encoder, adapter and head.
        labels: Digest of the labels it was trained and judged on.
        inputs: Digest of everything it was made from.
        rows: Training rows by origin.
        settings: How it was trained.
        metrics: Held-out figures on the labels.
        made: When, in seconds since 1970.
        seconds: Time taken.
        opinions: What it and tier 0 together say of each label, without having seen it: probability
            of the first answer by the digest of the question; for tasks with two answers.
        text_version: Of the texts it was trained on, see `tasks.pairs`.
    """

    id: str
    task: str
    key: Key
    use: bool
    reason: str
    stack: Stack
    low: float
    high: float
    shortlist: int
    max_tokens: int
    encoder: str
    encoder_digest: str
    weights: str
    labels: str
    inputs: str
    rows: Mapping[str, int]
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    made: float
    seconds: float
    opinions: Mapping[str, float] = field(default_factory=dict)
    text_version: int = TEXT_VERSION

    @property
    def digest(self) -> str:
        """Identity of everything in it that can change an answer."""
        numbers = (self.low, self.high, self.shortlist, self.max_tokens, self.text_version)
        stack = json.dumps(self.stack.to_dict())
        return digest(FORMAT, self.id, self.weights, stack, str(self.use), *map(str, numbers))

    def to_json(self) -> str:
        """What `read_card` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read_card(folder: Path) -> ExpertCard:
    """Read and check the card of an expert's directory.

    Raises:
        ArtefactCorrupt: There is none, or it does not say what it should.
        ArtefactIncompatible: Another version of the product wrote it.
    """
    path = folder / CARD
    found = read_versioned(path, FORMAT, "card of an expert", _HINT)
    try:
        stack = Stack.from_dict(found.pop("stack"))
        key = tuple(str(part) for part in found.pop("key"))
        card = ExpertCard(key=key, stack=stack, **found)
        _check(card, folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactCorrupt(f"{path} is no card of an expert: {error}", hint=_HINT) from error
    return card


def _check(card: ExpertCard, folder: Path) -> None:
    texts = (card.id, card.task, card.weights, card.encoder_digest, card.reason)
    numbers = (card.low, card.high, card.shortlist, card.max_tokens, card.made)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("a name or digest is missing")
    if not isinstance(card.use, bool) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
    ):
        raise ValueError("a number is missing")
    if card.id != folder.name:
        raise ValueError(f"it is the card of {card.id!r}")


def expert_key(task: str, query: Query, context: Context) -> Key:
    """What questions have in common that one expert answers, as for labels at tier 0.

    It is the tables that the records stand in, in one order; without tables the names of the
    records' columns after an empty text. Candidates of a link are not looked at.
    """
    if context:
        return tuple(sorted(context))
    records = query.records[:2] if task in {"match", "schema_match"} else query.records[:1]
    return ("", *sorted(json.dumps(sorted(record.fields)) for record in records))
