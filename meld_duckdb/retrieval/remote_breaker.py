"""Which services are left alone for a while, and which keywords are not asked about again so soon.

A service that fails is asked by many calls, in many threads: all of them share what was learned.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a keyword was not answered, and whether asking again later may help."""

    reason: str
    passing: bool


@dataclass(slots=True)
class _State:
    """Of one service: failures in a row, and until when it is left alone (None: it is not)."""

    n_failures: int = 0
    reason: str = ""
    until: float | None = None
    being_tried: bool = False

    @property
    def left_alone(self) -> str:
        """Why it is left alone."""
        return f"left alone after {self.n_failures} failures in a row, the last: {self.reason}"


class Breaker:
    """Counts failures per service. Safe for threads; times in seconds of one clock.

    Args:
        break_after: Keywords that fail in a row before a service is left alone.
        cool_down_s: How long it is left alone, and a keyword that failed is not asked again. Then
            one keyword is tried, by one thread: its answer ends the pause, its failure renews it.
    """

    def __init__(self, break_after: int, cool_down_s: float) -> None:
        self._break_after = break_after
        self._cool_down_s = cool_down_s
        self._states: dict[str, _State] = {}
        self._failed: dict[tuple[str, str], tuple[float, Failure]] = {}
        self._lock = threading.Lock()

    def failed_lately(
        self, service: str, keywords: Iterable[str], now: float
    ) -> dict[str, Failure]:
        """Those keywords that failed within the cool-down, and why."""
        with self._lock:
            for key in [key for key, (until, _) in self._failed.items() if until <= now]:
                del self._failed[key]
            return {
                k: self._failed[service, k][1] for k in keywords if (service, k) in self._failed
            }

    def is_open(self, service: str, now: float) -> bool:
        """Whether a service is left alone."""
        with self._lock:
            until = self._state(service).until
            return until is not None and now < until

    def enter(self, service: str, now: float) -> str | None:
        """Ask for leave to ask; gives why not to, None for leave.

        Who was given leave tells by `answered`, `failed` or `gave_up` what became of it.
        """
        with self._lock:
            state = self._state(service)
            if state.until is None:
                return None
            if now < state.until or state.being_tried:
                return state.left_alone
            state.being_tried = True
            return None

    def answered(self, service: str) -> None:
        """The service answered."""
        with self._lock:
            self._states[service] = _State()

    def gave_up(self, service: str) -> None:
        """The caller stopped for a reason of its own."""
        with self._lock:
            self._state(service).being_tried = False

    def failed(
        self, service: str, failure: Failure, now: float, keyword: str | None = None
    ) -> str | None:
        """The service failed.

        Args:
            service: The service.
            failure: Why.
            now: The time.
            keyword: Not to be asked again within the cool-down.

        Returns:
            What to tell people if the service is left alone from now on, else None.
        """
        with self._lock:
            if keyword is not None:
                self._failed[service, keyword] = (now + self._cool_down_s, failure)
            state = self._state(service)
            state.n_failures += 1
            state.reason = failure.reason
            state.being_tried = False
            is_open = state.until is not None and now < state.until
            if is_open or state.n_failures < self._break_after:
                return None
            state.until = now + self._cool_down_s
            return f"the service {service} is {state.left_alone}; for {self._cool_down_s:g} s"

    def _state(self, service: str) -> _State:
        return self._states.setdefault(service, _State())
