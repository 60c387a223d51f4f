"""The client of an engine: one Flight connection, one exchange per call."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from meld_duckdb import interrupt, progress
from meld_duckdb.daemon import places, protocol
from meld_duckdb.daemon.forks import keep_in_forks
from meld_duckdb.daemon.options import is_loopback
from meld_duckdb.daemon.places import RESTART
from meld_duckdb.daemon.protocol import Header, Hello, Message, Welcome
from meld_duckdb.daemon.sent import sent_settings
from meld_duckdb.errors import ConfigError, EngineRejected, EngineTimeout, EngineUnavailable
from meld_duckdb.settings import Settings

_LOG = logging.getLogger(__name__)
_GREETING_S = 10.0
_POLL_S = 0.1
_LATE_S = 10.0
"""Seconds after a deadline at which the engine itself is taken for hung."""
_SILENT_S = 120.0
"""Seconds without a message, several heartbeats long, at which it is taken for hung, too."""
_GONE = (flight.FlightUnavailableError, flight.FlightTimedOutError, flight.FlightCancelledError)
"""What Flight raises where the other side stopped; other errors are of one call."""


class EngineLost(EngineUnavailable):
    """The engine stopped, or its connection broke, before it gave a result."""


class EngineDeclined(EngineRejected):
    """The engine did not take the call; another process may be able to answer it."""


class UnknownClient(Exception):
    """The engine asks to be greeted."""


class EngineClient:
    """A connection to an engine. Safe for threads.

    Args:
        settings: Settings of the registration.
        address: Where, as Flight writes it.
        version: Version of the product.
        identity: Name of this client; see `new_identity`.
        notice: Called with every line the engine says.
    """

    def __init__(
        self,
        settings: Settings,
        address: str,
        version: str,
        identity: str,
        notice: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._version = version
        self._identity = identity
        self._notice = notice
        self._headers = _headers(settings)
        self._flight = _connect(settings, address)
        self.welcome = self._greet()

    def call(self, function: str, columns: Sequence[pa.Array], statement: int) -> pa.Array:
        """Have a function answered.

        Args:
            function: Its SQL name.
            columns: Its arguments.
            statement: Number of the statement, for the statistics.

        Raises:
            EngineLost: The engine stopped; nothing of the call was given back.
            MeldError: What the function raised.
            KeyboardInterrupt: There was an interruption; the engine stops, too.
        """
        batches, schema = _as_batches(columns)
        n_bytes = sum(batch.nbytes for batch in batches)
        if n_bytes > self.welcome.most_bytes:
            raise EngineDeclined(
                f"the arguments of {function} have {n_bytes} bytes, the engine takes at most "
                f"{self.welcome.most_bytes}",
                hint="take smaller parts of the table, or set engine to 'local'",
            )
        timeout_s = float(self._settings.engine_timeout_s)
        header = Header(self._identity, function, statement, timeout_s, n_bytes)
        try:
            return self._exchange(header, batches, schema)
        except UnknownClient:
            self._greet()
        try:
            return self._exchange(header, batches, schema)
        except UnknownClient as error:
            raise EngineUnavailable("the engine does not know this process") from error

    def close(self) -> None:
        """Close the connection."""
        self._flight.close()

    def _greet(self) -> Welcome:
        settings = self._settings
        anywhere = settings.engine_address != "workspace"
        workspace = "" if anywhere else str(places.places_of(settings).workspace)
        given = sent_settings(settings)
        hello = Hello(self._identity, self._version, protocol.VERSION, workspace, given)
        found = _act(self._flight, self._headers, protocol.HELLO, protocol.encode(hello))
        return protocol.decode(Welcome, json.dumps(found).encode("utf-8"))

    def _exchange(
        self, header: Header, batches: Sequence[pa.RecordBatch], schema: pa.Schema
    ) -> pa.Array:
        exchange = _Exchange(self._flight, header, batches, schema, self._headers)
        threading.Thread(target=exchange.run, name="engine call", daemon=True).start()
        waited = silent = 0.0  # by looks: while this process is stopped, nothing is heard
        try:
            while True:
                try:
                    said = exchange.said.get(timeout=_POLL_S)
                except queue.Empty:
                    interrupt.check()
                    waited += _POLL_S
                    silent += _POLL_S
                    late = header.timeout_s and waited > header.timeout_s + _LATE_S
                    if late or silent > _SILENT_S:
                        raise EngineTimeout(
                            f"the engine is silent since {silent:.0f} s", hint=RESTART
                        ) from None
                    continue
                silent = 0.0
                if isinstance(said, Message):
                    self._heed(said)
                elif isinstance(said, BaseException):
                    raise _worded(said) from said
                else:
                    return said
        except BaseException:
            exchange.cancel()
            raise

    def _heed(self, message: Message) -> None:
        if message.unknown_client:
            raise UnknownClient
        error = message.error
        if error is not None and message.declined:
            lost = isinstance(error, EngineUnavailable)
            raise (EngineLost if lost else EngineDeclined)(error.what, hint=error.hint)
        if error is not None:
            raise error
        if message.progress is not None:
            progress.received(message.progress)
        if message.notice is not None:
            self._notice(message.notice)


class _Exchange:
    """One exchange, run by a thread of its own so that its caller can be interrupted."""

    def __init__(
        self,
        connection: flight.FlightClient,
        header: Header,
        batches: Sequence[pa.RecordBatch],
        schema: pa.Schema,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self._connection = connection
        self._header = header
        self._batches = batches
        self._schema = schema
        self._headers = headers
        self._reader: flight.FlightStreamReader | None = None
        self._writer: flight.FlightStreamWriter | None = None
        self._cancelled = False
        self.said: queue.SimpleQueue[Message | pa.Array | BaseException] = queue.SimpleQueue()

    def run(self) -> None:
        """Send, then pass on what comes back."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  (it goes to the caller)
            self.said.put(error)
        finally:
            if self._writer is not None:
                with contextlib.suppress(pa.ArrowException, OSError):
                    self._writer.close()

    def cancel(self) -> None:
        """Give the call up; the engine stops answering it."""
        self._cancelled = True
        if self._reader is not None:
            self._reader.cancel()

    def _run(self) -> None:
        descriptor = flight.FlightDescriptor.for_command(protocol.encode(self._header))
        options = flight.FlightCallOptions(headers=self._headers)
        if self._header.timeout_s:  # the engine keeps to it even where this process is stopped
            timeout_s = self._header.timeout_s + 2 * _LATE_S
            options = flight.FlightCallOptions(timeout=timeout_s, headers=self._headers)
        self._writer, self._reader = self._connection.do_exchange(descriptor, options)
        keep_in_forks(self._writer)
        keep_in_forks(self._reader)
        if self._cancelled:
            self._reader.cancel()
        refused = self._send(self._writer)
        for chunk in self._reader:
            if chunk.app_metadata is not None:
                self.said.put(protocol.decode_message(chunk.app_metadata.to_pybytes()))
            if chunk.data is not None:
                self.said.put(chunk.data.column(0))
        self.said.put(refused or flight.FlightUnavailableError("the engine gave no result"))

    def _send(self, writer: flight.FlightStreamWriter) -> Exception | None:
        """Send the arguments; what fails here is better explained by what then is read."""
        try:
            writer.begin(self._schema)
            for batch in self._batches:
                writer.write_batch(batch)
            writer.done_writing()
        except (pa.ArrowException, OSError) as error:
            return error
        return None


def look(settings: Settings, address: str) -> dict[str, Any]:
    """Health and metrics of the engine at an address.

    Raises:
        EngineUnavailable: It cannot be reached.
    """
    with _connect(settings, address) as connection:
        return _act(connection, _headers(settings), protocol.STATUS, b"")


def ask_to_end(path: Path) -> None:
    """Ask the engine at a socket to stop.

    Raises:
        MeldError: It cannot be reached, or does not understand.
    """
    with flight.connect(f"grpc+unix://{path}") as connection:
        _act(connection, [], protocol.STOP, b"")


def new_identity() -> str:
    """A name for a client that no other has: its process, the numbering it is of, and a number."""
    return f"{os.getpid()}-{places.numbering()}-{uuid.uuid4().hex}"


def connect(
    settings: Settings, version: str, identity: str, notice: Callable[[str], None]
) -> EngineClient:
    """Connect to the engine that the settings name, and greet it.

    Raises:
        EngineUnavailable: There is none, or it cannot be trusted or reached.
        ProtocolMismatch: It has another version, workspace or model.
    """
    return EngineClient(settings, find_address(settings), version, identity, notice)


def find_address(settings: Settings) -> str:
    """Where the engine is, as Flight writes it.

    Raises:
        EngineUnavailable: There is none, or another user could have put it there.
    """
    if settings.engine_address != "workspace":
        scheme, _, place = settings.engine_address.partition("://")
        if scheme == "tcp" and not is_loopback(place.rpartition(":")[0]):
            raise ConfigError(
                f"setting 'engine_address' is {settings.engine_address!r}, which would send rows "
                "over the network unencrypted",
                hint="start that engine with --tls-cert and --tls-key, and use tls://HOST:PORT",
            )
        return f"grpc+{scheme}://{place}"
    where = places.places_of(settings)
    pointer = places.read_pointer(where)
    if pointer is None:
        raise no_engine(settings)
    places.check_socket(Path(pointer.socket))
    return f"grpc+unix://{pointer.socket}"


def no_engine(settings: Settings) -> EngineUnavailable:
    """Word that no engine runs."""
    return EngineUnavailable(
        f"no engine runs for the workspace {settings.workspace}",
        hint=f"run {places.start_command(settings)!r}, or set engine to 'auto'",
    )


def _act(
    connection: flight.FlightClient, headers: list[tuple[bytes, bytes]], name: str, body: bytes
) -> dict[str, Any]:
    options = flight.FlightCallOptions(timeout=_GREETING_S, headers=headers)
    try:
        replies = list(connection.do_action(flight.Action(name, body), options))
        found: dict[str, Any] = json.loads(replies[0].body.to_pybytes())
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise _worded(error) from error
    if "error" in found:
        raise protocol.error_from(found["error"])
    return found


def _connect(settings: Settings, address: str) -> flight.FlightClient:
    certificate = None
    if settings.engine_address.startswith("tls") and settings.engine_tls_cert != "none":
        certificate = _read_file("engine_tls_cert", settings.engine_tls_cert)
    connection = flight.connect(address, tls_root_certs=certificate)
    keep_in_forks(connection)
    return connection


def _headers(settings: Settings) -> list[tuple[bytes, bytes]]:
    if settings.engine_token_file == "none" or settings.engine_address == "workspace":
        return []
    token = _read_file("engine_token_file", settings.engine_token_file).strip()
    return [(b"authorization", b"Bearer " + token)]


def _read_file(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"setting {name!r} is {path!r}, which cannot be read: {error.strerror}"
        ) from error


def _as_batches(columns: Sequence[pa.Array]) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """The arguments as one batch (several where they cannot be joined) and their types."""
    table = pa.table(list(columns), names=[f"c{i}" for i in range(len(columns))])
    return (table.combine_chunks().to_batches() if columns else []), table.schema


def _worded(error: BaseException) -> BaseException:
    if isinstance(error, flight.FlightUnauthenticatedError):
        return _no_token(error)
    if isinstance(error, _GONE):
        return _lost(error)
    if isinstance(error, pa.ArrowException | OSError | ValueError | IndexError):
        what = f"the call broke off: {type(error).__name__}: {str(error)[:200]}"
        return EngineDeclined(what, hint="meld engine logs")
    return error


def _lost(error: BaseException) -> EngineLost:
    _LOG.info("the engine is gone: %s", error)
    secured = "certificate" in str(error).lower() or "handshak" in str(error).lower()
    return EngineLost(
        "the engine cannot be reached, or stopped before it had answered",
        hint="the setting engine_tls_cert names its certificate" if secured else RESTART,
    )


def _no_token(error: BaseException) -> EngineUnavailable:
    return EngineUnavailable(
        "the engine refused the token of this process",
        hint="the setting engine_token_file names the file that meld engine start was given",
    )
