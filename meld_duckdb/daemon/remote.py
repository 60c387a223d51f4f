"""Whether a call is answered by an engine or in this process. Light: Flight only where one is."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meld_duckdb.daemon import places
from meld_duckdb.errors import EngineUnavailable, MeldError, ProtocolMismatch
from meld_duckdb.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from meld_duckdb.daemon.client import EngineClient

_LOG = logging.getLogger(__name__)

Mark = tuple[int, ...] | str
"""Tells one engine from the next one."""


class Remote:
    """The engine of one registration, looked for at every call. Safe for threads.

    It is the same client to every engine, so that its statistics are its own.

    Args:
        settings: Its settings.
        version: Version of the product.
    """

    def __init__(self, settings: Settings, version: str) -> None:
        self._settings = settings
        self._version = version
        self._lock = threading.Lock()
        self._client: EngineClient | None = None
        self._connected: tuple[int, Mark] | None = None
        self._refused: Mark | None = None
        self._identity: tuple[int, str] = (0, "")
        self._pointer = places.places_of(settings).pointer

    def call(self, function: str, columns: Sequence[pa.Array], statement: int) -> pa.Array | None:
        """Have a function answered by the engine; None where this process is to answer.

        Raises:
            EngineUnavailable: An engine is required and there is none.
            MeldError: What the function raised.
        """
        if self._settings.engine == "local" or self._is_absent():
            return None
        from meld_duckdb.daemon.client import EngineDeclined, EngineLost

        for attempt in (1, 2):
            client = self._usable()
            if client is None:
                return None
            try:
                return client.call(function, columns, statement)
            except EngineLost as error:
                # An engine that was started anew meanwhile is asked once more.
                if self._let_go(client) and attempt == 1:
                    continue
                self._go_on_without(error, self._mark())
            except EngineDeclined as error:
                self._go_on_without(error, self._refused)
            return None
        return None

    def _is_absent(self) -> bool:
        """Tell, before anything is imported, that there is no engine and none is required."""
        return self._mark() is None and self._settings.engine != "required"

    def _usable(self) -> EngineClient | None:
        mark = self._mark()
        with self._lock:
            if mark is None:
                self._client = self._refused = None
                if self._settings.engine == "required":
                    from meld_duckdb.daemon.client import no_engine

                    raise no_engine(self._settings)
                return None
            if self._client is not None and self._connected == (os.getpid(), mark):
                return self._client
            if mark == self._refused:
                return None
            try:
                self._client = self._connect()
            except (EngineUnavailable, ProtocolMismatch) as error:
                self._client = None
                self._go_on_without(error, mark)
                return None
            self._connected = (os.getpid(), mark)
            return self._client

    def _connect(self) -> EngineClient:
        from meld_duckdb.daemon.client import connect, new_identity

        if self._identity[0] != os.getpid():  # a forked process is another client
            self._identity = (os.getpid(), new_identity())
        return connect(self._settings, self._version, self._identity[1], self._notice)

    def _let_go(self, client: EngineClient) -> bool:
        """Forget a connection that failed; True if another engine is there instead."""
        with self._lock:
            before = self._connected
            if self._client is client:
                self._client = None
            mark = self._mark()
            return mark is not None and before is not None and mark != before[1]

    def _go_on_without(self, error: MeldError, refused: Mark | None) -> None:
        """Go on without the engine, saying so, or fail where it is required."""
        if self._settings.engine == "required":
            raise error
        self._refused = refused
        hint = f" ({error.hint})" if error.hint else ""
        self._notice(f"{error.what}; this process answers itself{hint}")

    def _mark(self) -> Mark | None:
        """What tells the engine that is there from others; None where there is none."""
        if self._settings.engine_address != "workspace":
            return self._settings.engine_address
        try:
            found = self._pointer.lstat()
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns)

    def _notice(self, text: str) -> None:
        _LOG.info("%s", text)
        if self._settings.progress:
            sys.stderr.write(f"meld: {text}\n")


def joined_lines(*lists: Any) -> Any:
    """One row with the lists of several rows of statistics or errors, one after the other."""
    import pyarrow as pa

    items = [item for one in lists for item in one.to_pylist()[0]]
    return pa.array([items], lists[0].type)
