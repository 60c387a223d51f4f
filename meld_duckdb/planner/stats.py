"""Counters of a session: what ``FROM meld.stats()`` and ``FROM meld.errors()`` show."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from meld_duckdb.tasks.base import Answer

_MOST_LINES = 1_000
_MOST_ERRORS = 10_000


@dataclass(slots=True)
class StatsLine:
    """Counters of one SQL function in one statement.

    DuckDB does not tell a function which statement calls it: `meld sql` and `meld shell` start new
    lines with every statement; elsewhere reading the statistics does.

    - ``statement``, ``function``: which one, counted from 1 in this process.
    - ``rows``: rows DuckDB asked about.
    - ``distinct_inputs``: different questions among them.
    - ``cache_hits``: questions answered before, or by a learned label.
    - ``evaluations``: questions really computed; ``tier0``, ``tier1``, ``tier2``: by whom settled.
    - ``engine_prompts``, ``prompt_tokens``: what the language model was asked.
    - ``failures``: rows without an answer, see `meld.errors()`.
    - ``seconds``: time inside the function.
    """

    statement: int
    function: str
    rows: int = 0
    distinct_inputs: int = 0
    cache_hits: int = 0
    evaluations: int = 0
    tier0: int = 0
    tier1: int = 0
    tier2: int = 0
    engine_prompts: int = 0
    prompt_tokens: int = 0
    failures: int = 0
    seconds: float = 0.0
    seen: set[str] = field(default_factory=set, repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call to the planner went: digests of the queries asked, by where answers came from.

    Attributes:
        cached: Queries answered from the cache or the labels.
        evaluated: Queries really computed.
        answers: Their answers, in the same order as ``evaluated``.
        engine_prompts: Prompts a language model answered.
        prompt_tokens: Tokens of these prompts.
    """

    cached: Sequence[str] = ()
    evaluated: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    engine_prompts: int = 0
    prompt_tokens: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            [*self.cached, *other.cached],
            [*self.evaluated, *other.evaluated],
            [*self.answers, *other.answers],
            self.engine_prompts + other.engine_prompts,
            self.prompt_tokens + other.prompt_tokens,
        )


class Stats:
    """Thread-safe counters of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statement = 1
        self._lines: deque[StatsLine] = deque(maxlen=_MOST_LINES)
        self._errors: dict[tuple[str, str, str, str], int] = {}

    def begin_statement(self) -> None:
        """Start a new statement: later counts go to new lines."""
        with self._lock:
            if self._lines and self._lines[-1].statement == self._statement:
                self._statement += 1

    def count(self, function: str, n_rows: int, outcome: Outcome, seconds: float) -> None:
        """Add one call of a function."""
        with self._lock:
            line = self._line(function)
            line.rows += n_rows
            line.seconds += seconds
            hits = set(outcome.cached) - line.seen
            line.cache_hits += len(hits)
            line.evaluations += len(outcome.evaluated)
            line.seen.update(outcome.cached, outcome.evaluated)
            line.distinct_inputs = len(line.seen)
            line.tier0 += sum(a.tier == 0 for a in outcome.answers)
            line.tier1 += sum(a.tier == 1 for a in outcome.answers)
            line.tier2 += sum(a.tier == 2 for a in outcome.answers)
            line.engine_prompts += outcome.engine_prompts
            line.prompt_tokens += outcome.prompt_tokens

    def count_failures(self, function: str, failures: Sequence[tuple[str, str]]) -> bool:
        """Add rows without an answer, each (row digest, ``"code: message"``).

        Returns:
            True for the first failures of this function in this statement.
        """
        with self._lock:
            line = self._line(function)
            first = line.failures == 0
            line.failures += len(failures)
            for row, error in failures:
                code, _, message = error.partition(": ")
                key = (function, row, code, message)
                if key in self._errors or len(self._errors) < _MOST_ERRORS:
                    self._errors[key] = self._errors.get(key, 0) + 1
            return first

    def lines(self) -> list[StatsLine]:
        """All lines, oldest first."""
        with self._lock:
            return list(self._lines)

    def errors(self) -> list[tuple[str, str, str, str, int]]:
        """Rows of (function, row digest, code, message, count)."""
        with self._lock:
            return [(*key, count) for key, count in self._errors.items()]

    def _line(self, function: str) -> StatsLine:
        for line in reversed(self._lines):
            if line.statement != self._statement:
                break
            if line.function == function:
                return line
        line = StatsLine(self._statement, function)
        self._lines.append(line)
        return line
