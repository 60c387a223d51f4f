"""A backend that puts the prompts of concurrent callers into common batches of the real one.

A caller that is alone gets the batches it would get without. Prompts of callers that ask at once
with the same adapter form one round; several rounds advance in turn, a batch each, so that a short
question is not kept waiting by a long one. A round of several callers is short, because what one
of them no longer wants is computed for the sake of the others.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.errors import EngineError
from meld_duckdb.tasks.base import Completion, Prompt

_LOG = logging.getLogger(__name__)
_POLL_S = 0.1
_ROUND_BATCHES = 4
"""Engine batches of a round with several callers, at most."""

Part = list[tuple[int, Completion]]


@dataclass(eq=False)
class _Request:
    """What one caller asks: prompts not yet in a round, and where its completions go."""

    prompts: Sequence[Prompt]
    adapter: Adapter | None
    waiting: list[int]
    alone: bool = False  # after a round failed, each of its callers fails or succeeds by itself
    n_open: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    parts: queue.SimpleQueue[Part | BaseException] = field(default_factory=queue.SimpleQueue)

    @property
    def adapter_name(self) -> str | None:
        return None if self.adapter is None else self.adapter.name


@dataclass(eq=False)
class _Round:
    """Prompts of one or several callers that go to the backend together."""

    places: list[tuple[_Request, int]]
    completions: Iterator[Part]
    open: set[int]

    @property
    def callers(self) -> list[_Request]:
        return list(dict.fromkeys(request for request, _ in self.places))

    @property
    def is_merged(self) -> bool:
        return len(self.callers) > 1

    @property
    def is_left(self) -> bool:
        return all(self.places[i][0].left.is_set() for i in self.open)


class MergingBackend:
    """Merges what concurrent callers ask. Safe for threads.

    Args:
        backend: The real one; it is called by one thread.
        batch_size: Prompts it evaluates at once.
        gather_s: Seconds that the first caller waits for others to join.
    """

    def __init__(self, backend: Backend, batch_size: int, gather_s: float = 0.003) -> None:
        self._backend = backend
        self._batch_size = batch_size
        self._gather_s = gather_s
        self._changed = threading.Condition()
        self._requests: list[_Request] = []
        self._thread: threading.Thread | None = None
        self.n_rounds = self.n_merged = self.n_prompts = 0

    @property
    def digest(self) -> str:
        """Identity of the real backend."""
        return self._backend.digest

    def complete(self, prompts: Sequence[Prompt], adapter: Adapter | None = None) -> Iterator[Part]:
        """Answer all prompts; see `Backend.complete`.

        Raises:
            KeyboardInterrupt: This call was interrupted; the others go on.
        """
        if not prompts:
            return
        request = _Request(prompts, adapter, list(range(len(prompts))), n_open=len(prompts))
        with self._changed:
            self._requests.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="merging", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            while request.n_open:
                try:
                    part = request.parts.get(timeout=_POLL_S)
                except queue.Empty:
                    interrupt.check()
                    continue
                if isinstance(part, BaseException):
                    raise part
                request.n_open -= len(part)
                yield part
        finally:
            request.left.set()

    def _run(self) -> None:
        """Form rounds and advance them in turn; what goes wrong in that ends all that is asked.

        Whoever asks next starts anew.
        """
        rounds: list[_Round] = []
        try:
            self._go_round(rounds)
        except BaseException as error:  # noqa: BLE001  (somebody waits for each request)
            _LOG.warning("putting prompts into batches failed (%s)", type(error).__name__)
            with self._changed:
                self._thread = None
                asked = dict.fromkeys(self._requests)
                asked.update((caller, None) for active in rounds for caller in active.callers)
                self._requests = []
            failed = EngineError(f"the engine failed: {type(error).__name__}: {error}")
            for request in asked:
                request.parts.put(failed)

    def _go_round(self, rounds: list[_Round]) -> None:
        while True:
            for formed in self._form(wait=not rounds):
                rounds.append(formed)
            for active in list(rounds):
                if not self._advance(active):
                    rounds.remove(active)

    def _form(self, *, wait: bool) -> list[_Round]:
        """Rounds of what waits, one per adapter; waits for the first caller if asked to."""
        with self._changed:
            self._requests = [r for r in self._requests if not r.left.is_set()]
            if wait and not self._requests:
                self._changed.wait_for(lambda: bool(self._requests))
                until = time.monotonic() + self._gather_s
                while (left := until - time.monotonic()) > 0 and self._n_waiting() < (
                    self._batch_size
                ):
                    self._changed.wait(left)
            groups: dict[object, list[_Request]] = {}
            for request in self._requests:
                key = id(request) if request.alone else request.adapter_name
                groups.setdefault(key, []).append(request)
            chosen = [self._choose(group) for group in groups.values()]
            self._requests = [r for r in self._requests if r.waiting]
        return [self._begin(places) for places in chosen]

    def _n_waiting(self) -> int:
        return sum(len(request.waiting) for request in self._requests)

    def _choose(self, group: Sequence[_Request]) -> list[tuple[_Request, int]]:
        """All prompts of a caller that is alone; else some of each, one after the other."""
        if len(group) == 1:
            places = [(group[0], i) for i in group[0].waiting]
            group[0].waiting = []
            return places
        places = []
        most = _ROUND_BATCHES * self._batch_size
        while len(places) < most and any(request.waiting for request in group):
            for request in group:
                if request.waiting and len(places) < most:
                    places.append((request, request.waiting.pop(0)))
        return places

    def _begin(self, places: list[tuple[_Request, int]]) -> _Round:
        prompts = [request.prompts[i] for request, i in places]
        first = places[0][0]
        self.n_rounds += 1
        formed = _Round(places, iter(()), set(range(len(places))))
        formed.completions = self._ask(prompts, first.adapter)
        return formed

    def _ask(self, prompts: Sequence[Prompt], adapter: Adapter | None) -> Iterator[Part]:
        n_answered = 0
        for part in self._backend.complete(prompts, adapter):
            n_answered += len(part)
            yield part
        if n_answered < len(prompts):
            raise EngineError(f"the engine answered {n_answered} of {len(prompts)} prompts")

    def _advance(self, active: _Round) -> bool:
        """Run one batch of a round; False once there is nothing more to do."""
        if active.is_left:
            _close(active.completions)
            return False
        try:
            part = next(active.completions, None)
        except BaseException as error:  # noqa: BLE001  (it goes to those who asked)
            self._failed(active, error)
            return False
        if part is None:
            return False
        self.n_prompts += len(part)
        self.n_merged += len(part) if active.is_merged else 0
        handed: dict[_Request, Part] = {}
        for i, completion in part:
            request, own = active.places[i]
            active.open.discard(i)
            handed.setdefault(request, []).append((own, completion))
        for request, own_part in handed.items():
            request.parts.put(own_part)
        return True

    def _failed(self, active: _Round, error: BaseException) -> None:
        """Let each caller of a failed round try alone; one that was alone gets the error."""
        _close(active.completions)
        callers = [r for r in active.callers if not r.left.is_set()]
        if len(active.callers) == 1:
            for request in callers:
                request.waiting = []
                request.parts.put(error)
            return
        _LOG.warning("a batch of %d callers failed (%s)", len(callers), type(error).__name__)
        with self._changed:
            for request in callers:
                again = [
                    active.places[i][1]
                    for i in sorted(active.open)
                    if active.places[i][0] is request
                ]
                if not again:
                    continue
                request.alone = True
                request.waiting = again + request.waiting
                if request not in self._requests:
                    self._requests.append(request)


def _close(completions: Iterator[Part]) -> None:
    close = getattr(completions, "close", None)
    if close is not None:
        close()
