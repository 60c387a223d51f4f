"""The calls that wait for a worker: bounded, and fair between clients."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

_POLL_S = 0.05

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class QueueSize:
    """How full a queue is: what waits, what runs, and clients with either."""

    waiting: int
    running: int
    clients: int


class FairQueue(Generic[_T]):
    """Items of clients; the next one is of the client with the fewest running, in turn.

    A client that asks much waits behind itself, not before the others: it gets a further worker
    only if then as many stay free as it has, so whoever comes finds one.

    Args:
        per_client: Items of one client that may wait.
        total: Items that may wait.
        n_workers: Items that may run at once.
    """

    def __init__(self, per_client: int, total: int, n_workers: int) -> None:
        self._per_client = per_client
        self._total = total
        self._n_workers = n_workers
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[_T]] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._closed = False

    def put(self, client: str, item: _T, check: Callable[[], None]) -> None:
        """Add an item; waits while the client or all together have too many.

        Args:
            client: Who it is of.
            item: The item.
            check: Called now and then while waiting; may raise to give up.

        Raises:
            RuntimeError: The queue is closed.
        """
        while True:
            with self._changed:
                if not self._closed and self._is_full(client):
                    self._changed.wait(_POLL_S)
                if self._closed:
                    raise RuntimeError("the queue is closed")
                if not self._is_full(client):
                    self._waiting.setdefault(client, deque()).append(item)
                    self._changed.notify_all()
                    return
            check()  # without the lock: it may wait for its client

    def get(self) -> tuple[str, _T] | None:
        """Take the next item, waiting for one; None once the queue is closed and empty.

        The client counts as running it until `done`.
        """
        with self._changed:
            while True:
                client = self._next()
                if client is not None:
                    break
                if self._closed and not self._waiting:
                    return None
                self._changed.wait()
            waiting = self._waiting[client]
            item = waiting.popleft()
            if waiting:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            self._running[client] += 1
            self._changed.notify_all()
            return client, item

    def done(self, client: str) -> None:
        """Tell that an item of a client runs no more."""
        with self._changed:
            self._running[client] -= 1
            if self._running[client] <= 0:
                del self._running[client]
            self._changed.notify_all()

    def remove(self, client: str, item: _T) -> bool:
        """Take an item out that still waits; False if it does not."""
        with self._changed:
            waiting = self._waiting.get(client)
            if waiting is None or item not in waiting:
                return False
            waiting.remove(item)
            if not waiting:
                del self._waiting[client]
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Take no more items; those that wait are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def size(self) -> QueueSize:
        """How full the queue is."""
        with self._changed:
            n_waiting = sum(len(items) for items in self._waiting.values())
            clients = self._waiting.keys() | self._running.keys()
            return QueueSize(n_waiting, self._running.total(), len(clients))

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nothing waits or runs; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._running, timeout_s
            )

    def _is_full(self, client: str) -> bool:
        own = len(self._waiting.get(client, ()))
        return own >= self._per_client or (
            sum(len(items) for items in self._waiting.values()) >= self._total
        )

    def _next(self) -> str | None:
        """The client whose turn it is: the longest ago served of those with the fewest running."""
        free = self._n_workers - self._running.total()
        able = [c for c in self._waiting if self._running[c] == 0 or self._running[c] + 2 <= free]
        return min(able, key=lambda c: self._running[c]) if able else None
