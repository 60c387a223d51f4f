"""Flight in a forked process: its threads do not come along, so touching it waits for ever.

Even to let go of a connection that came along does; so a forked process keeps what there is until
it ends, and never asks an engine itself. Light: imports nothing of Flight.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

_FIRST: list[int] = []
"""The process that used Flight first; empty as long as none did."""
_THINGS: weakref.WeakSet[Any] = weakref.WeakSet()


def may_use_flight() -> bool:
    """Whether this process may use Flight: not if one that it was forked from has."""
    if not _FIRST:
        _FIRST.append(os.getpid())
    return _FIRST[0] == os.getpid()


def keep_in_forks(thing: Any) -> None:
    """Have forked processes never let go of an object of Flight."""
    _THINGS.add(thing)


def _keep() -> None:
    for thing in _THINGS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
