"""Learned labels at query time: as answers, as neighbours, as demonstrations.

Paper: MELD §4.1 and Definition 2.1: |D| labelled queries most similar to the query. We choose them
per nearest label instead of per query, so that similar queries share their demonstrations and an
engine computes that part of the prompt once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from meld_duckdb.records import Record, digest, make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.store import Neighbour, Store
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query, Task
from meld_duckdb.tasks.serialise import embedding_text

_SHOWN = 3


def query_text(query: Query, max_chars: int) -> str:
    """The text by which a query is embedded: its records Ditto-style, then the column asked for."""
    parts = [
        embedding_text(record.without(query.target) if query.target else record, max_chars)
        for record in query.records
    ]
    if query.target:
        parts.append(f"COL {query.target}")
    return " | ".join(parts)


class Demonstrator:
    """Finds the labels that matter to a query. Loads store and encoder only if there are labels."""

    def __init__(
        self,
        settings: AnswerSettings,
        catalogue: Catalogue,
        store: Callable[[], Store],
        encoder: Callable[[], Encoder],
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._store = store
        self._encoder = encoder
        self._rows: list[tuple[str, Record]] = []
        self._rows_key = ""
        self._shared: dict[tuple[str, str, str], tuple[Demonstration, ...]] = {}

    def labels(self, task: str) -> dict[str, str]:
        """All labels of a task: digest of the query to its answer."""
        return self._catalogue.labels(task)

    def digest(self, task: str) -> str:
        """Digest of all labels of a task: answers made with other labels are not reused."""
        labels = self.labels(task)
        return digest(*(part for item in labels.items() for part in item)) if labels else ""

    def neighbours(self, task: Task, query: Query, k: int = _SHOWN) -> list[Neighbour]:
        """The ``k`` labels most similar to a query, best first; none where nothing was learned."""
        if not self.labels(task.name):
            return []
        return self._store().nearest_labels(task.name, self._vector(query), k)

    def add_neighbours(self, task: Task, query: Query, answer: Answer | None) -> Answer | None:
        """Add the nearest labels to the evidence of an answer."""
        if answer is None or not self.labels(task.name):
            return answer
        found = tuple(
            Evidence("neighbour", n.demonstration.answer, n.similarity)
            for n in self.neighbours(task, query)
        )
        return replace(answer, evidence=answer.evidence + found)

    def demonstrations(self, task: Task, query: Query) -> tuple[Demonstration, ...]:
        """Choose up to |D| demonstrations, most similar last; half of each label if binary."""
        wanted = self._settings.demonstrations
        nearest = self.neighbours(task, query, 1) if wanted else []
        if not nearest:
            return ()
        leader = nearest[0].demonstration.query
        key = (task.name, self.digest(task.name), leader.digest)
        if key not in self._shared:
            self._shared[key] = self._around(task, leader, wanted)
        return self._shared[key]

    def labelled_rows(self, column: str) -> list[Record]:
        """Rows learned for imputation of a column, their value filled in."""
        if not self.labels("impute"):
            return []
        key = self.digest("impute")
        if self._rows_key != key:
            self._rows = [
                (
                    d.query.target,
                    make_record({**d.query.records[0].fields, d.query.target: d.answer}),
                )
                for d in self._store().labels("impute")
                if d.query.target
            ]
            self._rows_key = key
        return [row for target, row in self._rows if target == column]

    def _around(self, task: Task, leader: Query, wanted: int) -> tuple[Demonstration, ...]:
        vector = self._vector(leader)
        store = self._store()
        if task.labels is None:
            found = store.nearest_labels(task.name, vector, wanted)
        else:
            positive = store.nearest_labels(task.name, vector, (wanted + 1) // 2, task.labels[0])
            negative = store.nearest_labels(
                task.name, vector, wanted - len(positive), task.labels[1]
            )
            found = positive + negative
        found.sort(key=lambda n: (n.similarity, n.demonstration.query.digest))
        return tuple(n.demonstration for n in found)

    def _vector(self, query: Query) -> np.ndarray:
        text = query_text(query, self._settings.max_record_chars)
        vector: np.ndarray = self._encoder().encode([text])[0]
        return vector
