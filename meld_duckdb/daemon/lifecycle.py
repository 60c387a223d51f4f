"""An engine's life: started, found ready, looked at, stopped."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from meld_duckdb.daemon import places, protocol
from meld_duckdb.daemon.options import DRAIN_S, Listening, Options, check_listening, keep_options
from meld_duckdb.daemon.places import Places, Pointer, places_of
from meld_duckdb.daemon.report import READY
from meld_duckdb.errors import (
    ArtefactError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
)
from meld_duckdb.locks import FileLock, holder
from meld_duckdb.settings import Settings
from meld_duckdb.udfs import SqlFunction
from meld_duckdb.workspace import open_workspace

_LOG = logging.getLogger("meld_duckdb.daemon")
_LOG_BYTES = 5_000_000
_LOGS_KEPT = 3
_STOPPING_S = DRAIN_S + 15.0
_STARTING_S = 120.0
_ENDING_S = 3.0
_LOOK_S = 0.2

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
    with _alone(where), _logging(where, settings):
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        _serve(where, settings, options, listening, functions, version, tell, stopping)


def _serve(
    where: Places,
    settings: Settings,
    options: Options,
    listening: Listening | None,
    functions: Sequence[SqlFunction],
    version: str,
    tell: Tell,
    stopping: threading.Event,
) -> None:
    tell("loading the libraries")
    from meld_duckdb.daemon.server import Server, make_engine

    keep_options(where, options)
    where.socket.unlink(missing_ok=True)
    where.pointer.unlink(missing_ok=True)
    os.umask(0o077)
    engine = make_engine(settings, where.workspace, functions, version)
    servers = [Server(f"grpc+unix://{where.socket}", engine)]
    where.socket.chmod(0o600)
    if listening is not None:
        servers.append(Server(listening.location, engine, listening.token, listening.tls))
    for line in engine.warm_up():
        tell(line)
    tcp = "" if listening is None else listening.location
    started = engine.welcome.started
    places.write_pointer(where, Pointer(os.getpid(), str(where.socket), started, version, tcp))
    _LOG.info("meld-duckdb %s serves %s as process %d", version, where.workspace, os.getpid())
    tell(READY)
    try:
        while not stopping.wait(_LOOK_S):
            if options.idle_timeout_s and engine.workers.idle_s() > options.idle_timeout_s:
                _LOG.info("no call for %g s", options.idle_timeout_s)
                break
    finally:
        where.pointer.unlink(missing_ok=True)
        finished = engine.workers.drain(options.drain_s)
        for server in servers:
            server.shutdown()
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
    check_listening(options)
    where = places_of(settings)
    _check_none_runs(where)
    open_workspace(where.workspace)
    where.log.parent.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    command = [*program, "--workspace", str(where.workspace), *options.arguments()]
    try:
        with where.crash_log.open("wb") as errors:
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


def _check_none_runs(where: Places) -> None:
    """Refuse to start a second engine; one that was just killed gets a moment to end."""
    until = time.monotonic() + _ENDING_S
    while (pid := holder(where.lock)) is not None:
        lives = where.pointer.exists() and _accepts(where.socket)
        if lives or time.monotonic() > until:
            raise EngineError(
                f"an engine runs already for {where.workspace}: process {pid}",
                hint="meld engine restart, or meld engine stop",
            )
        time.sleep(0.05)


def _accepts(path: Path) -> bool:
    """Tell whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


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
    """
    where = places_of(settings)
    pid = holder(where.lock)
    if pid is None:
        _tidy(where)
        return False
    if pid == 0:
        raise EngineUnavailable(
            f"an engine holds {where.lock}, but does not say which process it is",
            hint="try again in a moment",
        )
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)
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
def _alone(where: Places) -> Iterator[None]:
    """Be the only engine of a workspace."""
    lock = FileLock(where.lock, f"which serves {where.workspace}")
    try:
        with lock.hold(wait_s=1.0):
            yield
    except ArtefactError as error:
        if holder(where.lock) in {None, os.getpid()}:
            raise
        raise EngineError(
            f"an engine runs already: {error.what}", hint="meld engine stop"
        ) from error


@contextmanager
def _logging(where: Places, settings: Settings) -> Iterator[None]:
    """Log to the workspace, a bounded number of bytes."""
    where.log.parent.mkdir(exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        where.log, maxBytes=_LOG_BYTES, backupCount=_LOGS_KEPT, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("meld_duckdb")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if settings.log_data else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
