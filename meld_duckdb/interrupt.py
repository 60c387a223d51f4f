"""Interruption: DuckDB acts on Ctrl-C between vectors only, so long calls ask here themselves.

``meld sql`` and ``meld shell`` set the flag from their signal handler; a program that handles
signals on its own may do the same. Finished answers are kept.
"""

from __future__ import annotations

import threading

_FLAG = threading.Event()


def interrupt() -> None:
    """Ask all running calls to stop at the next batch."""
    _FLAG.set()


def is_set() -> bool:
    """Tell whether there was an interruption since the last `clear`."""
    return _FLAG.is_set()


def clear() -> None:
    """Forget an interruption; called before a new statement."""
    _FLAG.clear()


def check() -> None:
    """Stop the call if it was interrupted.

    Raises:
        KeyboardInterrupt: It was.
    """
    if _FLAG.is_set():
        raise KeyboardInterrupt("interrupted; finished answers are kept")
