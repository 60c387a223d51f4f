"""Counters of a session: what ``FROM meld.stats()`` and ``FROM meld.errors()`` show."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from meld_duckdb.planner.budget import Spending

_MOST_LINES = 1_000
_MOST_ERRORS = 10_000
_MOST_SEEN = 1_000_000
"""Different inputs of a line that are remembered; an input beyond them counts at every call."""


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
    seen: set[int] = field(default_factory=set, repr=False)

    def see(self, outcome: Outcome) -> None:
        """Count the different inputs of a call."""
        cached, evaluated, refused = (
            {int(digest[:16], 16) for digest in digests}  # half the memory of texts
            for digests in (outcome.cached, outcome.evaluated, outcome.refused)
        )
        self.cache_hits += len(cached - self.seen)
        new = (cached | evaluated | refused) - self.seen
        self.distinct_inputs += len(new)
        if len(self.seen) < _MOST_SEEN:
            self.seen |= new


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call to the planner went: digests of the queries asked, by where answers came from.

    Attributes:
        cached: Queries answered from the cache or the labels.
        evaluated: Queries really computed.
        tiers: Which tier settled each of ``evaluated``, in order; None for none.
        engine_prompts: Prompts a language model answered.
        prompt_tokens: Tokens of these prompts.
        refused: Queries that were left open because the budget was used up.
    """

    cached: Sequence[str] = ()
    evaluated: Sequence[str] = ()
    tiers: Sequence[int | None] = ()
    engine_prompts: int = 0
    prompt_tokens: int = 0
    refused: Sequence[str] = ()

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome.of([self, other])

    @staticmethod
    def of(parts: Sequence[Outcome]) -> Outcome:
        """How several parts of a call went together."""
        return Outcome(
            [digest for part in parts for digest in part.cached],
            [digest for part in parts for digest in part.evaluated],
            [tier for part in parts for tier in part.tiers],
            sum(part.engine_prompts for part in parts),
            sum(part.prompt_tokens for part in parts),
            [digest for part in parts for digest in part.refused],
        )


class Stats:
    """Thread-safe counters of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statement = 1
        self._lines: deque[StatsLine] = deque(maxlen=_MOST_LINES)
        self._errors: dict[tuple[str, str, str, str], int] = {}
        self._spending = Spending()

    @property
    def spending(self) -> Spending:
        """What the statement of now has spent."""
        return self._spending

    def begin_statement(self) -> None:
        """Start a new statement: later counts go to new lines."""
        with self._lock:
            self._spending = Spending()
            for line in self._lines:
                line.seen = set()  # no call counts there any more
            if self._lines and self._lines[-1].statement == self._statement:
                self._statement += 1

    def count(self, function: str, n_rows: int, outcome: Outcome, seconds: float) -> None:
        """Add one call of a function."""
        with self._lock:
            line = self._line(function)
            line.rows += n_rows
            line.seconds += seconds
            line.see(outcome)
            line.evaluations += len(outcome.evaluated)
            line.tier0 += outcome.tiers.count(0)
            line.tier1 += outcome.tiers.count(1)
            line.tier2 += outcome.tiers.count(2)
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

    def n_answered(self, function: str) -> int:
        """Different inputs of a function that were answered in the statement of now."""
        with self._lock:
            line = self._line(function)
            return line.cache_hits + line.evaluations

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
