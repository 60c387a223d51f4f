"""Reading what a program writes to a terminal."""

from __future__ import annotations

import select


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read; ``select.select`` refuses descriptors over 1,023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
