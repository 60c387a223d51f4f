"""One training row: a question, its answer, and where they came from.

Everything that makes training data gives these, everything that trains takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Query

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
