"""Threads that share a planner: who computes, and what is being computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Around
from meld_duckdb.tasks.base import Completion, Prompt

_POLL_S = 0.1
"""How often a thread that waits looks for an interruption."""


class Turn:
    """One thread at a time has the turn; what the steps use need not be safe for more."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Have the turn, once; waiting for it can be interrupted.

        Raises:
            KeyboardInterrupt: The wait was interrupted.
        """
        while self._is_own():
            interrupt.check()
            time.sleep(_POLL_S)
        try:
            while not self._lock.acquire(timeout=_POLL_S):
                interrupt.check()
            yield
        finally:
            if self._is_own():
                self._lock.release()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let others have the turn for the time of a block, within `hold`.

        Raises:
            KeyboardInterrupt: Ctrl-C, also while the turn was waited for; it is had again even so.
        """
        self._lock.release()
        try:
            yield
        finally:
            self._regain()

    def _regain(self) -> None:
        """Have the turn again, whatever happens: the steps go on in the belief that they do."""
        interrupted: KeyboardInterrupt | None = None
        while not self._is_own():
            try:
                self._lock.acquire(timeout=_POLL_S)
            except KeyboardInterrupt as error:  # perhaps in the moment after it was acquired
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _is_own(self) -> bool:
        """Whether this thread has the turn; a flag of our own would be set too late for Ctrl-C."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]


_HELD: ContextVar[Turn | None] = ContextVar("turn that may be paused", default=None)


@contextmanager
def pausing(turn: Turn) -> Iterator[None]:
    """Have the turn, and let `letting_others` give it away."""
    with turn.hold():
        before = _HELD.set(turn)
        try:
            yield
        finally:
            _HELD.reset(before)


@contextmanager
def letting_others() -> Iterator[None]:
    """Let other threads have the turn for the time of a block, if this one has and may."""
    turn = _HELD.get()
    if turn is None:
        yield
        return
    own = _HELD.set(None)
    try:
        with turn.pause():
            yield
    finally:
        _HELD.reset(own)


class Yielding(Around):
    """A backend that lets other threads have the turn while it works."""

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts; see `Backend.complete`."""
        parts = iter(self._backend.complete(prompts, adapter))
        while True:
            with letting_others():
                finished = next(parts, None)
            if finished is None:
                return
            yield finished


class InFlight:
    """Keys that are being computed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._keys: set[str] = set()

    @contextmanager
    def claim(self, keys: AbstractSet[str]) -> Iterator[AbstractSet[str]]:
        """Claim those of some keys that nobody computes, for the time of a block."""
        with self._changed:
            free = keys - self._keys
            self._keys |= free
        try:
            yield free
        finally:
            with self._changed:
                self._keys -= free
                self._changed.notify_all()

    def wait(self, keys: AbstractSet[str]) -> None:
        """Wait until nobody computes any of some keys.

        Raises:
            KeyboardInterrupt: The wait was interrupted.
        """
        with self._changed:
            while not self._keys.isdisjoint(keys):
                self._changed.wait(_POLL_S)
                interrupt.check()
