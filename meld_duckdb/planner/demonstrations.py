"""Learned labels at query time: as answers, as neighbours, as demonstrations.

Paper: MELD §4.1 and Definition 2.1: |D| labelled queries most similar to the query. We choose them
per nearest label instead of per query, so that similar queries share their demonstrations and an
engine computes that part of the prompt once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.records import digest
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.store import Neighbour, Store
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query, Task
from meld_duckdb.tasks.serialise import embedding_text

_SHOWN = 3
_CHUNK = 256


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
        self._embedded: dict[str, str] = {}
        self._labelled: dict[str, tuple[str, list[Demonstration]]] = {}
        self._shared: dict[tuple[str, str, str], tuple[Demonstration, ...]] = {}

    def labels(self, task: str) -> dict[str, str]:
        """All labels of a task: digest of the query to its answer."""
        return self._catalogue.labels(task)

    def digest(self, task: str) -> str:
        """Digest of all labels of a task: answers made with other labels are not reused."""
        labels = self.labels(task)
        return digest(*(part for item in labels.items() for part in item)) if labels else ""

    def neighbours(
        self, task: Task, queries: Sequence[Query], k: int = _SHOWN
    ) -> list[list[Neighbour]]:
        """The ``k`` labels most similar to each query, best first; empty where none are learned."""
        if not queries or not self.labels(task.name):
            return [[] for _ in queries]
        return self._nearest(task, self._vectors(queries), k)

    def add_neighbours(
        self, task: Task, queries: Sequence[Query], answers: Sequence[Answer | None]
    ) -> list[Answer | None]:
        """Add the nearest labels of each query to the evidence of its answer."""
        found = self.neighbours(task, queries)
        return [
            None
            if answer is None
            else replace(
                answer,
                evidence=answer.evidence
                + tuple(Evidence("neighbour", n.demonstration.answer, n.similarity) for n in near),
            )
            for answer, near in zip(answers, found, strict=True)
        ]

    def demonstrations(
        self, task: Task, queries: Sequence[Query]
    ) -> list[tuple[Demonstration, ...]]:
        """Choose up to |D| demonstrations for each query, most similar last.

        Half of them have each label if the task is binary.
        """
        wanted = self._settings.demonstrations
        leaders = self.neighbours(task, queries, 1 if wanted else 0)
        return [self._around(task, near[0].demonstration.query) if near else () for near in leaders]

    def _around(self, task: Task, leader: Query) -> tuple[Demonstration, ...]:
        key = (task.name, self.digest(task.name), leader.digest)
        if key not in self._shared:
            wanted = self._settings.demonstrations
            vector = self._vectors([leader])
            if task.labels is None:
                [found] = self._nearest(task, vector, wanted)
            else:
                [positive] = self._nearest(task, vector, (wanted + 1) // 2, task.labels[0])
                [negative] = self._nearest(task, vector, wanted - len(positive), task.labels[1])
                found = positive + negative
            found.sort(key=lambda n: (n.similarity, n.demonstration.query.digest))
            self._shared[key] = tuple(n.demonstration for n in found)
        return self._shared[key]

    def _nearest(
        self, task: Task, vectors: np.ndarray, k: int, answer: str | None = None
    ) -> list[list[Neighbour]]:
        """Labels of the store that the catalogue knows: only these are part of the cache key."""
        if k < 1:
            return [[] for _ in vectors]
        known = self.labels(task.name)
        self._embed_labels(task.name)
        return [
            [n for n in near if known.get(n.demonstration.query.digest) == n.demonstration.answer]
            for near in self._store().nearest_labels(task.name, vectors, k, answer)
        ]

    def _embed_labels(self, task: str) -> None:
        """Embed the labels that are not yet: learning itself needs no model."""
        key = f"{self._catalogue.history.version()} {self.digest(task)}"  # a rollback forgets
        if self._embedded.get(task) == key:
            return
        waiting = self._store().labels_to_embed(task)
        for start in range(0, len(waiting), _CHUNK):
            interrupt.check()
            part = waiting[start : start + _CHUNK]
            vectors = self._vectors([label.query for label in part])
            self._store().set_label_vectors(
                [replace(label, vector=v) for label, v in zip(part, vectors, strict=True)]
            )
        self._embedded[task] = key

    def labelled(self, task: str) -> list[Demonstration]:
        """All labels of a task with their queries, in the order of their keys."""
        known = self.labels(task)
        if not known:
            return []
        key = self.digest(task)
        if self._labelled.get(task, ("",))[0] != key:
            stored = self._store().labels(task)
            lost = known.keys() - {d.query.digest for d in stored}
            if lost:
                raise self._store().damaged("labels", f"{len(lost)} labels of {task} are lost")
            found = [d for d in stored if known.get(d.query.digest) == d.answer]
            self._labelled[task] = (key, found)
        return self._labelled[task][1]

    def _vectors(self, queries: Sequence[Query]) -> np.ndarray:
        limit = self._settings.max_record_chars
        vectors: np.ndarray = self._encoder().encode([query_text(q, limit) for q in queries])
        return vectors
