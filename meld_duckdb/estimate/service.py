"""The service of an estimate: it counts what answering would cost, and words it as lines."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from meld_duckdb import interrupt
from meld_duckdb.engine.backend import Backend
from meld_duckdb.planner.estimating import Amounts, Sampler, take_tally, tally, tallying
from meld_duckdb.planner.estimating_session import TABLES, EstimatingSession
from meld_duckdb.planner.memory import CallMemory
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.speed import Speeds, expert_kind
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.service import LocalService, present_session
from meld_duckdb.settings import Settings
from meld_duckdb.tasks.base import Prompt
from meld_duckdb.udfs import SqlFunction
from meld_duckdb.workspace import is_workspace

LOADING = "load models"
"""Name of the line that is no function's."""

_BACKEND = "backend"
_NOTICED_S = 0.05
_LONG_S = 5.0
"""Seconds that one prompt may take so that a batch of them is tried, and not just a few."""
_FEW = 4

_TRIED = Speeds(None)
"""What was tried out in this process, because no real run has told it yet."""


@dataclass(slots=True)
class EstimateLine:
    """What one SQL function of a statement will cost; see `planner.stats.StatsLine`.

    Attributes:
        exact: Whether all counts are those that running the statement would give; seconds are
            always an estimate.
    """

    function: str
    rows: int | None = 0
    distinct_inputs: int | None = 0
    cache_hits: int | None = 0
    evaluations: int | None = 0
    tier0: int | None = 0
    tier1: int | None = 0
    tier2: int | None = 0
    engine_prompts: int | None = 0
    prompt_tokens: int | None = 0
    seconds: float | None = 0.0
    exact: bool = True


COLUMNS = tuple(EstimateLine.__slots__)
"""Columns of an estimate, in order."""

_LINE = pa.struct(
    [
        ("function", pa.string()),
        *((name, pa.int64()) for name in COLUMNS[1:-2]),
        ("seconds", pa.float64()),
        ("exact", pa.bool_()),
    ]
)


def as_list(lines: Sequence[EstimateLine]) -> pa.Array:
    """One row that holds a list of lines."""
    return pa.array([[{k: getattr(line, k) for k in COLUMNS} for line in lines]], pa.list_(_LINE))


@dataclass(slots=True)
class _Function:
    """What is known of one SQL function so far."""

    n_rows: int = 0
    seen: set[str] = field(default_factory=set)
    n_hits: int = 0
    n_evaluations: int = 0
    tiers: np.ndarray = field(default_factory=lambda: np.zeros(3))
    prompts: Amounts = field(default_factory=lambda: defaultdict(float))
    tokens: Amounts = field(default_factory=lambda: defaultdict(float))
    pairs: Amounts = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0
    exact: bool = True
    guessed: bool = False
    left_out: bool = False


class EstimatingService(LocalService):
    """A service that counts what answering would cost; its answers are of no use.

    Nothing is kept in the workspace, and nothing in the memory of the process. Budgets are left
    out: it is told what a statement would cost as a whole.
    """

    def __init__(self, settings: Settings, sampler: Sampler) -> None:
        super().__init__(settings)
        self._memory = CallMemory()
        self._sampler = sampler
        self._folder: str | None = None
        self._own: EstimatingSession | None = None
        self._opening = threading.Lock()
        self._counting = threading.Lock()
        self._functions: dict[str, _Function] = {}
        self._told: set[str] = set()

    @property
    def session(self) -> EstimatingSession:
        """A session of its own; in the place of a workspace that is not there, an empty one."""
        with self._opening:
            if self._own is None:
                settings = self.settings
                if not is_workspace(settings.workspace):
                    self._folder = tempfile.mkdtemp(prefix="meld-")
                    settings = replace(settings, workspace=Path(self._folder))
                self._own = EstimatingSession(settings, self.notice, self._sampler)
            return self._own

    def close(self) -> None:
        """Remove what was made in the place of a workspace."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def notice(self, text: str) -> None:
        """Say one line, once."""
        with self._counting:
            first = text not in self._told
            self._told.add(text)
        if first:
            super().notice(text)

    def options(self, task: str, given: object) -> Options:
        """Check the options of one call, and leave budgets out."""
        found = super().options(task, given)
        if found.targets:  # how many rows a guarantee asks about shows when it does
            tally().exact = False
        return replace(found, max_calls=0, max_seconds=0.0)

    def _tell_failures(self, function: str, failures: Sequence[tuple[str, str]]) -> None:
        """Rows without an answer are told when the statement runs."""

    def _count(self, function: str, n_rows: int, outcome: Outcome, seconds: float) -> None:
        """Add one call, with what was counted while it was answered."""
        counted = take_tally()
        tiers = np.array(counted.tiers)
        if not counted.n_computed:  # in bulk, not question by question
            tiers = np.bincount([tier or 0 for tier in outcome.tiers], minlength=3)
        with self._counting:
            line = self._functions.setdefault(function, _Function())
            line.n_rows += n_rows
            line.n_hits += len(set(outcome.cached) - line.seen)
            line.n_evaluations += len(outcome.evaluated)
            line.seen.update(outcome.cached, outcome.evaluated)
            line.tiers = line.tiers + tiers
            for mine, more in (
                (line.prompts, counted.prompts),
                (line.tokens, counted.tokens),
                (line.pairs, counted.pairs),
            ):
                for kind, amount in more.items():
                    mine[kind] += amount
            line.seconds += max(0.0, seconds - counted.spared_s) + counted.extra_s
            line.exact = line.exact and counted.exact
            line.guessed = line.guessed or bool(tiers[1:].any()) or not counted.exact

    @contextmanager
    def calling(self, function: SqlFunction) -> Iterator[Callable[[int], None]]:
        """Count what a call takes that no task is asked in, such as embedding.

        Yields:
            What is told how many rows the result has.
        """
        n_rows = [0]
        started = time.perf_counter()
        with tallying():
            yield n_rows.append
            if function.handler in _PLAIN:
                name = function.name.replace("__meld_", "meld.")
                self._count(name, n_rows[-1], Outcome(), time.perf_counter() - started)

    def leave_out(self, function: str, n_rows: int) -> None:
        """Tell that a function does nothing; what it takes is not known."""
        self.notice(f"{function} does nothing in an estimate")
        self._count(function, n_rows, Outcome(), 0.0)
        self._functions[function].left_out = True

    def lines(self, engine_is_up: bool) -> list[EstimateLine]:
        """The lines of all functions, then one of what has to be loaded.

        Args:
            engine_is_up: Whether a process of its own answers, which has its models loaded.
        """
        if not self._functions:
            return []
        rates, loading = self._rates(), dict(self.session.loaded_s)
        if any(line.prompts for line in self._functions.values()):
            loading[_BACKEND] = self._model_loading()
        else:
            loading.pop(_BACKEND, None)
        real = present_session(self.settings)
        if engine_is_up:
            loading = {}
        elif real is not None:
            ready = {*real.loaded, TABLES}
            loading = {name: s for name, s in loading.items() if name not in ready}
        load_s = sum(loading.values())
        lines = [self._line(name, rates) for name in self._functions]
        if load_s >= _NOTICED_S:
            nothing = dict.fromkeys(COLUMNS[1:-2])
            lines.append(EstimateLine(LOADING, **nothing, seconds=load_s, exact=False))
        return lines

    def _line(self, name: str, rates: Mapping[str, float | None]) -> EstimateLine:
        line = self._functions[name]
        work = {**line.tokens, **{expert_kind(e): n for e, n in line.pairs.items()}}
        times = [n * rate for kind, n in work.items() if (rate := rates[kind]) is not None]
        known = len(times) == len(work) and not line.left_out
        # Another function may be asked about the rows that a guessed answer let through.
        apart = all(not other.guessed for key, other in self._functions.items() if key != name)
        tier0, tier1, tier2 = (round(n) for n in line.tiers.tolist())
        return EstimateLine(
            function=name,
            rows=line.n_rows,
            distinct_inputs=len(line.seen),
            cache_hits=line.n_hits,
            evaluations=line.n_evaluations,
            tier0=tier0,
            tier1=tier1,
            tier2=tier2,
            engine_prompts=round(sum(line.prompts.values())),
            prompt_tokens=round(sum(line.tokens.values())),
            seconds=line.seconds + sum(times) if known else None,
            exact=line.exact and apart and not line.left_out,
        )

    def _rates(self) -> dict[str, float | None]:
        """Seconds per token of each kind of prompt, and per pair of each expert."""
        lines = self._functions.values()
        kinds = {kind for line in lines for kind in line.tokens}
        experts = {name for line in lines for name in line.pairs}
        rates = {kind: self._known(kind) for kind in (*kinds, *map(expert_kind, experts))}
        if self.session.model_is_here:
            self._try_prompts([kind for kind in kinds if rates[kind] is None])
        for name in experts:
            if rates[expert_kind(name)] is None:
                self._try_pairs(name)
        unknown = [kind for kind, rate in rates.items() if rate is None]
        rates.update((kind, self._known(kind)) for kind in unknown)
        if any(rate is None for rate in rates.values()):
            self.notice("how long prompts take is known once some were asked")
        return rates

    def _known(self, kind: str) -> float | None:
        return self.session.speeds.per_unit(kind) or _TRIED.per_unit(kind)

    def _model_loading(self) -> float:
        name = self.session.engine_digest
        return self.session.speeds.loading(name) or _TRIED.loading(name) or 0.0

    def _try_prompts(self, kinds: Collection[str]) -> None:
        """Ask the real engine a few prompts of the statement, and forget what it says."""
        if not kinds:
            return
        real = present_session(self.settings)
        if real is not None and _BACKEND in real.loaded:
            backend: Backend = real.backend
        else:
            started = time.perf_counter()
            backend = self.session.open_backend()
            _TRIED.note_loading(self.session.engine_digest, time.perf_counter() - started)
        for kind in kinds:
            first, *others = self._sampler.prompts[kind]
            n_tokens, seconds = _timed(backend, [first])
            if others:  # what is done once is no part of a rate
                few = others if seconds < _LONG_S else others[:_FEW]
                n_tokens, seconds = _timed(backend, few)
            _TRIED.note(kind, n_tokens, seconds)

    def _try_pairs(self, name: str) -> None:
        """Have an expert of tier 1 score a few pairs of the statement."""
        score, pairs = self.session.experts_asked[name](), self._sampler.pairs[name]
        started = time.perf_counter()
        score(pairs)
        _TRIED.note(expert_kind(name), len(pairs), time.perf_counter() - started)


def _timed(backend: Backend, prompts: Sequence[Prompt]) -> tuple[int, float]:
    """Tokens of prompts, and the seconds that their answers took."""
    started, n_tokens = time.perf_counter(), 0
    for part in backend.complete(prompts):
        n_tokens += sum(completion.prompt_tokens for _, completion in part)
        interrupt.check()
    return n_tokens, time.perf_counter() - started


_PLAIN = frozenset({"embed", "similarity", "block"})
"""Handlers that ask no task, and take time."""
