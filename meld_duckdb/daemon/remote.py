"""Whether a call is answered by an engine or in this process. Light: Flight only where one is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meld_duckdb import progress
from meld_duckdb.daemon import places
from meld_duckdb.daemon.forks import may_use_flight
from meld_duckdb.daemon.sent import anchored
from meld_duckdb.errors import EngineUnavailable, MeldError
from meld_duckdb.locks import ThreadLock
from meld_duckdb.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from meld_duckdb.daemon.client import EngineClient


Mark = tuple[int, ...] | str
"""Tells one engine from the next one."""

_AGAIN_S = 60.0
"""Seconds after which an engine that was lost, and is still there, is asked again."""


class Remote:
    """The engine of one registration, looked for at every call. Safe for threads.

    It is the same client to every engine, so that its statistics are its own. An engine that the
    settings name by its address is required: this process may have another workspace, and would
    answer something else.

    Args:
        settings: Its settings.
        version: Version of the product.
    """

    def __init__(self, settings: Settings, version: str) -> None:
        self._settings = anchored(settings)
        self._version = version
        self._lock = ThreadLock()
        self._client: EngineClient | None = None
        self._connected: Mark | None = None
        self._refused: dict[Mark, float] = {}
        self._identity: tuple[int, str] = (0, "")
        self._pointer = places.places_of(self._settings).pointer
        named = settings.engine_address != "workspace" and settings.engine != "local"
        self._required = settings.engine == "required" or named

    def call(self, function: str, columns: Sequence[pa.Array], statement: int) -> pa.Array | None:
        """Have a function answered by the engine; None where this process is to answer.

        Raises:
            EngineUnavailable: An engine is required and there is none.
            MeldError: What the function raised.
        """
        if self._settings.engine == "local" or self._is_absent():
            return None
        if not may_use_flight():
            self._go_on_without(_forked(), _FORKED)
            return None
        from meld_duckdb.daemon.client import EngineDeclined, EngineLost

        for attempt in (1, 2):
            client, mark = self._usable()
            if client is None or mark is None:
                return None
            try:
                return client.call(function, columns, statement)
            except EngineLost as error:
                self._let_go(client)
                # An engine that was started anew meanwhile is asked once more.
                if attempt == 1 and self._mark() not in {None, mark}:
                    continue
                self._go_on_without(error, mark, _AGAIN_S)
            except EngineDeclined as error:
                self._go_on_without(error)
            return None
        return None

    def is_there(self) -> bool:
        """Tell whether an engine would be asked."""
        return self._settings.engine != "local" and self._mark() is not None

    def _is_absent(self) -> bool:
        """Tell, before anything is imported, that there is no engine and none is required."""
        return self._mark() is None and not self._required

    def _usable(self) -> tuple[EngineClient | None, Mark | None]:
        """A client, and the mark of its engine; None where this process is to answer."""
        mark = self._mark()
        with self._lock:
            if mark is None:
                self._client = None
                if self._required:
                    from meld_duckdb.daemon.client import no_engine

                    raise no_engine(self._settings)
                return None, None
            if self._client is not None and self._connected == mark:
                return self._client, mark
            if time.monotonic() < self._refused.get(mark, -math.inf):
                return None, mark
            try:
                self._client = self._connect()
            except MeldError as error:
                self._client = None
                lost = isinstance(error, EngineUnavailable)
                self._go_on_without(error, mark, _AGAIN_S if lost else math.inf)
                return None, mark
            self._connected = mark
            return self._client, mark

    def _connect(self) -> EngineClient:
        from meld_duckdb.daemon.client import connect, new_identity

        if self._identity[0] != os.getpid():  # a forked process is another client
            self._identity = (os.getpid(), new_identity())
        return connect(self._settings, self._version, self._identity[1], self._notice)

    def _let_go(self, client: EngineClient) -> None:
        """Forget a connection that failed."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _go_on_without(
        self, error: MeldError, refused: Mark | None = None, pause_s: float = math.inf
    ) -> None:
        """Go on without the engine, or fail where it is required.

        Args:
            error: Why.
            refused: The engine that is not asked any more, which is said once; None to leave out
                this call alone.
            pause_s: Seconds for which it is not asked.
        """
        if self._required:
            raise error
        told = refused in self._refused
        if refused is not None:
            self._refused[refused] = time.monotonic() + pause_s
        if not told:
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
        progress.NOTICES.info("%s", text)
        if self._settings.progress:
            progress.say(text)


_FORKED = "forked"


def _forked() -> EngineUnavailable:
    return EngineUnavailable(
        "this process was forked from one that uses the engine, and cannot use it",
        hint="spawn processes instead: multiprocessing.get_context('spawn')",
    )


def joined_lines(*lists: Any) -> Any:
    """One row with the lists of several rows of statistics or errors, one after the other."""
    import pyarrow as pa

    items = [item for one in lists for item in one.to_pylist()[0]]
    return pa.array([items], lists[0].type)
