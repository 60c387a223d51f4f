"""The Flight server of an engine: requests in, checked; messages and one result out."""

from __future__ import annotations

import hmac
import json
import logging
import os
import queue
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from meld_duckdb.daemon import protocol
from meld_duckdb.daemon.arguments import (
    BRIEFLY_S,
    READING_S,
    Room,
    TooManyCalls,
    read_columns,
    read_rest,
)
from meld_duckdb.daemon.calls import Call, Workers, stopped
from meld_duckdb.daemon.protocol import Header, Hello, Message, Welcome
from meld_duckdb.daemon.serving import Clients, Sessions, UnknownClient
from meld_duckdb.errors import (
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MeldError,
)
from meld_duckdb.settings import Settings
from meld_duckdb.udfs import SqlFunction

_LOG = logging.getLogger(__name__)
_POLL_S = 0.05
_QUEUED_NOTICE_S = 3.0
_HEARTBEAT_S = 15.0
"""Seconds of silence after which an exchange says that the engine is there."""
_PROGRESS_S = 0.5
"""How often it says how far the call is."""


class Gone(Exception):
    """The client has left or interrupted the call."""


class Declined(Exception):
    """A call is not answered here."""

    def __init__(self, error: MeldError) -> None:
        self.error = error


@dataclass(frozen=True)
class Engine:
    """What all servers of one process serve."""

    sessions: Sessions
    clients: Clients
    workers: Workers
    welcome: Welcome
    room: Room
    began: float = field(default_factory=time.monotonic)

    def status(self) -> dict[str, Any]:
        """Health and metrics."""
        size, workers = self.workers.size(), self.workers
        models = self.sessions.models
        merging = models.merging()
        return {
            **asdict(self.welcome),
            "uptime_s": round(time.monotonic() - self.began, 1),
            "idle_s": round(workers.idle_s(), 1),
            "clients": len(self.clients),
            "waiting": size.waiting,
            "running": size.running,
            "calls": workers.n_calls,
            "failed": workers.n_failed,
            "rows": workers.n_rows,
            "seconds": round(workers.seconds, 3),
            "prompts": 0 if merging is None else merging.n_prompts,
            "merged_prompts": 0 if merging is None else merging.n_merged,
            "models": models.names(),
            "rss_bytes": _rss_bytes(),
        }

    def warm_up(self) -> Iterator[str]:
        """Load what nearly every call needs; yields a line before each step.

        What cannot be loaded now fails the calls that need it, with the same error.
        """
        settings = self.sessions.settings
        yield "opening the workspace"
        session = self.sessions.get(settings)
        yield f"loading the encoder {settings.answer.encoder}"
        try:
            session.encoder.encode(["ready"])
        except MeldError as error:
            yield f"the encoder is not loaded: {error.what}"


def make_engine(
    settings: Settings, workspace: Path, functions: Sequence[SqlFunction], version: str
) -> Engine:
    """Make the engine of a workspace; loads no model."""
    own = replace(
        settings,
        workspace=workspace,
        engine="local",
        engine_timeout_s=0,
        engine_address="workspace",
        engine_token_file="none",
        engine_tls_cert="none",
        progress=False,
    )
    sessions = Sessions(own)
    clients = Clients(sessions, functions, version)
    welcome = Welcome(
        version,
        protocol.VERSION,
        str(workspace),
        own.answer.model,
        own.answer.encoder,
        own.backend,
        own.device,
        os.getpid(),
        time.time(),
        own.engine_most_mb * 1_000_000,
    )
    return Engine(
        sessions, clients, Workers(clients.answer, log_data=own.log_data), welcome, Room()
    )


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """Serves an engine at one address; it takes requests from when it is made.

    Args:
        location: Where, as Flight writes it.
        engine: What.
        token: What clients have to name; None where only this user can connect.
        tls: Certificate and key, PEM; None without encryption.
        stop: Called when a client of this user asks the engine to end.
    """

    def __init__(
        self,
        location: str,
        engine: Engine,
        token: str | None = None,
        tls: tuple[bytes, bytes] | None = None,
        stop: Callable[[], None] | None = None,
    ) -> None:
        self._engine = engine
        self._is_local = token is None
        self._stop = stop
        middleware = {} if token is None else {"token": _TokenCheck(token)}
        certificates = [] if tls is None else [tls]
        super().__init__(location, middleware=middleware, tls_certificates=certificates)

    def do_action(
        self, context: flight.ServerCallContext, action: flight.Action
    ) -> Iterator[flight.Result]:
        """Greet a client, or tell how the engine is."""
        try:
            body = action.body.to_pybytes() if action.body is not None else b""
            reply = json.dumps(self._act(action.type, body)).encode("utf-8")
        except MeldError as error:
            reply = protocol.encode_message(Message(error=error))
        except Exception as error:  # noqa: BLE001  (the engine goes on whatever is sent)
            reply = protocol.encode_message(Message(error=_broken("the request", error)))
        return iter([flight.Result(pa.py_buffer(reply))])

    def _act(self, name: str, body: bytes) -> Mapping[str, Any]:
        if name == protocol.STATUS:
            return self._engine.status()
        if name == protocol.STOP and self._stop is not None:
            self._stop()
            return self._engine.status()
        if name != protocol.HELLO:
            raise EngineRejected(f"there is no action {name[:60]!r}")
        hello = protocol.decode(Hello, body)
        welcome = self._engine.welcome
        protocol.check_versions(hello, welcome.version, welcome.workspace)
        self._engine.clients.greet(hello, local=self._is_local)
        return asdict(welcome)

    def do_exchange(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        """Answer one call."""

        def say(message: Message) -> None:
            writer.write_metadata(protocol.encode_message(message))

        try:
            result = self._answer(context, descriptor, reader, say)
            batch = pa.record_batch([result], names=["result"])
            writer.begin(batch.schema)
            writer.write_batch(batch)
        except Gone:
            return
        except UnknownClient:
            say(Message(unknown_client=True))
        except Declined as declined:
            say(Message(error=declined.error, declined=True))
        except MeldError as error:
            say(Message(error=error))
        except flight.FlightError as error:
            _LOG.info("a call broke off (%s)", type(error).__name__)
        except Exception as error:  # noqa: BLE001  (the engine goes on whatever is sent)
            say(Message(error=_broken("the request", error)))

    def _answer(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        say: Callable[[Message], None],
    ) -> pa.Array:
        most_bytes, engine = self._engine.welcome.most_bytes, self._engine
        try:
            header = protocol.decode(Header, descriptor.command or b"")
            engine.clients.check(header.function)
            call = Call(header.client, header.function, (), header.statement, header.timeout_s)
            pulse = _Pulse(context, call, say, engine.workers)
            with ExitStack() as stack:
                stack.enter_context(engine.clients.calling(header.client))
                room = engine.room.hold(header.client, header.n_bytes, most_bytes, pulse)
                place = stack.enter_context(room)
                call.columns = read_columns(reader, most_bytes, place)
                holding = stack.pop_all()
        except EngineTimeout:
            raise
        except MeldError as error:
            crowded = isinstance(error, TooManyCalls)
            read_rest(reader, most_bytes, BRIEFLY_S if crowded else READING_S)
            raise Declined(error) from error
        except UnknownClient:
            read_rest(reader, most_bytes, READING_S)
            raise
        with holding:
            try:
                try:
                    engine.workers.submit(call, pulse)
                except EngineUnavailable as error:
                    raise Declined(error) from error
                return self._wait(call, pulse)
            finally:
                engine.workers.drop(call)

    def _wait(self, call: Call, pulse: _Pulse) -> pa.Array:
        """Pass on what is said until there is a result."""
        while True:
            try:
                said = call.said.get(timeout=_POLL_S)
            except queue.Empty:
                pulse()
                if self._engine.workers.gave_up.is_set():
                    raise Declined(stopped()) from None
                continue
            if not isinstance(said, Message):
                return said
            if said.error is not None:
                raise Declined(said.error) if said.declined else said.error
            pulse.say(said)


class _Pulse:
    """What an exchange does while it waits: looks whether the client still does, and is heard."""

    def __init__(
        self,
        context: flight.ServerCallContext,
        call: Call,
        say: Callable[[Message], None],
        workers: Workers,
    ) -> None:
        self._context = context
        self._call = call
        self._say = say
        self._workers = workers
        self._told = False
        self._heard = self._shown = time.monotonic()
        self._state = call.meter.state()

    def say(self, message: Message) -> None:
        """Say something to the client."""
        self._heard = time.monotonic()
        self._say(message)

    def __call__(self) -> None:
        """Look once.

        Raises:
            Gone: The client does not wait any more.
            EngineTimeout: The call took too long.
        """
        if self._context.is_cancelled():
            raise Gone
        self._call.check_time()
        now = time.monotonic()
        if now - self._call.began > _QUEUED_NOTICE_S and not (self._told or self._call.taken):
            self._told = True
            size = self._workers.size()
            line = f"waiting for the engine: {size.running} calls run, {size.waiting} wait"
            self.say(Message(notice=line))
        elif now - self._heard > _HEARTBEAT_S:
            self.say(Message())
        elif now - self._shown > _PROGRESS_S:
            self._shown = now
            if (state := self._call.meter.state()) != self._state:
                self._state = state
                self.say(Message(progress=state))


def _broken(what: str, error: Exception) -> EngineError:
    _LOG.warning("%s failed (%s)", what, type(error).__name__)
    return EngineError(f"{what} failed in the engine: {type(error).__name__}: {str(error)[:200]}")


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses requests that do not name the token."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._wanted = f"Bearer {token}".encode()

    def start_call(self, info: flight.CallInfo, headers: Mapping[str, list[Any]]) -> None:
        """Look at one request."""
        given = headers.get("authorization") or [""]
        named = given[0] if isinstance(given[0], bytes) else str(given[0]).encode()
        if not hmac.compare_digest(named, self._wanted):
            raise flight.FlightUnauthenticatedError("wrong token")


def _rss_bytes() -> int:
    """Memory that the process has now, or had at most where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
