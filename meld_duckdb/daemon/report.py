"""What a starting engine says to the process that started it, over a pipe."""

from __future__ import annotations

import os

from meld_duckdb.daemon import protocol
from meld_duckdb.errors import MeldError

READY = "ready"
"""The line that says that an engine takes calls."""


class Report:
    """Passes lines on to the process that started this one, until it is ready or has failed."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "wb", buffering=0)

    def __call__(self, text: str) -> None:
        """Pass a line on; ``"ready"`` is the last one."""
        self._send(protocol.Message(notice=text), last=text == READY)

    def fail(self, error: MeldError) -> None:
        """Tell why nothing was started."""
        self._send(protocol.Message(error=error), last=True)

    def _send(self, message: protocol.Message, *, last: bool) -> None:
        if self._pipe.closed:
            return
        try:
            self._pipe.write(protocol.encode_message(message) + b"\n")
        except OSError:  # the starting process has gone; the engine stays
            last = True
        if last:
            self._pipe.close()
