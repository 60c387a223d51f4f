"""Answering without the models' work, to tell what a statement will cost.

The steps, and all that decides which tier a question goes to, are those of every answer. Only the
models do nothing: prompts and pairs are counted, and the question keeps the answer of the tier
before. Of many questions a sample is taken through the steps, and counts for the others.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TypeVar

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.counting import COUNTED
from meld_duckdb.planner.ask_engine import ask_engine
from meld_duckdb.planner.batch import Batch, Resources, Step, keep
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.cascade import is_small
from meld_duckdb.planner.kcmf.asking import TOO_LONG
from meld_duckdb.planner.kcmf.step import ask_votes
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.plan import Planner
from meld_duckdb.planner.speed import prompt_kind
from meld_duckdb.tasks.base import Answer, Completion, Prompt
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER
from meld_duckdb.tasks.kcmf import KcmfTask
from meld_duckdb.tasks.pairs import TextPair

SAMPLE = 2_000
"""Different questions of a task that are taken through the steps, unless it is said otherwise."""

_MOST_S = 10.0
_LEAST = 256
_TRIED = 16
_STAND_INS = 256

_T = TypeVar("_T")
Amounts = defaultdict[str, float]
"""How much there is of each kind of work."""


@dataclass(slots=True)
class Tally:
    """What one call of a function would cost.

    Attributes:
        weight: Questions that each one stands for that is computed now.
        n_computed: Questions that were taken through the steps.
        tiers: How many questions each tier would settle.
        prompts: Prompts by their kind.
        tokens: Tokens of prompts by their kind.
        pairs: Pairs by the expert of tier 1 that would be asked.
        spared_s: Seconds spent that are no part of answering: loading and counting.
        extra_s: Seconds that questions would take which were not computed.
        exact: Whether all was computed, and what is asked depends on no model's answer.
    """

    weight: float = 1.0
    n_computed: int = 0
    tiers: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    prompts: Amounts = field(default_factory=lambda: defaultdict(float))
    tokens: Amounts = field(default_factory=lambda: defaultdict(float))
    pairs: Amounts = field(default_factory=lambda: defaultdict(float))
    spared_s: float = 0.0
    extra_s: float = 0.0
    exact: bool = True


_TALLY: ContextVar[Tally | None] = ContextVar("tally of this call", default=None)


@contextmanager
def tallying() -> Iterator[None]:
    """Count what this thread would have the models do within the block."""
    before = _TALLY.set(Tally())
    try:
        yield
    finally:
        _TALLY.reset(before)


def tally() -> Tally:
    """What was counted so far of the call that this thread answers."""
    return _TALLY.get() or Tally()


def take_tally() -> Tally:
    """The same, and begin anew."""
    taken = tally()
    if _TALLY.get() is not None:
        _TALLY.set(Tally())
    return taken


@contextmanager
def sparing() -> Iterator[None]:
    """Leave the time of a block out of what answering takes."""
    before, started = tally().spared_s, time.perf_counter()
    try:
        yield
    finally:
        tally().spared_s = before + time.perf_counter() - started


class Sampler:
    """Chooses what is computed, by chance, and keeps a few prompts and pairs to be tried out.

    The first questions of a task are all computed; of later ones the same share as of all so far.
    Safe for threads.

    Args:
        size: Questions of a task that are all computed; None for `SAMPLE`, and fewer where that
            takes longer than a few seconds.
        seed: Where chance begins.
    """

    def __init__(self, size: int | None = None, seed: int = 0) -> None:
        self._size = SAMPLE if size is None else size
        self._most_s = _MOST_S if size is None else float("inf")
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._n_seen: Counter[str] = Counter()
        self._n_chosen: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._sizes: dict[str, int] = {}
        self._stand_ins: defaultdict[str, deque[Answer]] = defaultdict(
            lambda: deque(maxlen=_STAND_INS)
        )
        self.prompts: dict[str, list[Prompt]] = {}
        self.pairs: dict[str, list[TextPair]] = {}

    def choose(self, task: str, items: Sequence[_T]) -> list[_T]:
        """Choose what is computed of some items, at least one, in their order."""
        with self._lock:
            self._n_seen[task] += len(items)
            n_seen, size = self._n_seen[task], self._sizes.get(task, self._size)
            n_chosen = len(items)
            if n_seen > size:
                n_chosen = min(n_chosen, max(1, round(len(items) * size / n_seen)))
            self._n_chosen[task] += n_chosen
            chosen = sorted(self._random.sample(range(len(items)), n_chosen))
        return [items[i] for i in chosen]

    def note(self, task: str, seconds: float, answers: Iterable[Answer]) -> None:
        """Note what computing took, and answers that may stand in for others."""
        with self._lock:
            self._stand_ins[task].extend(answers)
            self._seconds[task] += seconds
            late = self._seconds[task] > self._most_s and self._n_chosen[task] >= _LEAST
            if late and task not in self._sizes:
                self._sizes[task] = self._n_chosen[task]

    def stand_in(self, task: str) -> Answer:
        """An answer like those that were computed."""
        with self._lock:
            known = self._stand_ins[task]
            return self._random.choice(known) if known else Answer()

    def positions(self, n: int, among: int) -> list[int]:
        """For each of ``n`` things one of those that were computed."""
        with self._lock:
            return self._random.choices(range(among), k=n)

    def keep_prompt(self, kind: str, prompt: Prompt) -> None:
        """Keep a prompt to be tried out, if there are not enough of its kind."""
        self._keep(self.prompts, kind, prompt)

    def keep_pair(self, expert: str, pair: TextPair) -> None:
        """Likewise for a pair of an expert."""
        self._keep(self.pairs, expert, pair)

    def _keep(self, kept: dict[str, list[_T]], key: str, item: _T) -> None:
        with self._lock:
            known = kept.setdefault(key, [])
            if len(known) < _TRIED:
                known.append(item)


class TallyingBackend:
    """A backend that enters into the tally what the one behind it counts."""

    def __init__(self, backend: Backend, engine: str, sampler: Sampler) -> None:
        self._backend = backend
        self._engine = engine
        self._sampler = sampler

    @property
    def digest(self) -> str:
        """Identity of the engine it stands for."""
        return self._engine

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Count prompts; see `CountingBackend.complete`."""
        with sparing():
            parts = list(self._backend.complete(prompts, adapter))
        now = tally()
        for part in parts:
            for position, completion in part:
                if is_counted(completion.error):
                    kind = prompt_kind(self._engine, prompts[position])
                    now.prompts[kind] += now.weight
                    now.tokens[kind] += now.weight * completion.prompt_tokens
                    self._sampler.keep_prompt(kind, prompts[position])
            yield part


class ReadOnlyCache(AnswerCache):
    """The answers there are; what is put in is known to this estimate alone.

    Args:
        kept: The cache of the workspace; None where it has none yet.
    """

    def __init__(self, kept: AnswerCache | None) -> None:
        self._kept = kept
        self._added: dict[str, Answer] = {}

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Look up keys; those without an entry are absent from the result."""
        wanted = list(keys)
        known = {key: self._added[key] for key in wanted if key in self._added}
        if self._kept is None:
            return known
        return known | self._kept.get(key for key in wanted if key not in known)

    def put(self, answers: Mapping[str, Answer], task: str = "") -> None:
        """Keep what an engine would have answered, and nothing that it would not."""
        self._added.update(
            {k: a for k, a in answers.items() if a.error is None or is_counted(a.error)}
        )

    def count(self) -> int:
        """Number of stored answers."""
        return 0 if self._kept is None else self._kept.count()

    def expert_counts(self) -> dict[str, int]:
        """How many stored answers each expert gave or had a part in, by name."""
        return {} if self._kept is None else self._kept.expert_counts()

    def summary(self, bins: int) -> list[tuple[str, int, int, int]]:
        """Count the stored answers; see `AnswerCache.summary`."""
        return [] if self._kept is None else self._kept.summary(bins)

    def clear(self) -> None:
        """Forget what was put in; what was there before stays."""
        self._added.clear()


class EstimatingPlanner(Planner):
    """Takes a sample of what is open through the steps, with models that only count."""

    def __init__(self, resources: Resources, sampler: Sampler) -> None:
        super().__init__(resources)
        self._sampler = sampler

    def _compute(self, batch: Batch, steps: Sequence[Step]) -> Batch:
        task, waiting, now = batch.task.name, batch.open, tally()
        chosen = self._sampler.choose(task, waiting)
        others = set(waiting).difference(chosen)
        batch = keep(batch, self._resources, {i: self._sampler.stand_in(task) for i in others})
        now.weight = len(waiting) / len(chosen)
        n_pairs, spared, started = sum(now.pairs.values()), now.spared_s, time.perf_counter()
        batch = super()._compute(batch, tuple(_COUNTING.get(step, step) for step in steps))
        seconds = time.perf_counter() - started - (now.spared_s - spared)
        now.extra_s += (now.weight - 1) * seconds
        answers = [a for i in chosen if i not in batch.cached and (a := batch.answers[i])]
        for answer in answers:
            if answer.tier is not None:
                now.tiers[answer.tier] += now.weight
        now.n_computed += len(answers)
        self._sampler.note(task, seconds, answers)
        asked_tier1 = sum(now.pairs.values()) > n_pairs
        if others or (asked_tier1 and _may_escalate(batch)) or self._words_matter(batch):
            now.exact = False
        now.weight = 1.0
        return batch

    def _words_matter(self, batch: Batch) -> bool:
        """Whether prompts are made of what the model said to others before."""
        asked = isinstance(batch.task, KcmfTask) and batch.policy.engine
        return asked and _asks_for_words(batch.options, self._resources.settings.model)


def _may_escalate(batch: Batch) -> bool:
    """Whether what tier 1 says decides if tier 2 is asked."""
    return batch.policy.engine or any(gate is not None and gate.use for gate in batch.gates)


def _asks_for_words(options: Options, model: str) -> bool:
    """Whether KcMF has the model find keywords or summarise items."""
    large = not is_small(model)
    summarises = large if options.self_indicator is None else options.self_indicator
    return summarises or options.keywords == "model" or (options.keywords == "auto" and large)


def is_counted(error: str | None) -> bool:
    """Whether an error says that a prompt was counted, not answered."""
    return error is not None and error.startswith(COUNTED)


def count_engine(batch: Batch, resources: Resources) -> Batch:
    """Tier 2: count the prompts of what is still open."""
    waiting = batch.open
    batch = ask_engine(batch, resources)
    return _as_answered(batch, resources, [i for i in waiting if _was_counted(batch.answers[i])])


def count_votes(batch: Batch, resources: Resources) -> Batch:
    """Tier 2 of KcMF: count the prompts, as far as they do not depend on what the model says."""
    waiting = batch.open
    batch = ask_votes(batch, resources)
    return _as_answered(batch, resources, [i for i in waiting if not _is_long(batch.answers[i])])


_COUNTING: dict[Step, Step] = {ask_engine: count_engine, ask_votes: count_votes}


def _as_answered(batch: Batch, resources: Resources, positions: Sequence[int]) -> Batch:
    """Settle questions as if tier 2 had answered them: it says what the tiers before said."""
    found = {
        i: replace(batch.tentative[i] or Answer(), tier=LANGUAGE_MODEL_TIER, error=None)
        for i in positions
    }
    return keep(batch, resources, found)


def _reasons(answer: Answer | None) -> list[str]:
    """Why tier 2 gave no answer."""
    if answer is None:
        return []
    return [answer.error or "", *(e.text for e in answer.evidence if e.kind == "tier 2")]


def _was_counted(answer: Answer | None) -> bool:
    return any(is_counted(reason) for reason in _reasons(answer))


def _is_long(answer: Answer | None) -> bool:
    return any(reason.startswith(TOO_LONG) for reason in _reasons(answer))
