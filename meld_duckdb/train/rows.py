"""One training row: a question, its answer, and where they came from.

Everything that makes training data gives these, everything that trains takes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Query
from meld_duckdb.workspace import write_atomic

LABELLED = "labelled"
"""Origin of a row that a person labelled."""

SELF_ANNOTATED = "self-annotated"
"""Origin of a row whose answer was taken from its mutual nearest neighbour."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A question of one task with its answer.

    Attributes:
        task: Name of the task.
        query: The question; for tasks with options its ``domain`` holds them.
        answer: The answer as the task words it, for example ``"match"``.
        origin: `LABELLED`, `SELF_ANNOTATED`, ``"mined"`` for a negative taken from neighbours, or
            ``"transformed:<task>"`` with the task it was made from.
        source: Digest of the row it was made from; its own for a labelled one.
        weight: How much it counts in training, 1 for a labelled row.
    """

    task: str
    query: Query
    answer: str
    origin: str = LABELLED
    source: str = ""
    weight: float = 1.0

    @property
    def digest(self) -> str:
        """Identity of question and answer, whatever the origin."""
        return digest(self.task, self.query.digest, self.answer)


def write_rows(path: Path, rows: Sequence[TrainingRow]) -> None:
    """Write rows as JSON lines; the file appears whole or not at all."""
    lines = (
        json.dumps({**_fields(row), "query": row.query.to_json()}, ensure_ascii=False)
        for row in rows
    )
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> list[TrainingRow]:
    """Read what `write_rows` wrote; none where there is no such file.

    Raises:
        ArtefactCorrupt: A line is no row.
    """
    if not path.is_file():
        return []
    try:
        found = [safe_json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [TrainingRow(**{**row, "query": Query.from_json(row["query"])}) for row in found]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactCorrupt(
            f"{path} holds no training rows: {error}", hint="remove it and train again"
        ) from error


def _fields(row: TrainingRow) -> dict[str, object]:
    return {field.name: getattr(row, field.name) for field in fields(row)}
