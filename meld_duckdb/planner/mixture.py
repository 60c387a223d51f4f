"""The mixture of experts of a workspace: which adapters answer a question of tier 2.

    question -> its vector -> router -> top-k experts -> one merged adapter

Paper: MELD §4.4 (router), §A.2 (adapters of the chosen experts are merged into one).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np

from meld_duckdb.engine.adapters import Adapter, open_adapter
from meld_duckdb.engine.merge_store import MergeStore
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.adapter_card import AdapterCard, read_adapter_card
from meld_duckdb.planner.artefacts import Watched
from meld_duckdb.planner.demonstrations import query_text
from meld_duckdb.planner.expert_card import ANY
from meld_duckdb.planner.metapath import Path
from meld_duckdb.planner.router import (
    Choice,
    Router,
    Vectors,
    choose,
    read_router,
    unit,
)
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Query

MERGED = "merged"
"""Directory of merged adapters among those of the adapters."""

MERGED_AHEAD = 24
"""Adapters that may be merged before the first of them is asked: all are kept until then."""

_MOST_MERGED = 64
_ROUTED_CHARS = 600

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, slots=True)
class MixtureSettings:
    """How experts are chosen and put together.

    Attributes:
        k: Experts of a question, at most; 0 asks the language model without any.
        weighting: See `router.choose`.
        diversity: See `router.choose`.
        rank: Rank that merged adapters are brought back to; None keeps them exact.
        tasks: ``"own"``: experts of the question's task, if it has any; ``"all"``: of any task.
            An expert of the starter answers its own task only.
    """

    k: int = 3
    weighting: str = "equal"
    diversity: float = 0.0
    rank: int | None = None
    tasks: str = "own"


@dataclass(frozen=True, slots=True)
class _Known:
    """What lies in the directories: experts by name, and the router."""

    own: dict[str, AdapterCard]
    starter: dict[str, AdapterCard]
    router: Router


class Mixture:
    """Adapters and router in the directories of a workspace, read again when these change.

    A task that the workspace has no expert of has that of the starter.

    Args:
        folder: Directory of the adapters; it need not be there.
        router_folder: Directory of the router; it need not be there.
        starter: Directory of the starter's adapters, likewise; None for none.
        settings: How experts are chosen.
        model_digest: Identity of the language model that the settings name.
        encoder_digest: Identity of the encoder.
        encode: Embeds texts: float32 [n, d], L2-normalised.
        notice: Called with one line where an expert cannot be used.
    """

    def __init__(
        self,
        folder: FilePath,
        router_folder: FilePath,
        starter: FilePath | None,
        settings: MixtureSettings,
        *,
        model_digest: Callable[[], str],
        encoder_digest: Callable[[], str],
        encode: Encode,
        notice: Callable[[str], None],
    ) -> None:
        self._folder, self._router_folder, self._starter = folder, router_folder, starter
        self.settings = settings
        self._model_digest, self._encoder_digest = model_digest, encoder_digest
        self._encode, self._notice = encode, notice
        self._merged = MergeStore(folder / MERGED, most=_MOST_MERGED)
        self._lock = threading.RLock()
        watched = (folder, router_folder, *([starter] if starter else []))
        self._watched = Watched(watched, self._read)
        self._vectors: tuple[str, Vectors] | None = None
        self._told: set[str] = set()

    @property
    def cards(self) -> dict[str, AdapterCard]:
        """Experts that can be used, by name.

        Raises:
            ArtefactCorrupt: A directory of an expert is damaged.
        """
        return self._usable(self._watched.get())

    @property
    def own(self) -> dict[str, AdapterCard]:
        """Experts of the workspace, by name; see `cards`."""
        return self._watched.get().own

    def folder(self, name: str) -> FilePath:
        """The directory of an expert."""
        return (
            self._starter / name if self._starter and self._is_lent(name) else self._folder / name
        )

    def starter(self, task: str) -> FilePath | None:
        """Directory of the starter's expert of a task, whether it answers or not; None for none."""
        known = self._watched.get().starter
        names = [n for n, card in known.items() if card.task == task and self._has_model({n: card})]
        return self._starter / names[0] if self._starter is not None and names else None

    def digest(self, task: str) -> str:
        """Identity of a task's experts, router and settings; empty where it has no expert."""
        known = self._watched.get()
        cards = self._fitting(task, self._usable(known))
        if not cards or not self.settings.k:
            return ""
        return digest(
            "mixture/2",
            *(card.digest for card in cards.values()),
            # one alone is not routed to
            *((known.router.digest, self._encoder_digest()) if len(cards) > 1 else ()),
            repr(self.settings),
        )

    def route(self, task: str, queries: Sequence[Query]) -> Sequence[Choice | None]:
        """Choose the experts of questions; None where there is none."""
        known = self._watched.get()
        cards = self._fitting(task, self._usable(known))
        names = list(cards)
        if not names or not self.settings.k or not queries:
            return [None] * len(queries)
        if len(names) == 1:  # nothing to choose from, so nothing is encoded
            return [Choice((names[0],), (1.0,), (1.0,))] * len(queries)
        questions = self._encode([routed_text(task, query) for query in queries])
        experts = self._expert_vectors(cards)
        settings = self.settings
        relevance = known.router.relevance(questions, experts, names)
        likeness = unit(experts) @ unit(experts).T if settings.diversity else None
        return choose(
            relevance,
            names,
            settings.k,
            settings.weighting,
            likeness=likeness,
            diversity=settings.diversity,
        )

    def groups(self, task: str, choices: Sequence[Choice | None]) -> list[list[int]]:
        """Positions of questions that one adapter answers in the same way, a list per adapter."""
        found: dict[object, list[int]] = {}
        for i, choice in enumerate(choices):
            key: object = None
            if choice is not None:
                parts = frozenset(zip(choice.experts, choice.weights, strict=True))
                key = (parts, self.path(task, choice), self.demonstrations(choice))
            found.setdefault(key, []).append(i)
        return list(found.values())

    def adapter(self, choice: Choice) -> Adapter:
        """The merged adapter of the chosen experts; the starter's as it lies."""
        [name, *others] = choice.experts
        if not others and self._is_lent(name):
            return open_adapter(self.folder(name))
        parts = [
            (self.folder(name), weight)
            for name, weight in zip(choice.experts, choice.weights, strict=True)
        ]
        return self._merged.get(parts, self.settings.rank)

    def path(self, task: str, choice: Choice) -> Path:
        """The meta-path of the most relevant chosen expert of a task; empty without one."""
        own = (self._watched.get().own.get(name) for name in choice.experts)
        return next((card.path for card in own if card is not None and card.task == task), ())

    def demonstrations(self, choice: Choice) -> int:
        """Labels that the most relevant chosen expert was shown with a question in training."""
        card = self._watched.get().own.get(choice.experts[0])
        return 0 if card is None else card.demonstrations

    def _is_lent(self, name: str) -> bool:
        """Whether an expert is the starter's."""
        known = self._watched.get()
        return name in known.starter and name not in known.own

    def _expert_vectors(self, cards: Mapping[str, AdapterCard]) -> Vectors:
        key = digest(self._encoder_digest(), *(card.digest for card in cards.values()))
        with self._lock:
            if self._vectors is None or self._vectors[0] != key:
                texts = [card.description for card in cards.values()]
                self._vectors = (key, np.asarray(self._encode(texts), dtype=np.float32))
            return self._vectors[1]

    def _usable(self, known: _Known) -> dict[str, AdapterCard]:
        """The workspace's experts, and the starter's of tasks that it has none of."""
        tasks = {card.task for card in known.own.values()}
        others = {n: card for n, card in known.starter.items() if card.task not in tasks}
        return known.own | (others if others and self._has_model(others) else {})

    def _has_model(self, starter: Mapping[str, AdapterCard]) -> bool:
        """Whether the starter belongs to the language model; nobody misses it where it does not."""
        try:
            digest_here = self._model_digest()
        except ArtefactError:  # the model may be pulled later
            return False
        return all(card.model_digest == digest_here for card in starter.values())

    def _fitting(self, task: str, cards: Mapping[str, AdapterCard]) -> dict[str, AdapterCard]:
        """The experts that may answer questions of a task."""
        own = self.settings.tasks == "own" and any(c.task == task for c in cards.values())
        return {n: c for n, c in cards.items() if c.task == task or not (own or c.key == ANY)}

    def _read(self) -> _Known:
        router = read_router(self._router_folder)
        if router.encoder_digest and router.encoder_digest != self._encoder_digest():
            self._tell(
                "the router was trained with another encoder and is not used: "
                "meld train --stages experts"
            )
            router = Router()
        starter = {} if self._starter is None else self._read_starter(self._starter)
        return _Known(self._read_own(), starter, router)

    def _read_starter(self, folder: FilePath) -> dict[str, AdapterCard]:
        found: dict[str, AdapterCard] = {}
        for name in adapter_names(folder):
            try:
                card = read_adapter_card(folder / name)
            except ArtefactError as error:  # it does not take the workspace's own with it
                self._tell(f"an expert of the starter is not used: {error.what}")
                continue
            if card.key == ANY:
                found[name] = card
        return found

    def _read_own(self) -> dict[str, AdapterCard]:
        found: dict[str, AdapterCard] = {}
        for name in adapter_names(self._folder):
            card = read_adapter_card(self._folder / name)
            if card.model_digest != self._model_digest():
                self._tell(
                    f"the expert {name} belongs to another language model ({card.model}) and is "
                    "not used: meld train --stages experts"
                )
                continue
            found[name] = card
        return found

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._notice(line)


def adapter_names(folder: FilePath) -> list[str]:
    """Names of the adapters in a directory, in order; none where there is no directory."""
    if not folder.is_dir():
        return []
    found = (f.name for f in folder.iterdir() if f.is_dir())
    return sorted(name for name in found if name[0] not in "._" and name != MERGED)


def routed_text(task: str, query: Query) -> str:
    """The text by which a question is routed."""
    return f"{task} | {query_text(query, _ROUTED_CHARS)}"
