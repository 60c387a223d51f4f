"""What happened on the way to one answer, for ``meld_explain``; and counting for the progress line.

A trace is on for a thread while it answers within `tracing`. The planner tells it each step, the
scorers their features, and the backend is watched by `Observed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from meld_duckdb import progress
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Around, Backend
from meld_duckdb.planner.router import Choice
from meld_duckdb.tasks.base import Answer, Completion, Prompt

if TYPE_CHECKING:
    from meld_duckdb.planner.batch import Batch
    from meld_duckdb.planner.scorers.base import Explained

MOST_FEATURES = 12


@dataclass(frozen=True, slots=True)
class TracedStep:
    """One step of the planner: its name, what it passed on, and seconds."""

    name: str
    batch: Batch
    seconds: float


@dataclass(frozen=True, slots=True)
class TracedPrompt:
    """What the engine was asked, with which adapter, and what it said."""

    prompt: Prompt
    adapter: str | None
    completion: Completion


@dataclass(frozen=True, slots=True)
class TracedFeature:
    """A feature, its value (None where it is missing or unknown), and what it added (log-odds)."""

    name: str
    value: float | None
    added: float


@dataclass(slots=True)
class Trace:
    """One question on its way.

    Attributes:
        steps: Steps of the planner, in order.
        features: Features that mattered to tier 0, the strongest first.
        prompts: What the engine was asked.
        routed: Experts of the language model that it was sent to: name, weight, relevance.
        sources: KcMF: the knowledge source of each prompt that was a vote.
        answer: The answer, with the options of the call applied.
        cached: Whether the answer was stored before.
        tables: Names of the tables that the records stand in.
    """

    steps: list[TracedStep] = field(default_factory=list)
    features: list[TracedFeature] = field(default_factory=list)
    prompts: list[TracedPrompt] = field(default_factory=list)
    routed: tuple[tuple[str, float, float], ...] = ()
    sources: dict[Prompt, str] = field(default_factory=dict)
    answer: Answer = field(default_factory=Answer)
    cached: bool = False
    tables: tuple[str, ...] = ()

    @property
    def batch(self) -> Batch:
        """The question as the last step left it."""
        return self.steps[-1].batch

    @property
    def key(self) -> str | None:
        """Its key in the cache; None where a label answered it."""
        return self.batch.keys[0] if self.batch.keys else None


_TRACE: ContextVar[Trace | None] = ContextVar("trace of this call", default=None)


@contextmanager
def tracing() -> Iterator[Trace]:
    """Record how this thread answers, within the block."""
    trace = Trace()
    before = _TRACE.set(trace)
    try:
        yield trace
    finally:
        _TRACE.reset(before)


def note_step(name: str, batch: Batch, seconds: float) -> None:
    """Note a step of the planner."""
    trace = _TRACE.get()
    if trace is not None:
        trace.steps.append(TracedStep(name, batch, seconds))


def note_route(choices: Sequence[Choice | None]) -> None:
    """Note the experts that a question was sent to."""
    trace = _TRACE.get()
    chosen = choices[0] if choices else None
    if trace is not None and chosen is not None:
        trace.routed = tuple(zip(chosen.experts, chosen.weights, chosen.relevance, strict=True))


def note_features(model: Explained, rows: np.ndarray) -> None:
    """Note what moved a model; only the first row is looked at."""
    trace = _TRACE.get()
    if trace is None or not len(rows):
        return
    names: Sequence[str] = getattr(model, "features", ())
    values = dict(zip(names, np.asarray(rows[0], dtype=float).tolist(), strict=False))
    trace.features = [
        TracedFeature(name, None if (value := values.get(name)) != value else value, added)
        for name, added in model.explain(rows[:1], MOST_FEATURES)[0]
    ]


def note_source(prompt: Prompt, source: str) -> None:
    """Note the knowledge source that a prompt was a vote of."""
    trace = _TRACE.get()
    if trace is not None:
        trace.sources[prompt] = source


def count_settled(batch: Batch) -> None:
    """Tell the progress line how the rows of a batch were answered."""
    tiers = {0: "t0", 1: "t1", 2: "t2"}
    progress.settled(
        Counter(
            "cache"
            if i in batch.cached
            else tiers.get(-1 if answer is None or answer.tier is None else answer.tier, "none")
            for i, answer in enumerate(batch.answers)
        )
    )


class Observed(Around):
    """A backend whose prompts are counted, and recorded where a trace is on."""

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts; see `Backend.complete`."""
        trace = _TRACE.get()
        progress.asking(len(prompts))
        n_open = len(prompts)
        try:
            for finished in self._backend.complete(prompts, adapter):
                n_open -= len(finished)
                progress.answered(len(finished))
                if trace is not None:
                    name = None if adapter is None else adapter.name
                    trace.prompts += [TracedPrompt(prompts[at], name, c) for at, c in finished]
                yield finished
        finally:
            progress.asking(-n_open)


def observed(load: Callable[[], Backend]) -> Callable[[], Backend]:
    """A backend that is observed, once it is loaded."""
    return lambda: Observed(load())
