"""A session for an estimate: it reads the workspace, loads no language model, writes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.estimating import (
    EstimatingPlanner,
    ReadOnlyCache,
    Sampler,
    TallyingBackend,
    sparing,
    tally,
)
from meld_duckdb.planner.expert_card import ExpertCard
from meld_duckdb.planner.experts import ExpertLoader, Score
from meld_duckdb.planner.loaded import Notice
from meld_duckdb.planner.mixture import Mixture
from meld_duckdb.planner.router import Choice
from meld_duckdb.planner.session import Session
from meld_duckdb.records import Record
from meld_duckdb.retrieval.encoder import read_dimension
from meld_duckdb.retrieval.remote import RemoteFacts, RemoteKnowledge
from meld_duckdb.retrieval.store import Label, Neighbour, Store
from meld_duckdb.settings import Settings
from meld_duckdb.tasks.base import Demonstration, Task
from meld_duckdb.tasks.pairs import TextPair
from meld_duckdb.workspace import check_dimension

_T = TypeVar("_T")
Embed = Callable[[Sequence[Record]], np.ndarray]

TABLES = "tables"
"""What is said to be loaded when the rows of an indexed table are read."""


class ReadingDemonstrator(Demonstrator):
    """Labels that have no vector yet are embedded for this session alone."""

    def _embed_labels(self, task: str) -> None:
        """Embed the labels that are not yet, and keep the vectors here."""
        key = f"{self._catalogue.history.version()} {self.digest(task)}"
        if self._embedded.get(task) == key:
            return
        labels = self._store().labels_to_embed(task)
        vectors = self._vectors([label.query for label in labels]) if labels else np.zeros((0, 1))
        self._unstored = {**getattr(self, "_unstored", {}), task: (labels, vectors)}
        self._embedded[task] = key

    def _nearest(
        self, task: Task, vectors: np.ndarray, k: int, answer: str | None = None
    ) -> list[list[Neighbour]]:
        found = super()._nearest(task, vectors, k, answer)
        unstored: dict[str, tuple[list[Label], np.ndarray]] = getattr(self, "_unstored", {})
        labels, own = unstored.get(task.name, ([], np.zeros((0, 1))))
        known = self.labels(task.name)
        chosen = [
            i
            for i, label in enumerate(labels)
            if known.get(label.query.digest) == label.answer and answer in (None, label.answer)
        ]
        if k < 1 or not chosen:
            return found
        similar = vectors @ own[chosen].T
        merged = []
        for near, row in zip(found, similar.tolist(), strict=True):
            more = [
                Neighbour(Demonstration(labels[i].query, labels[i].answer), similarity)
                for i, similarity in zip(chosen, row, strict=True)
            ]
            both = sorted(
                [*near, *more], key=lambda n: (-n.similarity, n.demonstration.query.digest)
            )
            merged.append(both[:k])
        return merged


class UnmergedMixture(Mixture):
    """Experts are chosen, but not merged: a prompt is counted the same with any adapter."""

    def adapter(self, choice: Choice) -> Adapter:
        """A name for the merged adapter of the chosen experts; there are no such files."""
        return Adapter(f"{'+'.join(choice.experts)}@", Path())


class SilentKnowledge(RemoteKnowledge):
    """Remote services that nobody asks: what they would say is not known."""

    def facts(self, service: str, keywords: Sequence[str]) -> dict[str, RemoteFacts]:
        """Say nothing about keywords, and that prompts would be others with knowledge."""
        if keywords:
            tally().exact = False
        return {keyword: RemoteFacts((), None) for keyword in keywords}


class EstimatingSession(Session):
    """What is behind an estimate. Nothing of it is shared with other sessions.

    Args:
        settings: Resolved settings.
        notice: Called with one line when something slow begins.
        sampler: Chooses what is computed.

    Attributes:
        loaded_s: Seconds that loading took, by what was loaded.
        experts_asked: Experts of tier 1 that would be asked: how they are loaded, by digest.
    """

    demonstrator_class = ReadingDemonstrator
    mixture_class = UnmergedMixture

    def __init__(self, settings: Settings, notice: Notice, sampler: Sampler) -> None:
        self._sampler = sampler
        self._depth = threading.local()
        self.loaded_s: dict[str, float] = {}
        self.experts_asked: dict[str, Callable[[], Score]] = {}
        super().__init__(settings, notice)
        cache: AnswerCache | None = self._resources.cache
        if cache is not None:  # to look into it would make the file
            cache = ReadOnlyCache(cache if self._workspace.cache_path.exists() else None)
        self._resources = replace(self._resources, cache=cache, certificates=None)
        self.planner = EstimatingPlanner(self._resources, sampler)

    def _once(self, name: str, load: Callable[[], _T]) -> _T:
        return super()._once(name, lambda: self._timed(name, load))

    def _timed(self, name: str, load: Callable[[], _T]) -> _T:
        """Load a thing; what loads on the way belongs to it."""
        if getattr(self._depth, "loading", False):
            return load()
        self._depth.loading = True
        started = time.perf_counter()
        try:
            with sparing():
                return load()
        finally:
            self._depth.loading = False
            took = time.perf_counter() - started
            self.loaded_s[name] = self.loaded_s.get(name, 0.0) + took

    def _load_table(self, content: str) -> list[Record]:
        load = super()._load_table
        return self._timed(TABLES, lambda: load(content))

    def _load_backend(self) -> Backend:
        counting = self._backend_kind().open_counting(self._model_path(), self.settings)
        return TallyingBackend(counting, self._backend_digest(), self._sampler)

    def open_backend(self) -> Backend:
        """The real engine, loaded to be tried out."""
        kind = self._backend_kind()
        self._notice(f"{kind.opening(self.settings)}, to see how fast it is")
        return kind.open(self._model_path(), self.settings)

    @property
    def model_is_here(self) -> bool:
        """Whether the language model runs on this machine."""
        return self._backend_kind().is_here

    @property
    def engine_digest(self) -> str:
        """Identity of the engine."""
        return self._backend_digest()

    def _load_store(self) -> Store:
        dimension = read_dimension(self._encoder_path()) or self.encoder.dimension
        check_dimension(self._workspace, self.settings.answer.encoder, dimension)
        return self.ledger.open_store(dimension, self._encoder_digest())

    def _load_remote(self) -> RemoteKnowledge:
        return SilentKnowledge(self.settings, self._workspace.remote_path, self._notice)

    def _expert_loader(self) -> ExpertLoader:
        load = super()._expert_loader()

        def counting(card: ExpertCard, folder: Path) -> Score:
            self.experts_asked[card.digest] = lambda: load(card, folder)

            def count(pairs: Sequence[TextPair]) -> np.ndarray:
                now = tally()
                now.pairs[card.digest] += now.weight * len(pairs)
                for pair in pairs:
                    self._sampler.keep_pair(card.digest, pair)
                return np.zeros(len(pairs))

            return count

        return counting

    def embed(self, records: Sequence[Record], what: str) -> np.ndarray:
        """Embed records, or some of them; see `Loaded.embed`."""
        whole = super().embed
        return self._some("embed", records, lambda some: whole(some, what))

    def embed_texts(self, records: Sequence[Record]) -> np.ndarray:
        """Embed texts, or some of them; see `Loaded.embed_texts`."""
        return self._some("embed", records, super().embed_texts)

    def _some(self, what: str, records: Sequence[Record], embed: Embed) -> np.ndarray:
        """Embed as many records as may be; the vectors of these stand in for the others."""
        distinct = list({record.digest: record for record in records}.values())
        if not distinct:
            return embed(records)
        chosen = self._sampler.choose(what, distinct)
        if len(chosen) == len(distinct):
            return embed(records)
        now, started = tally(), time.perf_counter()
        spared = now.spared_s
        vectors = embed(chosen)
        seconds = time.perf_counter() - started - (now.spared_s - spared)
        now.extra_s += (len(distinct) / len(chosen) - 1) * seconds
        now.exact = False
        self._sampler.note(what, seconds, ())
        at = {record.digest: i for i, record in enumerate(chosen)}
        others = self._sampler.positions(len(records), len(chosen))
        found: np.ndarray = vectors[
            [at.get(record.digest, other) for record, other in zip(records, others, strict=True)]
        ]
        return found
