"""Interruption: DuckDB acts on Ctrl-C between vectors only, so long calls ask here themselves.

Python runs signal handlers in the main thread, and only between steps of Python code. A function
that DuckDB runs in the main thread is thus stopped by Python itself. One that runs in a thread of
DuckDB's hears nothing of it, while the main thread waits for it in C++. Such calls are watched over
(`answering`), for as long as they run and beside the handler that is there; but only where Ctrl-C
means to stop, that is with Python's own handler or `stop_all`. A program with another handler
decides for itself, and may call `interrupt`. A process that answers several callers stops one call
alone by an event of its own. Finished answers are kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

STOPPED = "interrupted; finished answers are kept"

_POLL_S = 0.05
_GRACE_S = 0.4
"""Seconds that a call has to look for an interruption itself."""

_FLAG = threading.Event()
_CALL: ContextVar[threading.Event | None] = ContextVar("stop of this call", default=None)


def interrupt() -> None:
    """Ask all running calls to stop at the next batch."""
    _FLAG.set()


def is_set() -> bool:
    """Tell whether there was an interruption since the last `clear`, or one of this call."""
    call = _CALL.get()
    return _FLAG.is_set() or (call is not None and call.is_set())


def clear() -> None:
    """Forget an interruption; called before a new statement."""
    _FLAG.clear()


def check() -> None:
    """Stop the call if it was interrupted.

    Raises:
        KeyboardInterrupt: It was.
    """
    if is_set():
        raise KeyboardInterrupt(STOPPED)


def stop_all(number: int, frame: object) -> NoReturn:
    """Handle SIGINT in a program that runs statements: calls in all threads stop.

    Raises:
        KeyboardInterrupt: Always.
    """
    interrupt()
    raise KeyboardInterrupt(STOPPED)


@contextmanager
def heeding(stop: threading.Event) -> Iterator[None]:
    """Let what this thread does within the block stop once an event is set."""
    before = _CALL.set(stop)
    try:
        yield
    finally:
        _CALL.reset(before)


@contextmanager
def answering() -> Iterator[None]:
    """Let Ctrl-C stop what this thread does within the block, whichever thread it is.

    Raises:
        KeyboardInterrupt: There was an interruption; the blocks of all other threads stop, too.
    """
    stop = threading.Event()
    try:
        _WATCH.add(stop)
        try:
            with heeding(stop):
                yield
        finally:
            _WATCH.remove(stop)
    except KeyboardInterrupt:
        _WATCH.remove(stop)  # it may have come just before the first time
        _WATCH.stop()
        raise KeyboardInterrupt(STOPPED) from None


def import_apart(*names: str) -> None:
    """Import modules in a thread of its own, and wait for it: only the wait can be interrupted.

    A library that was imported by half cannot be imported again. What fails here fails again, with
    its reason, where the modules are imported as usual.

    Raises:
        KeyboardInterrupt: The wait was interrupted.
    """

    def load() -> None:
        with contextlib.suppress(Exception):
            for name in names:
                importlib.import_module(name)

    if all(name in sys.modules for name in names):
        return
    thread = threading.Thread(target=load, name="import", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        check()


class _Watch:
    """Notices SIGINT in any thread without taking the handler of the program away.

    `faulthandler` calls the handler that is there after it has written to a file: a pipe on which a
    thread listens. A call that does not look for interruptions has the exception put into its
    thread, as Python does to the main one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[threading.Event, int] = {}
        self._pipe: tuple[int, int] | None = None
        self._on = False

    def add(self, stop: threading.Event) -> None:
        """Have an event set once SIGINT comes, for a call of this thread."""
        with self._lock:
            self._calls[stop] = threading.get_ident()
            if not self._on:
                self._begin()

    def remove(self, stop: threading.Event) -> None:
        """Forget a call, if it is still known."""
        with self._lock:
            thread = self._calls.pop(stop, None)
            if thread is not None and stop.is_set():
                _put(thread, None)
            if not self._calls and self._on:
                self._on = False
                faulthandler.unregister(signal.SIGINT)

    def stop(self) -> list[threading.Event]:
        """Set the events of all calls there are now; the signal has done what it is for."""
        self._read()
        calls = list(self._calls)
        for event in calls:
            event.set()
        return calls

    def renew(self) -> None:
        """Begin anew, in a process that has just been forked: the pipe is its parent's."""
        if self._on:
            faulthandler.unregister(signal.SIGINT)
        for descriptor in self._pipe or ():
            os.close(descriptor)
        self._lock, self._calls, self._pipe, self._on = threading.Lock(), {}, None, False

    def _begin(self) -> None:
        meant = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, stop_all)
        if not meant or not hasattr(faulthandler, "register"):  # there is none on Windows
            return
        if self._pipe is None:
            self._pipe = os.pipe()
            for descriptor in self._pipe:  # a full pipe must not hold the signal handler up
                os.set_blocking(descriptor, False)
            threading.Thread(
                target=self._listen, args=(self._pipe[0],), name="interruptions", daemon=True
            ).start()
        faulthandler.register(signal.SIGINT, self._pipe[1], all_threads=False, chain=True)
        self._on = True

    def _listen(self, descriptor: int) -> None:
        poll = select.poll()  # select() refuses descriptors of 1,024 and more
        poll.register(descriptor, select.POLLIN)
        while True:
            poll.poll()
            with self._lock:
                stopped = self.stop() if self._read() else []
            if stopped:
                time.sleep(_GRACE_S)
            with self._lock:
                for thread in {self._calls[e] for e in stopped if e in self._calls}:
                    if thread != threading.main_thread().ident:
                        _put(thread, KeyboardInterrupt)

    def _read(self) -> bool:
        found = False
        with contextlib.suppress(BlockingIOError):
            while self._pipe is not None and os.read(self._pipe[0], 65_536):
                found = True
        return found


def _put(thread: int, error: type[BaseException] | None) -> None:
    """Put an exception into a thread, or take one back that was put and not yet raised."""
    given = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)


_WATCH = _Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WATCH.renew)
