"""Telling an engine to stop: the right process, whatever a file says."""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path

from meld_duckdb.daemon import places
from meld_duckdb.daemon.places import Places
from meld_duckdb.errors import EngineUnavailable, MeldError

_PATIENCE_S = 5.0
_CREDENTIALS = struct.Struct("3i")


def accepts(path: Path) -> bool:
    """Tell whether somebody listens at a socket."""
    return _listener(path) is not None


def ask_to_stop(where: Places, signed: int) -> None:
    """Tell the engine that holds the lock of a workspace to stop.

    The process is the one that listens at the socket; where the system does not say which that is,
    for example from another container, the engine is asked through the socket. A number in the
    lock file is believed only of a process that has that file open.

    Args:
        where: The places of the engine.
        signed: The number in its lock file, 0 for none.

    Raises:
        EngineUnavailable: It cannot be told.
    """
    pid = _listener(where.socket)
    if pid is None and signed and _has_open(signed, where.lock):
        pid = signed  # it is starting, and does not listen yet
    if pid:
        _signal(pid, where)
    elif pid is None or not _asked(where):
        raise EngineUnavailable(
            f"an engine holds {where.lock}, but cannot be told to stop",
            hint="stop it where it runs, perhaps another container; or try again in a moment",
        )


def _signal(pid: int, where: Places) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:  # it has just ended
        return
    except PermissionError as error:
        raise EngineUnavailable(
            f"the engine of {where.workspace}, process {pid}, belongs to another user",
            hint="its user can stop it: meld engine stop",
        ) from error


def _listener(path: Path) -> int | None:
    """Process that listens at a socket: None if none does, 0 if the system does not say which."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE_S)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return None
        if not hasattr(socket, "SO_PEERCRED"):
            return 0
        found = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(found)[0]
        return pid


def _has_open(pid: int, path: Path) -> bool:
    """Tell whether a process has a file open, as far as the system says."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        wanted = path.stat()
        found = list(folder.iterdir())
    except OSError:
        return not Path("/proc/self/fd").exists()
    for link in found:
        try:
            if os.path.samestat(link.stat(), wanted):
                return True
        except OSError:
            continue
    return False


def _asked(where: Places) -> bool:
    """Ask through the socket; False where that is not understood."""
    from meld_duckdb.daemon.client import ask_to_end  # brings Flight

    try:
        places.check_socket(where.socket)
        ask_to_end(where.socket)
    except MeldError:
        return False
    return True
