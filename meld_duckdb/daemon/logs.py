"""The log of an engine: a bounded number of bytes, for its user alone."""

from __future__ import annotations

import logging
import logging.handlers
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from meld_duckdb.daemon.places import Places

_LOG_BYTES = 5_000_000
_LOGS_KEPT = 3


def open_private(path: str, flags: int) -> int:
    """Open a file that no other user can read; for ``open(..., opener=open_private)``."""
    found = os.open(path, flags, 0o600)
    os.fchmod(found, 0o600)
    return found


class _PrivateHandler(logging.handlers.RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        path = open_private(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return TextIOWrapper(os.fdopen(path, "ab"), encoding=self.encoding)


@contextmanager
def logging_to(where: Places, *, debug: bool) -> Iterator[None]:
    """Log to the workspace.

    Args:
        where: The places of the engine.
        debug: Whether contents of rows may be logged.
    """
    where.log.parent.mkdir(exist_ok=True)
    handler = _PrivateHandler(
        where.log, maxBytes=_LOG_BYTES, backupCount=_LOGS_KEPT, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("meld_duckdb")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
