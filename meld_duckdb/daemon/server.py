"""The Flight server of an engine: requests in, checked; messages and one result out."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import queue
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from meld_duckdb.daemon import protocol
from meld_duckdb.daemon.calls import Call, Workers, stopped
from meld_duckdb.daemon.protocol import Header, Hello, Message, Welcome
from meld_duckdb.daemon.serving import Clients, Sessions, UnknownClient
from meld_duckdb.errors import EngineError, EngineRejected, EngineUnavailable, MeldError
from meld_duckdb.settings import Settings
from meld_duckdb.udfs import SqlFunction

_LOG = logging.getLogger(__name__)
_POLL_S = 0.05
_QUEUED_NOTICE_S = 3.0


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

    def status(self) -> dict[str, Any]:
        """Health and metrics."""
        size, workers = self.workers.size(), self.workers
        models = self.sessions.models
        merging = models.merging()
        return {
            **asdict(self.welcome),
            "uptime_s": round(time.time() - self.welcome.started, 1),
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
    return Engine(sessions, clients, Workers(clients.answer, log_data=own.log_data), welcome)


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """Serves an engine at one address; it takes requests from when it is made.

    Args:
        location: Where, as Flight writes it.
        engine: What.
        token: What clients have to name; None where only this user can connect.
        tls: Certificate and key, PEM; None without encryption.
    """

    def __init__(
        self,
        location: str,
        engine: Engine,
        token: str | None = None,
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._engine = engine
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
        if name != protocol.HELLO:
            raise EngineRejected(f"there is no action {name[:60]!r}")
        hello = protocol.decode(Hello, body)
        welcome = self._engine.welcome
        protocol.check_versions(hello, welcome.version, welcome.workspace)
        self._engine.clients.greet(hello)
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
        most_bytes = self._engine.welcome.most_bytes
        try:
            header = protocol.decode(Header, descriptor.command or b"")
            self._engine.clients.check(header.client, header.function)
            columns = _read_columns(reader, most_bytes)
        except MeldError as error:
            _read_rest(reader, most_bytes)
            raise Declined(error) from error
        except UnknownClient:
            _read_rest(reader, most_bytes)
            raise
        call = Call(header.client, header.function, columns, header.statement, header.timeout_s)

        def check() -> None:
            if context.is_cancelled():
                raise Gone

        try:
            try:
                self._engine.workers.submit(call, check)
            except EngineUnavailable as error:
                raise Declined(error) from error
            return self._wait(call, check, say)
        finally:
            self._engine.workers.drop(call)

    def _wait(
        self, call: Call, check: Callable[[], None], say: Callable[[Message], None]
    ) -> pa.Array:
        """Pass on what is said until there is a result."""
        told = False
        while True:
            try:
                said = call.said.get(timeout=_POLL_S)
            except queue.Empty:
                check()
                call.check_time()
                if self._engine.workers.gave_up.is_set():
                    raise Declined(stopped()) from None
                waited = time.monotonic() - call.began > _QUEUED_NOTICE_S
                if waited and not told and not call.taken:
                    told = True
                    size = self._engine.workers.size()
                    line = f"waiting for the engine: {size.running} calls run, {size.waiting} wait"
                    say(Message(notice=line))
                continue
            if not isinstance(said, Message):
                return said
            if said.error is not None:
                raise Declined(said.error) if said.declined else said.error
            say(said)


def _read_columns(reader: flight.MetadataRecordBatchReader, most_bytes: int) -> list[pa.Array]:
    """The argument columns, joined.

    Raises:
        EngineRejected: They are more than the engine takes, or damaged.
    """
    batches: list[pa.RecordBatch] = []
    n_bytes = 0
    try:
        schema = reader.schema
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                break
            if chunk.data is None:
                continue
            n_bytes += chunk.data.nbytes
            if n_bytes > most_bytes:
                raise EngineRejected(
                    f"the arguments of one call have {n_bytes} bytes or more, at most {most_bytes}",
                    hint="take smaller parts of the table, or set engine to 'local'",
                )
            _validate(chunk.data)
            batches.append(chunk.data)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, flight.FlightCancelledError):
            raise
        raise EngineRejected(f"malformed arguments: {str(error)[:200]}") from error
    table = pa.Table.from_batches(batches, schema)
    return [_joined(column) for column in table.columns]


def _read_rest(reader: flight.MetadataRecordBatchReader, most_bytes: int) -> None:
    """Drop what is still to come: a client that is sending would not see a reply."""
    n_bytes = 0
    try:
        while n_bytes <= most_bytes:
            chunk = reader.read_chunk()
            n_bytes += 0 if chunk.data is None else chunk.data.nbytes
    except (StopIteration, pa.ArrowException, OSError, ValueError):
        return


def _validate(batch: pa.RecordBatch) -> None:
    """Look whether every offset and text is what it should be; otherwise reading may crash.

    A HUGEINT may be more than the decimal says as which DuckDB hands it over: it is looked at as
    the sixteen bytes that it is.
    """
    for column in batch.columns:
        plain = _as_bytes(column.type)
        with contextlib.suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
            if plain != column.type:
                column.view(plain).validate(full=True)
                continue
        column.validate(full=True)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """A type with 16 bytes in the place of wide decimals; the same layout."""
    if pa.types.is_decimal128(kind):
        return pa.binary(16)
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_as_bytes(f.type)) for f in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


def _joined(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """One array of a column; a type of which arrays cannot be joined stays in chunks."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks()


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
