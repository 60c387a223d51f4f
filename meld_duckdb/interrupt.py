"""Interruption: DuckDB acts on Ctrl-C between vectors only, so long calls ask here themselves.

``meld sql`` and ``meld shell`` set the flag from their signal handler; a program that handles
signals on its own may do the same. A process that answers several callers stops one call alone by
an event of its own. Finished answers are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
        raise KeyboardInterrupt("interrupted; finished answers are kept")


@contextmanager
def heeding(stop: threading.Event) -> Iterator[None]:
    """Let what this thread does within the block stop once an event is set."""
    before = _CALL.set(stop)
    try:
        yield
    finally:
        _CALL.reset(before)
