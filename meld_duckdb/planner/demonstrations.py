"""Learned labels at query time: as answers, as neighbours, as demonstrations.

Paper: MELD §4.1 and Definition 2.1: |D| labelled queries most similar to the query. We choose them
per leader: a few labels that together are nearest to all labels. Queries with one nearest leader
share its demonstrations, so that an engine computes that part of the prompt once. Leaders are fixed
by the labels, so an answer does not depend on what else is asked.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.planner.cascade import demonstrations_across_tables
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.store import Neighbour, Store
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query, Task
from meld_duckdb.tasks.serialise import embedding_text

_VERSION = "demonstrations/2"
"""Changes whenever the same labels are shown otherwise."""

_SHOWN = 3
_CHUNK = 256

MOST_SETS = 8
"""Different sets of demonstrations among the queries of the same tables."""

_POOL = 256
"""Labels, evenly thinned out, among which leaders are chosen."""

_KEPT = 64
_DECIMALS = 4


def query_text(query: Query, max_chars: int) -> str:
    """The text by which a query is embedded: its records Ditto-style, then the column asked for."""
    parts = [
        embedding_text(record.without(query.target) if query.target else record, max_chars)
        for record in query.records
    ]
    if query.target:
        parts.append(f"COL {query.target}")
    return " | ".join(parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Leaders:
    """Embeddings of the leaders, float32 [n, d], and what is shown to queries near each."""

    vectors: np.ndarray
    shown: tuple[tuple[Demonstration, ...], ...]


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
        self._digests: dict[str, tuple[Mapping[str, str], str]] = {}
        self._shared: OrderedDict[tuple[str, str, frozenset[str], int], _Leaders] = OrderedDict()

    def labels(self, task: str) -> dict[str, str]:
        """All labels of a task: digest of the query to its answer."""
        return self._catalogue.labels(task)

    def digest(self, task: str) -> str:
        """Digest of all labels of a task and of how they are chosen from; empty without labels.

        Answers made with other labels, or with demonstrations chosen otherwise, are not reused.
        """
        return self._digest_of(task, self.labels(task))

    def _digest_of(self, task: str, labels: Mapping[str, str]) -> str:
        if not labels:
            return ""
        kept = self._digests.get(task)
        if kept is None or kept[0] is not labels:  # the catalogue gives the same until they change
            across = str(demonstrations_across_tables(task, self._settings.model))
            parts = (part for item in labels.items() for part in item)
            kept = self._digests[task] = (labels, digest(_VERSION, across, *parts))
        return kept[1]

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
        self,
        task: Task,
        queries: Sequence[Query],
        contexts: Sequence[Context] | None = None,
        most: int | None = None,
    ) -> list[tuple[Demonstration, ...]]:
        """Choose up to |D| demonstrations for each query, most similar last.

        At most `MOST_SETS` different sets are shown to queries of the same tables. At most half of
        a set has each label if the task is binary. A small base model is not shown labels of other
        tables than the query's; labels and queries without a known table go with all.

        Args:
            task: The task.
            queries: What is asked.
            contexts: Tables of each query's records, beyond those that are indexed.
            most: Demonstrations of a query, instead of the setting.
        """
        wanted = self._settings.demonstrations if most is None else most
        if not (queries and wanted and self.labels(task.name)):
            return [() for _ in queries]
        by_home: dict[frozenset[str], list[int]] = {}
        for i, home in enumerate(self._homes(task, queries, contexts)):
            by_home.setdefault(home, []).append(i)
        found: list[tuple[Demonstration, ...]] = [()] * len(queries)
        for home, positions in by_home.items():
            leaders = self._leaders(task, home, wanted)
            if leaders.shown:
                vectors = self._vectors([queries[i] for i in positions])
                nearest = (vectors @ leaders.vectors.T).round(_DECIMALS).argmax(axis=1)
                for i, number in zip(positions, nearest.tolist(), strict=True):
                    found[i] = leaders.shown[number]
        return found

    def _homes(
        self, task: Task, queries: Sequence[Query], contexts: Sequence[Context] | None
    ) -> list[frozenset[str]]:
        """Tables whose labels each query may be shown; empty for those of all tables."""
        if demonstrations_across_tables(task.name, self._settings.model):
            return [frozenset()] * len(queries)
        known = self._catalogue.memberships(r for q in queries for r in q.records)
        homes: list[frozenset[str]] = []
        for i, query in enumerate(queries):
            tables = set(contexts[i]) if contexts is not None else set()
            tables.update(t for r in query.records for t in known.get(r.digest, ()))
            if not tables and len(query.records) == 1:  # it may be a new row; see `Tables.find`
                similar = self._catalogue.same_shape(query.records[0])
                tables.update([similar] if similar else [])
            homes.append(frozenset(tables))
        return homes

    def _leaders(self, task: Task, home: frozenset[str], wanted: int) -> _Leaders:
        """The leaders among the labels of some tables, and what is shown around each."""
        known_as, labels = self._kept_labels(task.name)
        key = (task.name, known_as, home, wanted)
        if key not in self._shared:
            if home:
                known = self._catalogue.memberships(r for d in labels for r in d.query.records)
                labels = [d for d in labels if _stands_in(d.query, home, known)]
            pool = labels[:: max(1, math.ceil(len(labels) / _POOL))]
            most = min(MOST_SETS, math.ceil(len(labels) / wanted))
            vectors = self._vectors([d.query for d in pool]) if pool else np.zeros((0, 1))
            chosen = spread(vectors, most)
            usable = {d.query.digest: d.answer for d in labels}
            shown = [self._around(task, vectors[i : i + 1], usable, wanted) for i in chosen]
            self._shared[key] = _Leaders(vectors[chosen], tuple(shown))
            while len(self._shared) > _KEPT:
                self._shared.popitem(last=False)
        self._shared.move_to_end(key)
        return self._shared[key]

    def _around(
        self, task: Task, vector: np.ndarray, usable: Mapping[str, str], wanted: int
    ) -> tuple[Demonstration, ...]:
        """The usable labels nearest to a leader, most similar last."""
        if task.labels is None:
            found = self._usable(task, vector, wanted, None, usable)
        else:
            found = [
                near
                for answer, share in zip(task.labels, ((wanted + 1) // 2, wanted // 2), strict=True)
                for near in self._usable(task, vector, share, answer, usable)
            ]
        found.sort(key=lambda n: (n.similarity, n.demonstration.query.digest))
        return tuple(n.demonstration for n in found)

    def _usable(
        self,
        task: Task,
        vector: np.ndarray,
        k: int,
        answer: str | None,
        usable: Mapping[str, str],
    ) -> list[Neighbour]:
        """The ``k`` nearest labels that may be shown; looks further where others are nearer."""
        n_labels = len(self.labels(task.name))
        look = k
        while True:
            [near] = self._nearest(task, vector, look, answer)
            shown = ((n, n.demonstration) for n in near)
            allowed = [n for n, d in shown if usable.get(d.query.digest) == d.answer]
            if len(allowed) >= k or look >= n_labels:
                return allowed[:k]
            look = min(n_labels, 8 * look)

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
        return self._kept_labels(task)[1]

    def _kept_labels(self, task: str) -> tuple[str, list[Demonstration]]:
        """The labels of a task, and their digest."""
        known = self.labels(task)
        if not known:
            return "", []
        # of the labels just read: another process may learn or roll back at any moment
        key = self._digest_of(task, known)
        kept = self._labelled.get(task)
        if kept is None or kept[0] != key:
            stored = self._store().labels(task)
            lost = known.keys() - {d.query.digest for d in stored}
            if lost and self.labels(task) != known:
                return self._kept_labels(task)
            if lost:
                raise self._store().damaged("labels", f"{len(lost)} labels of {task} are lost")
            found = [d for d in stored if known.get(d.query.digest) == d.answer]
            kept = self._labelled[task] = (key, found)
        return kept

    def _vectors(self, queries: Sequence[Query]) -> np.ndarray:
        limit = self._settings.max_record_chars
        vectors: np.ndarray = self._encoder().encode([query_text(q, limit) for q in queries])
        return vectors


def spread(vectors: np.ndarray, most: int) -> list[int]:
    """Choose the rows that together are most similar to all rows, one after the other.

    Each next one raises the sum of every row's best similarity to a chosen one most (greedy
    facility location); ties go to the earlier row. Rows equal to a chosen one are never chosen.

    Args:
        vectors: float32 [n, d], L2-normalised.
        most: How many at most.

    Returns:
        Positions, in the order chosen.
    """
    similar = (vectors @ vectors.T).round(_DECIMALS)
    reached = np.full(len(vectors), -1.0)
    chosen: list[int] = []
    while len(chosen) < min(most, len(vectors)) and reached.min() < 1.0:
        gain = np.maximum(similar, reached).sum(axis=1)
        best = int(gain.argmax())
        chosen.append(best)
        reached = np.maximum(reached, similar[best])
    return chosen


def in_shared_order(shown: Sequence[tuple[Demonstration, ...]]) -> list[int]:
    """Positions such that prompts with equal demonstrations are sent one after the other."""
    first: dict[tuple[str, ...], int] = {}
    keys = [tuple(d.query.digest for d in one) for one in shown]
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return sorted(range(len(keys)), key=lambda i: (first[keys[i]], i))


def _stands_in(query: Query, home: frozenset[str], known: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell whether no record of a query stands in other tables only."""
    tables = (known.get(record.digest, ()) for record in query.records)
    return all(not those or not home.isdisjoint(those) for those in tables)
