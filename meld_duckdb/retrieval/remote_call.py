"""One call to a remote service: patience, retries, rate limit, and when to leave it alone.

What is sent over the network, and how, is `retrieval.remote`; here is only when.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from meld_duckdb import interrupt, safe_json
from meld_duckdb.retrieval import remote_sources as sources
from meld_duckdb.retrieval.remote_breaker import Breaker, Failure
from meld_duckdb.settings import Settings

_SLICE_S = 0.1
_HOPS = 3
_OK, _TOO_MANY, _SERVER_ERROR = 200, 429, 500


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """What a service said of one keyword.

    Attributes:
        sentences: Cleaned; data for a prompt, never instructions.
        error: Why there is nothing; None beside no sentences: the service knows nothing.
        passing: Asking again later may help: the service was slow, busy, not there or left alone.
    """

    sentences: tuple[str, ...]
    error: str | None
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the client is; times in seconds.

    Attributes:
        timeout_s: For one request, from connecting to the last byte.
        deadline_s: For one call of `RemoteKnowledge.facts`, beside twice what the rate of requests
            alone makes it take.
        tries: For a request that fails in a way that may pass.
        backoff_s: Wait before the second try; it doubles for each further one.
        retry_after_s: A service that asks to wait longer is not asked again for this keyword.
        max_bytes: Size of an answer.
        per_second: Requests to one service.
        break_after: Keywords that fail in a row before a service is left alone.
        cool_down_s: For which it is left alone, and a keyword that failed is not asked again.
    """

    timeout_s: float = 10.0
    deadline_s: float = 60.0
    tries: int = 3
    backoff_s: float = 0.5
    retry_after_s: float = 30.0
    max_bytes: int = 1 << 20
    per_second: float = 5.0
    break_after: int = 5
    cool_down_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Clock, sleep and chance; replaced in tests."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    rng: random.Random = field(default_factory=random.Random)

    def nap(self, seconds: float) -> None:
        """Sleep in slices, so that an interruption is seen."""
        until = self.clock() + seconds
        while (left := until - self.clock()) > 0:
            interrupt.check()
            self.sleep(min(left, _SLICE_S))


class Failed(Exception):
    """A request has failed for good.

    Args:
        reason: For `RemoteFacts.error`; without any text of the service.
        passing: For `RemoteFacts.passing`.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        self.reason = reason
        self.passing = passing
        super().__init__(reason)


class Again(Failed):
    """A request has failed in a way that may pass.

    Args:
        reason: As of `Failed`.
        after_s: Seconds that the service asks to wait.
    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason, passing=True)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answered: the body under status 200, ``location`` of a redirect."""

    status: int
    body: bytes = b""
    location: str | None = None
    retry_after: str | None = None


@dataclass(slots=True)
class Sent:
    """A request under way in a thread of its own; once ``done``, a reply or a failure."""

    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    failure: Failed | None = None


class Line(Protocol):
    """A connection for one request at a time."""

    given_up: bool

    def send(self, url: str, accept: str, timeout_s: float) -> Sent:
        """Start a request and return at once."""

    def give_up(self) -> None:
        """Leave behind what is under way; the line cannot be used any more."""

    def close(self) -> None:
        """Close it."""


class Slots:
    """When the next request to a service may start, for all threads."""

    def __init__(self, per_second: float) -> None:
        self.gap = 1.0 / per_second
        self._next: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, service: str, now: float) -> float:
        """Reserve the next slot; gives the seconds until then."""
        with self._lock:
            at = max(now, self._next.get(service, now))
            self._next[service] = at + self.gap
            return at - now

    def hold(self, service: str, until: float) -> None:
        """Give no slot before ``until``, because the service asked for it."""
        with self._lock:
            self._next[service] = max(until, self._next.get(service, until))


class _Late(Exception):
    """The deadline of the call.

    Args:
        failure: What went wrong before, where it was not only the time.
    """

    def __init__(self, failure: Failed | None = None) -> None:
        self.failure = failure
        super().__init__()


@dataclass(frozen=True, slots=True)
class Means:
    """What all calls share: patience, clock, rate limit, failures, connections, whom to tell."""

    limits: Limits
    timing: Timing
    slots: Slots
    breaker: Breaker
    open_line: Callable[[], Line]
    notice: Callable[[str], None]


class Call:
    """One call of `RemoteKnowledge.facts`: its deadline and its connection.

    Args:
        service: The service.
        n_keywords: How many keywords it will be asked about.
        settings: Where the service is.
        means: What is shared with other calls.
    """

    def __init__(self, service: str, n_keywords: int, settings: Settings, means: Means) -> None:
        self._service = service
        self._settings = settings
        self._means = means
        self._limits, self._timing = means.limits, means.timing
        self.least_s = n_keywords * sources.MOST_REQUESTS[service] / means.limits.per_second
        self._allowed_s = means.limits.deadline_s + 2.0 * self.least_s
        self._deadline = self._timing.clock() + self._allowed_s
        self._line: Line | None = None
        self._late = 0

    def ask(self, keyword: str) -> RemoteFacts:
        """Ask about one keyword, if the service still answers and there is time."""
        interrupt.check()
        breaker = self._means.breaker
        refused = breaker.enter(self._service, self._timing.clock())
        if refused is not None:
            return RemoteFacts((), refused, passing=True)
        try:
            sentences = self._steps(keyword)
        except _Late as late:
            self._late += 1
            if late.failure is None:
                breaker.gave_up(self._service)
            else:
                self._count(Failure(late.failure.reason, passing=True))
            return RemoteFacts((), "deadline", passing=True)
        except (Failed, sources.UnexpectedAnswer) as problem:
            passing = isinstance(problem, Failed) and problem.passing
            self._count(Failure(problem.reason, passing), keyword)
            return RemoteFacts((), problem.reason, passing)
        except BaseException:
            breaker.gave_up(self._service)
            raise
        breaker.answered(self._service)
        return RemoteFacts(sentences, None)

    def close(self) -> None:
        """Close the connection and tell what was not asked for want of time."""
        if self._line is not None:
            self._line.close()
        if self._late:
            self._means.notice(
                f"{self._late} keywords were not answered by {self._service} within "
                f"{self._allowed_s:.0f} s"
            )

    def _count(self, failure: Failure, keyword: str | None = None) -> None:
        now = self._timing.clock()
        notice = self._means.breaker.failed(self._service, failure, now, keyword)
        if notice is not None:
            self._means.notice(notice)

    def _steps(self, keyword: str) -> tuple[str, ...]:
        steps = sources.ask(self._service, keyword, self._settings)
        request = next(steps)
        while True:
            answer = self._fetch(request)
            try:
                request = steps.send(answer)
            except StopIteration as end:
                sentences: tuple[str, ...] = end.value
                return sentences

    def _fetch(self, request: sources.Request) -> object:
        """Carry out a request, again if its failure may pass."""
        wait, tries = 0.0, self._limits.tries
        failure: Failed | None = None
        for attempt in range(1, tries + 1):
            try:
                self._pause(wait)
                return self._follow(request)
            except Again as problem:
                failure = problem
                if attempt == tries:
                    raise
                wait = self._wait_after(problem, attempt)
            except _Late as late:
                raise _Late(failure) from late
        raise Failed("not tried")

    def _wait_after(self, problem: Again, attempt: int) -> float:
        jitter = self._timing.rng.uniform(0.5, 1.5)
        backoff = self._limits.backoff_s * 2.0 ** (attempt - 1) * jitter
        if problem.after_s is None:
            return backoff
        if problem.after_s > self._limits.retry_after_s:
            reason = f"{problem.reason}, and asks to wait {problem.after_s:.0f} s"
            raise Failed(reason, passing=True)
        self._means.slots.hold(self._service, self._timing.clock() + problem.after_s)
        return max(problem.after_s, backoff)

    def _pause(self, seconds: float) -> None:
        interrupt.check()
        if self._timing.clock() + seconds >= self._deadline:
            raise _Late
        self._timing.nap(seconds)

    def _wait_for_slot(self) -> None:
        """Wait for a turn; while other calls have theirs, the time of this one stands still."""
        slots = self._means.slots
        wait = slots.take(self._service, self._timing.clock())
        self._deadline += max(0.0, wait - slots.gap)
        self._pause(wait)

    def _follow(self, request: sources.Request) -> object:
        """Carry out a request once, and what it is redirected to on the same host."""
        url = request.url
        for _ in range(_HOPS + 1):
            self._wait_for_slot()
            reply = self._send(url, request.accept)
            if reply.location is None:
                return _read(reply)
            url = _redirected(url, reply.location)
        raise Failed("redirected too often")

    def _send(self, url: str, accept: str) -> Reply:
        if self._line is None or self._line.given_up:
            self._line = self._means.open_line()
        now = self._timing.clock()
        timeout_s = min(self._limits.timeout_s, self._deadline - now)
        sent = self._line.send(url, accept, timeout_s)
        answered = False
        try:
            while not (answered := sent.done.wait(_SLICE_S)):
                interrupt.check()
                if self._timing.clock() >= now + timeout_s:
                    break
        finally:
            if not answered:
                self._line.give_up()  # what the thread reports from here on is our own doing
        if answered and sent.reply is not None:
            return sent.reply
        if self._timing.clock() >= self._deadline:
            raise _Late
        raise (sent.failure or Failed("stopped")) if answered else Again("timeout")


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads; refused unless it is the same host, and no less protected."""
    try:
        target = urllib.parse.urljoin(url, location)
        old, new = urllib.parse.urlsplit(url), urllib.parse.urlsplit(target)
        ports = old.port, new.port
    except ValueError as error:
        raise Failed("redirected to something that is no address") from error
    same = (old.scheme, old.hostname, ports[0]) == (new.scheme, new.hostname, ports[1])
    safer = (old.scheme, new.scheme) == ("http", "https") and ports in {(None, None), (80, None)}
    if not same and not (safer and old.hostname == new.hostname):
        raise Failed("redirected to another host")
    if new.username is not None or new.password is not None:
        raise Failed("redirected to an address with a user")
    return target


def _read(reply: Reply) -> object:
    if reply.status == _TOO_MANY or reply.status >= _SERVER_ERROR:
        after_s = _seconds(reply.retry_after, dt.datetime.now(dt.UTC))
        raise Again(f"status {reply.status}", after_s)
    if reply.status != _OK:
        raise Failed(f"status {reply.status}")
    try:
        answer: object = safe_json.loads(reply.body)
    except ValueError as error:
        raise Failed("the answer is not JSON") from error
    return answer


def _seconds(retry_after: str | None, now: dt.datetime) -> float | None:
    """Read ``Retry-After``: seconds or a date; None if it is neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, (when - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
