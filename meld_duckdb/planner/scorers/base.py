"""What the scorers of all tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from meld_duckdb.features.load import Calibration, calibration_digest, load_calibration
from meld_duckdb.planner.tables import Context
from meld_duckdb.planner.trace import note_features
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query

Embed = Callable[[Sequence[str]], np.ndarray]
"""Embeds texts: float32 [n, d], L2-normalised, in order."""

Labels = Callable[[str], Sequence[Demonstration]]
"""All learned labels of a task, in a fixed order; empty where none is learned."""

REASONS = 3
COSINE_DIGITS = 5
"""Decimals of a cosine that count: the rest depends on what else is in the encoder's batch."""


class Explained(Protocol):
    """A binary model that can say why."""

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probability of the first label, [n]."""
        ...

    def explain(self, rows: np.ndarray, most: int) -> list[list[tuple[str, float]]]:
        """What moved each row most: name and contribution, largest magnitude first."""
        ...


class Scorer(Protocol):
    """Answers queries of one task by features."""

    @property
    def digest(self) -> str:
        """Digest of the fitted model and version of the features; part of the cache key."""
        ...

    @property
    def encodes(self) -> bool:
        """Whether the encoder takes part, so that its digest belongs to the cache key."""
        ...

    @property
    def label_tasks(self) -> tuple[str, ...]:
        """Tasks whose labels change its answers, besides its own."""
        ...

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Answer queries that share a table context.

        Returns:
            One tier-0 answer per query, in order; None where features say nothing at all.
        """
        ...

    def least(self, query: Query, context: Context) -> float:
        """Probability below which an answer of this scorer does not count."""
        ...


class Calibrated:
    """A scorer whose fitted model is read when it is first used."""

    task: str
    version = 1
    """Changes whenever the same model could answer the same query differently."""

    encodes = False
    label_tasks: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the fitted model and version of the features."""
        return digest(calibration_digest(self.task), str(self.version))

    def least(self, query: Query, context: Context) -> float:
        """A binary answer counts whatever its probability; see `Scorer.least`."""
        return 0.0

    @cached_property
    def calibration(self) -> Calibration:
        """The shipped model of the task."""
        return load_calibration(self.task)


def binary_answers(
    model: Explained, threshold: float, rows: np.ndarray, labels: tuple[str, str]
) -> list[Answer]:
    """Answer a binary task from feature rows: probability, and what spoke for it most."""
    note_features(model, rows)
    return [
        Answer(
            value=labels[0] if probability >= threshold else labels[1],
            probability=float(probability),
            tier=0,
            evidence=tuple(Evidence("feature", name, round(added, 4)) for name, added in reasons),
        )
        for probability, reasons in zip(
            model.predict(rows), model.explain(rows, REASONS), strict=True
        )
    ]
