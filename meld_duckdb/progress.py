"""How far a statement is: counted where it is answered, shown on one line that is written over.

The line stands on standard error if that is a terminal, and in a cell of a notebook; elsewhere (in
pipes, logs, tests) there is none. As DuckDB's own it comes after two seconds. DuckDB tells a
function neither where a statement begins nor where it ends: calls that follow each other closely
are counted together, and between them the line is taken away, lest a result is written into it.
Who runs statements says where they end, and keeps it (`statement`).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from meld_duckdb.locks import ThreadLock
from meld_duckdb.screen import Screen, find_screen, visible

KINDS = ("cache", "t0", "t1", "t2", "none")
"""Who answered rows: the cache or a label, a tier, or nobody."""

NOTICES = logging.getLogger("meld_duckdb.notices")
"""Whoever shows notices in another way listens here; see `say`."""

_DELAY_S = 2.0
_EVERY_S = 0.25
_SAME_S = 1.0
"""Seconds between two calls that are still counted together."""

_NUMBERS = (*KINDS, "total", "asked", "prompts", "step", "steps")


class Meter:
    """Counts of one call: written by the thread that answers it, read by the one that shows them.

    Args:
        function: SQL name of the function.
        whole: Whether the call is a whole statement, so that what it has to do is all there is.
    """

    def __init__(self, function: str = "", *, whole: bool = False) -> None:
        self.function = function
        self.whole = whole
        self.doing = ""
        self.counts: Counter[str] = Counter()

    def state(self) -> dict[str, int | str]:
        """All counts, to be sent; see `take`."""
        return {"doing": self.doing, **{name: self.counts[name] for name in _NUMBERS}}

    def take(self, state: Mapping[str, object]) -> None:
        """Have the counts of another meter; what is no count is left out."""
        self.doing = str(state.get("doing", ""))[:100]
        for name in _NUMBERS:
            number = state.get(name)
            if isinstance(number, int) and 0 <= number < 2**53:
                self.counts[name] = number


_CURRENT: ContextVar[Meter | None] = ContextVar("meter of this call", default=None)


@contextmanager
def metering(meter: Meter) -> Iterator[None]:
    """Count what this thread does within the block."""
    before = _CURRENT.set(meter)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def expect(n_rows: int) -> None:
    """Tell that so many rows are going to be answered; told only of whole statements."""
    meter = _CURRENT.get()
    if meter is not None and meter.whole:
        meter.counts["total"] += n_rows


def settled(counts: Mapping[str, int]) -> None:
    """Tell how many rows were answered, by `KINDS`."""
    meter = _CURRENT.get()
    if meter is not None:
        meter.counts.update(counts)


def asking(n_prompts: int) -> None:
    """Tell that a language model is asked so many prompts (fewer, if negative)."""
    meter = _CURRENT.get()
    if meter is not None:
        meter.counts["asked"] += n_prompts


def answered(n_prompts: int) -> None:
    """Tell that a language model answered so many prompts."""
    meter = _CURRENT.get()
    if meter is not None:
        meter.counts["prompts"] += n_prompts


def step(done: int, total: int) -> None:
    """Tell how far what is being done is (see `doing`)."""
    meter = _CURRENT.get()
    if meter is not None:
        meter.counts["step"], meter.counts["steps"] = done, total


def received(state: Mapping[str, object]) -> None:
    """Take over the counts of the process that answers for this thread."""
    meter = _CURRENT.get()
    if meter is not None:
        meter.take(state)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Tell what is being done before rows are answered, for the time of a block."""
    meter = _CURRENT.get()
    if meter is None:
        yield
        return
    before, meter.doing = meter.doing, what
    step(0, 0)
    try:
        yield
    finally:
        meter.doing = before
        step(0, 0)


class Line:
    """The line of this process: the calls that run, and those before that belong to them.

    Args:
        find: Finds where it is shown.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        find: Callable[[], Screen | None] = find_screen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._clock = clock
        self._lock = ThreadLock()
        self._meters: list[Meter] = []
        self._past: Counter[str] = Counter()
        self._screen: Screen | None = None
        self._began = self._ended = -_SAME_S
        self._rows = _Rate()
        self._prompts = _Rate()
        self._kept = False
        self._ticker: threading.Thread | None = None

    def enter(self, meter: Meter) -> None:
        """Show a call from now on."""
        with self._lock:
            now = self._clock()
            if not self._meters and not self._kept and now - self._ended >= _SAME_S:
                self._begin(now)
            self._meters.append(meter)
            if self._screen is not None and (self._ticker is None or not self._ticker.is_alive()):
                self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
                self._ticker.start()

    def leave(self, meter: Meter) -> None:
        """Count a call to what is done."""
        with self._lock:
            if meter not in self._meters:
                return
            self._meters.remove(meter)
            self._past.update({k: meter.counts[k] for k in (*KINDS, "total")})
            if self._meters:
                return
            self._ended = self._clock()
            self._prompts = _Rate()
            if self._screen is not None and not self._kept:
                self._screen.clear()

    def keep(self) -> None:
        """Begin a statement; its line stays until `drop`."""
        with self._lock:
            self._begin(self._clock())
            self._kept = True

    def drop(self) -> None:
        """End a statement."""
        with self._lock:
            self._kept = False
            if self._screen is not None:
                self._screen.clear()
            self._screen = None

    def say(self, text: str) -> None:
        """Write a line of its own to standard error."""
        with self._lock:
            if self._screen is not None:
                self._screen.clear()
            sys.stderr.write(f"{visible(text)}\n")
            sys.stderr.flush()

    def draw(self) -> None:
        """Show how far it is, once it has taken long enough."""
        with self._lock:
            self._draw()

    def _begin(self, now: float) -> None:
        self._began = now
        self._past = Counter()
        self._rows, self._prompts = _Rate(), _Rate()
        self._screen = self._find()

    def _draw(self) -> None:
        now = self._clock()
        if self._screen is None or not self._meters:
            return
        counts = Counter(self._past)
        for meter in list(self._meters):
            counts.update(Counter(meter.counts))
        done, total = _rows(counts), counts["total"]
        if done or total:  # what came before, to find candidates say, says nothing of the rows
            self._rows.look(done, now)
        if counts["asked"]:
            self._prompts.look(counts["prompts"], now)
        if now - self._began < _DELAY_S:
            return
        newest, seconds = self._meters[-1], now - self._began
        rates = self._rows.per_s, self._prompts.per_s
        text = line_text(newest.function, newest.doing, counts, seconds, *rates)
        self._screen.show(text, min(1.0, done / total) if total else None)

    def _tick(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            with self._lock:
                if not self._meters and not self._kept:
                    self._ticker = None
                    return
                self._draw()


class _Rate:
    """How much is done in a second, since something was first done."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self.per_s = 0.0

    def look(self, done: int, now: float) -> None:
        """Take in how much is done by now."""
        if self._first is None:
            self._first = done, now
        before, began = self._first
        if now - began >= 1:
            self.per_s = max(0, done - before) / (now - began)


def line_text(
    function: str,
    doing: str,
    counts: Mapping[str, int],
    seconds: float,
    rows_per_s: float,
    prompts_per_s: float,
) -> str:
    """Word how far a statement is.

    Args:
        function: SQL name of the function that is asked.
        doing: What it does before it answers rows; empty if it answers them.
        counts: As in `Meter.counts`, of all calls together.
        seconds: How long it has taken so far.
        rows_per_s: Rows answered in a second; 0 where that is not known yet.
        prompts_per_s: Prompts answered in a second, likewise.
    """
    done, total, steps = _rows(counts), counts["total"], counts["steps"]
    parts: list[str] = []
    left: float | None = None
    if doing:
        parts.append(f"{doing} {counts['step']:,} of {steps:,}" if steps else doing)
    if done or total:
        who = ", ".join(f"{kind} {counts[kind]:,}" for kind in KINDS if counts[kind])
        rows = f"{done:,} of {total:,} rows" if total else f"{done:,} rows"
        parts.append(f"{rows} ({who})" if who else rows)
        parts.append(f"{rows_per_s:,.0f} rows/s" if rows_per_s >= 1 else "")
        left = (total - done) / rows_per_s if total > done and rows_per_s else None
    asked, answers = counts["asked"], counts["prompts"]
    if asked:
        rate = f" ({prompts_per_s:.1f}/s)" if prompts_per_s else ""
        parts.append(f"prompts {answers:,} of {asked:,}{rate}")
        if left is None and prompts_per_s and asked > answers:
            left = (asked - answers) / prompts_per_s
    parts.append(f"{duration(left)} left" if left is not None else duration(seconds))
    return f"{function}: {', '.join(part for part in parts if part)}"


def duration(seconds: float) -> str:
    """Seconds in words, such as ``"3 min 20 s"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _rows(counts: Mapping[str, int]) -> int:
    return sum(counts[kind] for kind in KINDS)


_LINE = Line()


@contextmanager
def calling(function: str, *, whole: bool, shown: bool) -> Iterator[None]:
    """Count, and if wanted show, how far a call is that this thread makes within the block."""
    meter = Meter(function.replace("__meld_", "meld."), whole=whole)
    try:
        if shown:
            _LINE.enter(meter)
        with metering(meter):
            yield
    finally:
        if shown:
            _LINE.leave(meter)


@contextmanager
def statement() -> Iterator[None]:
    """Keep the line while a statement runs within the block, and take it away at its end."""
    _LINE.keep()
    try:
        yield
    finally:
        _LINE.drop()


def say(text: str) -> None:
    """Write a notice to standard error, above the line."""
    _LINE.say(f"meld: {text}")
