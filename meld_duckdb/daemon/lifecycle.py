"""An engine's life: started, found ready, looked at, stopped."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from meld_duckdb.daemon import places, protocol
from meld_duckdb.daemon.ending import accepts, ask_to_stop
from meld_duckdb.daemon.logs import logging_to, open_private
from meld_duckdb.daemon.options import DRAIN_S, Listening, Options, check_listening, keep_options
from meld_duckdb.daemon.places import Places, Pointer, places_of
from meld_duckdb.daemon.report import READY
from meld_duckdb.errors import (
    ArtefactError,
    ConfigError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
)
from meld_duckdb.locks import FileLock, holder
from meld_duckdb.settings import Settings
from meld_duckdb.udfs import SqlFunction
from meld_duckdb.workspace import open_workspace

if TYPE_CHECKING:
    from meld_duckdb.daemon.server import Engine, Server

_LOG = logging.getLogger("meld_duckdb.daemon")
_STOPPING_S = DRAIN_S + 15.0
_STARTING_S = 120.0
_LIVING_S = 0.5
"""An engine that listens for so long is alive."""

_ENDING_S = 3.0
_LOOK_S = 0.2
_LEAVING_S = 3.0
"""Seconds that clients have to take what was answered, before the engine leaves them."""

Tell = Callable[[str], None]


def serve(
    settings: Settings,
    options: Options,
    functions: Sequence[SqlFunction],
    version: str,
    tell: Tell,
) -> None:
    """Serve a workspace in this process until it is told to stop, or was idle for too long.

    Args:
        settings: Settings of the engine.
        options: How it is started.
        functions: All SQL functions.
        version: Version of the product.
        tell: Called with lines on the way, the last one `READY`.

    Raises:
        ConfigError: The workspace or an option cannot be used.
        EngineError: Another engine serves the workspace.
    """
    listening = check_listening(options)
    where = places_of(settings)
    open_workspace(where.workspace)
    places.make_private(where.folder)
    places.make_private(where.socket.parent)
    with _alone(where) as lock, logging_to(where, debug=settings.log_data):
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        tell("loading the libraries")
        from meld_duckdb.daemon.server import make_engine

        keep_options(where, options)
        where.socket.unlink(missing_ok=True)
        where.pointer.unlink(missing_ok=True)
        engine = make_engine(settings, where.workspace, functions, version)
        servers = _open(where, engine, listening, stopping)
        for line in engine.warm_up():
            tell(line)
        tcp = "" if listening is None else listening.location
        own = Pointer(os.getpid(), str(where.socket), engine.welcome.started, version, tcp)
        places.write_pointer(where, own)
        _LOG.info("meld-duckdb %s serves %s as process %d", version, where.workspace, own.pid)
        tell(READY)
        try:
            _wait_for_the_end(options, engine, lock, stopping)
        finally:
            _end(where, options, engine, servers, lock)


def _open(
    where: Places, engine: Engine, listening: Listening | None, stopping: threading.Event
) -> list[Server]:
    """Open the socket, for this user alone from its first moment on, and the TCP port if any."""
    from meld_duckdb.daemon.server import Server

    before = os.umask(0o077)
    try:
        servers = [Server(f"grpc+unix://{where.socket}", engine, stop=stopping.set)]
    finally:
        os.umask(before)
    where.socket.chmod(0o600)
    if listening is not None:
        servers.append(Server(listening.location, engine, listening.token, listening.tls))
    return servers


def _wait_for_the_end(
    options: Options, engine: Engine, lock: FileLock, stopping: threading.Event
) -> None:
    while not stopping.wait(_LOOK_S):
        if options.idle_timeout_s and engine.workers.idle_s() > options.idle_timeout_s:
            _LOG.info("no call for %g s", options.idle_timeout_s)
            return
        if not lock.is_in_place():
            _LOG.warning("the workspace was removed")
            return


def _end(
    where: Places, options: Options, engine: Engine, servers: Sequence[Server], lock: FileLock
) -> None:
    """Finish what runs and remove what says that there is an engine, if that is still this one.

    A client that sends or takes nothing keeps a server from ending: it is not waited for.
    """
    own = lock.is_in_place()
    if own:
        where.pointer.unlink(missing_ok=True)
    finished = engine.workers.drain(options.drain_s)
    if own and lock.is_in_place():  # a server unlinks its socket, which may be another engine's
        ends = [threading.Thread(target=s.shutdown, name="ending", daemon=True) for s in servers]
        for end in ends:
            end.start()
        until = time.monotonic() + _LEAVING_S
        for end in ends:
            end.join(max(0.0, until - time.monotonic()))
        where.socket.unlink(missing_ok=True)
    _LOG.info("stopped, %s", "all calls finished" if finished else "some calls given up")


def start(
    settings: Settings,
    options: Options,
    program: Sequence[str],
    tell: Tell,
    timeout_s: float = _STARTING_S,
) -> dict[str, Any]:
    """Start an engine of its own process that outlives this one; wait until it is ready.

    Args:
        settings: Settings of this process; the engine resolves its own from the same sources.
        options: How it is started.
        program: The command that serves; workspace, options and ``--ready-fd`` are added.
        tell: Called with lines on the way.
        timeout_s: Seconds it may take.

    Returns:
        Its status.

    Raises:
        EngineError: One runs already.
        EngineUnavailable: It did not get ready.
        MeldError: What kept it from starting.
    """
    _check_address(settings)
    check_listening(options)
    where = places_of(settings)
    _check_none_runs(where)
    open_workspace(where.workspace)
    where.log.parent.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    command = [*program, "--workspace", str(where.workspace), *options.arguments()]
    try:
        with open(where.crash_log, "wb", opener=open_private) as errors:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(writing,),
                start_new_session=True,
            )
    finally:
        os.close(writing)
    # It outlives this process; as long as this one lives, it has to be reaped when it ends.
    threading.Thread(target=process.wait, name="engine process", daemon=True).start()
    with os.fdopen(reading, "rb") as lines:
        _wait_ready(lines, process, where, tell, timeout_s)
    return status(settings)


def _check_address(settings: Settings) -> None:
    if settings.engine_address != "workspace":
        raise ConfigError(
            f"the setting engine_address names the engine {settings.engine_address}, which is "
            "started and stopped where it runs",
            hint="for an engine of the workspace: MELD_ENGINE_ADDRESS=workspace",
        )


def _check_none_runs(where: Places) -> None:
    """Refuse to start a second engine; one that was just killed gets a moment to end."""
    now = time.monotonic()
    until, deaf = now + _ENDING_S, now
    while (pid := holder(where.lock)) is not None:
        now = time.monotonic()
        if not (where.pointer.exists() and accepts(where.socket)):
            deaf = now
        if now - deaf > _LIVING_S or now > until:  # a dying one still listens for a moment
            raise EngineError(
                f"an engine runs already for {where.workspace}: process {pid}",
                hint="meld engine restart, or meld engine stop",
            )
        time.sleep(0.05)


def _wait_ready(
    lines: IO[bytes],
    process: subprocess.Popen[bytes],
    where: Places,
    tell: Tell,
    timeout_s: float,
) -> None:
    late = threading.Timer(timeout_s, process.kill)
    late.start()
    try:
        for line in lines:
            said = protocol.decode_message(line)
            if said.error is not None:
                raise said.error
            if said.notice == READY:
                return
            tell(said.notice or "")
    finally:
        late.cancel()
    raise EngineUnavailable(
        "the engine did not start", hint=f"look into {where.crash_log} and {where.log}"
    )


def stop(settings: Settings, timeout_s: float = _STOPPING_S) -> bool:
    """Stop the engine of a workspace after it finished what it does; False if none runs.

    Raises:
        EngineTimeout: It does not stop.
        EngineUnavailable: It cannot be told to.
    """
    _check_address(settings)
    where = places_of(settings)
    pid = holder(where.lock)
    if pid is None:
        _tidy(where)
        return False
    ask_to_stop(where, pid)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if holder(where.lock) is None:
            return True
        time.sleep(0.05)
    raise EngineTimeout(
        f"the engine, process {pid}, did not stop within {timeout_s:g} s",
        hint=f"kill -9 {pid}; finished answers are kept",
    )


def _tidy(where: Places) -> None:
    """Remove what an engine that was killed left behind."""
    where.pointer.unlink(missing_ok=True)
    if where.socket.is_socket():
        where.socket.unlink(missing_ok=True)


def status(settings: Settings) -> dict[str, Any]:
    """Health and metrics of the engine that the settings name.

    Raises:
        EngineUnavailable: There is none, or it cannot be reached.
    """
    from meld_duckdb.daemon.client import find_address, look

    if settings.engine_address == "workspace" and holder(places_of(settings).lock) is None:
        stale = places_of(settings).pointer.exists()
        killed = " (the last one was killed)" if stale else ""
        raise EngineUnavailable(
            f"no engine runs for the workspace {settings.workspace}{killed}",
            hint=places.start_command(settings),
        )
    return look(settings, find_address(settings))


@contextmanager
def _alone(where: Places) -> Iterator[FileLock]:
    """Be the only engine of a workspace."""
    lock = FileLock(where.lock, f"which serves {where.workspace}")
    try:
        with lock.hold(wait_s=1.0):
            yield lock
    except ArtefactError as error:
        if holder(where.lock) in {None, os.getpid()}:
            raise
        raise EngineError(
            f"an engine runs already: {error.what}", hint="meld engine stop"
        ) from error
