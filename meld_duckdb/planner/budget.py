"""Budgets: how many prompts, and how much time, the functions of a statement may take.

What a statement has spent is counted over all its functions; how much it may spend, each call says
itself. Rows that are still open then have no answer, but a reason, and are not kept: the statement
goes on where it stopped when it is run again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Around, Backend
from meld_duckdb.tasks.base import Answer, Completion, Prompt

if TYPE_CHECKING:
    from meld_duckdb.planner.batch import Batch

_CODE = "over_budget"
_TOO_LONG = "prompt_too_long"


class Spending:
    """What the functions of one statement have taken. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_running = 0
        self._since = 0.0
        self._seconds = 0.0
        self._told = False
        self.n_calls = 0

    @property
    def seconds(self) -> float:
        """Wall-clock time in which at least one function ran."""
        with self._lock:
            running = time.monotonic() - self._since if self._n_running else 0.0
            return self._seconds + running

    @contextmanager
    def limited(self, max_calls: int, max_seconds: float) -> Iterator[None]:
        """Count what this thread does within the block, and let it spend no more than that.

        Args:
            max_calls: Prompts of the statement; 0 for any number.
            max_seconds: Seconds of the statement; 0 for any time.
        """
        with self._lock:
            if not self._n_running:
                self._since = time.monotonic()
            self._n_running += 1
        before = _BUDGET.set(Budget(self, max_calls, max_seconds))
        try:
            yield
        finally:
            _BUDGET.reset(before)
            with self._lock:
                self._n_running -= 1
                if not self._n_running:
                    self._seconds += time.monotonic() - self._since

    def take(self, n_calls: int, most: int) -> int:
        """Take calls ahead, as many as are left of ``most``; gives how many."""
        with self._lock:
            taken = min(n_calls, max(0, most - self.n_calls)) if most else n_calls
            self.n_calls += taken
            return taken

    def give_back(self, n_calls: int) -> None:
        """Give back calls that were taken and not made."""
        with self._lock:
            self.n_calls -= n_calls

    def is_news(self) -> bool:
        """Whether nobody was told yet that the budget is used up; true once."""
        with self._lock:
            first, self._told = not self._told, True
            return first


@dataclass(frozen=True, slots=True)
class Budget:
    """What one call may still spend.

    Attributes:
        spending: What its statement has spent.
        max_calls: Prompts of the statement; 0 for any number.
        max_seconds: Seconds of the statement; 0 for any time.
    """

    spending: Spending
    max_calls: int
    max_seconds: float

    @property
    def is_late(self) -> bool:
        """Whether the time is used up."""
        return bool(self.max_seconds) and self.spending.seconds >= self.max_seconds

    @property
    def error(self) -> str:
        """Why a row has no answer once the budget is used up."""
        if self.is_late:
            return f"{_CODE}: max_seconds = {self.max_seconds:g} are used up"
        return f"{_CODE}: max_calls = {self.max_calls} are used up"


_BUDGET: ContextVar[Budget | None] = ContextVar("budget of this call", default=None)


def is_over(error: str | None) -> bool:
    """Whether an error says that the budget is used up."""
    return error is not None and error.startswith(_CODE)


def was_asked(completion: Completion) -> bool:
    """Whether an engine worked on a prompt: neither budget nor length kept it from that."""
    return not (completion.error or "").startswith((_CODE, _TOO_LONG))


def late_error() -> str | None:
    """Why this thread may not go on computing; None where it may."""
    budget = _BUDGET.get()
    return budget.error if budget is not None and budget.is_late else None


def settle_late(batch: Batch) -> Batch:
    """Settle what is open if there is no time left to compute it."""
    error = late_error()
    return batch if error is None else batch.settle({i: Answer(error=error) for i in batch.open})


def limited(load: Callable[[], Backend]) -> Callable[[], Backend]:
    """A backend that keeps to the budget of the calls it serves."""
    return lambda: _Limited(load())


class _Limited(Around):
    """A backend that answers as long as the budget of the calling thread lasts."""

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer the prompts that the budget is enough for; the others have an error."""
        budget = _BUDGET.get()
        if budget is None:
            yield from self._backend.complete(prompts, adapter)
            return
        waiting = set(range(len(prompts)))
        n_taken = 0 if budget.is_late else budget.spending.take(len(prompts), budget.max_calls)
        parts = iter(self._backend.complete(prompts[:n_taken], adapter) if n_taken else ())
        try:
            for part in parts:
                n_asked = sum(was_asked(completion) for _, completion in part)
                budget.spending.give_back(len(part) - n_asked)
                n_taken -= len(part)
                waiting.difference_update(position for position, _ in part)
                yield part
                if n_taken and budget.is_late:
                    break
        finally:
            budget.spending.give_back(n_taken)
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        if waiting:
            refused = Completion(None, error=budget.error)
            yield [(position, refused) for position in sorted(waiting)]
