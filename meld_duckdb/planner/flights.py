"""Threads that share a planner: who computes, and what is being computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.tasks.base import Completion, Prompt

_POLL_S = 0.1
"""How often a thread that waits looks for an interruption."""


class Turn:
    """One thread at a time has the turn; what the steps use need not be safe for more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Have the turn; waiting for it can be interrupted.

        Raises:
            KeyboardInterrupt: The wait was interrupted.
        """
        while not self._lock.acquire(timeout=_POLL_S):
            interrupt.check()
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let others have the turn for the time of a block, within `hold`."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class Yielding:
    """A backend that lets other threads have the turn while it works."""

    def __init__(self, backend: Backend, turn: Turn) -> None:
        self._backend = backend
        self._turn = turn

    @property
    def digest(self) -> str:
        """Identity of the backend."""
        return self._backend.digest

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts; see `Backend.complete`."""
        parts = iter(self._backend.complete(prompts, adapter))
        while True:
            with self._turn.pause():
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
