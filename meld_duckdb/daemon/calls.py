"""The calls of an engine: from a queue that is fair to workers that answer, with what they say."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import pyarrow as pa

from meld_duckdb import interrupt, progress
from meld_duckdb.daemon.protocol import Message
from meld_duckdb.daemon.queue import FairQueue, QueueSize
from meld_duckdb.errors import EngineError, EngineTimeout, EngineUnavailable, MeldError

_LOG = logging.getLogger(__name__)
_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)

_GRACE_S = 5.0
"""Seconds that a call has to stop once it is interrupted."""

Answer = Callable[["Call"], pa.Array]


@dataclass(eq=False)
class Call:
    """One call of a client.

    Attributes:
        client: Who asks.
        function: SQL name of the function.
        columns: Its arguments.
        statement: Number of the client's statement.
        timeout_s: Seconds it may take; 0 for no limit.
        stop: Set once nobody waits for the result any more.
        said: Messages, and in the end the result.
        taken: Whether a worker has it.
        meter: How far it is.
    """

    client: str
    function: str
    columns: Sequence[pa.Array]
    statement: int = 0
    timeout_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    said: queue.SimpleQueue[Message | pa.Array] = field(default_factory=queue.SimpleQueue)
    taken: bool = False
    meter: progress.Meter = field(default_factory=progress.Meter)
    began: float = field(default_factory=time.monotonic)

    def check_time(self) -> None:
        """Give up once the call has taken too long.

        Raises:
            EngineTimeout: It has.
        """
        if self.timeout_s and time.monotonic() - self.began > self.timeout_s:
            self.stop.set()
            raise EngineTimeout(
                f"{self.function} was not answered within {self.timeout_s:g} s",
                hint="raise the setting engine_timeout_s, or ask about fewer rows; finished "
                "answers are kept",
            )


def tell(text: str) -> None:
    """Say one line to whoever waits for the call that this thread answers."""
    call = _CURRENT.get()
    if call is not None:
        call.said.put(Message(notice=text))


def stopped() -> EngineUnavailable:
    """Word that an engine stops before a call is answered."""
    return EngineUnavailable(
        "the engine was stopped before it had answered", hint="meld engine restart"
    )


class Workers:
    """Threads that answer calls.

    Args:
        answer: Answers one call.
        n_workers: How many calls run at once; of one client never all of them.
        per_client: Calls of one client that may wait.
        total: Calls that may wait.
        log_data: Whether texts of errors, which may hold contents of rows, are logged.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        n_workers: int = 16,
        per_client: int = 64,
        total: int = 1024,
        log_data: bool = False,
    ) -> None:
        self._answer = answer
        self._log_data = log_data
        self._queue: FairQueue[Call] = FairQueue(per_client, total, n_workers)
        self._lock = threading.Lock()
        self._running: set[Call] = set()
        self._busy_until = time.monotonic()
        self.gave_up = threading.Event()
        self.n_calls = self.n_rows = self.n_failed = 0
        self.seconds = 0.0
        for number in range(n_workers):
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True).start()

    def submit(self, call: Call, check: Callable[[], None]) -> None:
        """Hand a call in; waits while too many do.

        Raises:
            EngineTimeout: It waited too long.
            EngineUnavailable: The engine stops.
        """

        def look() -> None:
            check()
            call.check_time()

        try:
            self._queue.put(call.client, call, look)
        except RuntimeError as error:
            raise EngineUnavailable(
                "the engine is stopping", hint="run it again: meld engine start"
            ) from error

    def drop(self, call: Call) -> None:
        """Free what a call holds: nobody waits for it any more."""
        call.stop.set()
        self._queue.remove(call.client, call)

    def drain(self, timeout_s: float) -> bool:
        """Take no more calls and finish those there are; False if some had to be stopped.

        After that `gave_up` is set: what still runs does not look for interruptions.
        """
        self._queue.close()
        if self._queue.wait_empty(timeout_s):
            return True
        with self._lock:
            running = list(self._running)
        for call in running:
            call.stop.set()
        self._queue.wait_empty(_GRACE_S)
        self.gave_up.set()
        return False

    def size(self) -> QueueSize:
        """How many calls wait and run."""
        return self._queue.size()

    def idle_s(self) -> float:
        """Seconds since a call was last there."""
        size = self.size()
        if size.waiting or size.running:
            return 0.0
        return time.monotonic() - self._busy_until

    def _work(self) -> None:
        while (taken := self._queue.get()) is not None:
            client, call = taken
            call.taken = True
            with self._lock:
                self._running.add(call)
            started = time.monotonic()
            try:
                if not call.stop.is_set():
                    call.said.put(self._run(call))
            finally:
                with self._lock:
                    self._running.discard(call)
                    self.n_calls += 1
                    self.seconds += time.monotonic() - started
                    self._busy_until = time.monotonic()
                self._queue.done(client)
                del call, taken

    def _run(self, call: Call) -> pa.Array | Message:
        token = _CURRENT.set(call)
        try:
            with interrupt.heeding(call.stop), progress.metering(call.meter):
                result = self._answer(call)
            with self._lock:
                self.n_rows += len(result)
            return result
        except MeldError as error:
            self._log_failure(call, error)
            return Message(error=error)
        except KeyboardInterrupt:
            return Message(error=stopped(), declined=True)
        except BaseException as error:  # noqa: BLE001  (the engine goes on, also after a panic)
            self._log_failure(call, error)
            return Message(
                error=EngineError(f"{call.function} failed: {type(error).__name__}: {error}")
            )
        finally:
            _CURRENT.reset(token)

    def _log_failure(self, call: Call, error: BaseException) -> None:
        """Log where it failed; the text of an error may hold contents of rows."""
        with self._lock:
            self.n_failed += 1
        code = error.code if isinstance(error, MeldError) else type(error).__name__
        text = f": {error}" if self._log_data else ""
        _LOG.warning("%s failed (%s)%s", call.function, code, text)
        if not isinstance(error, MeldError):
            frames = traceback.extract_tb(error.__traceback__)
            _LOG.warning("at %s", " < ".join(f"{f.name}:{f.lineno}" for f in reversed(frames)))
