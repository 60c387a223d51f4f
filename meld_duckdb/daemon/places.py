"""Where the engine of a workspace is found: its folder, its pointer file, its socket.

The folder ``<workspace>/engine`` and everything in it belong to one user alone. The pointer is
there while an engine takes calls; it names the socket, which lies elsewhere where its path in the
workspace would be too long for a socket.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.errors import ConfigError, EngineUnavailable
from meld_duckdb.settings import Settings, runtime_dir
from meld_duckdb.workspace import write_atomic

_MOST_SOCKET_CHARS = 100
"""Bytes that the address of a Unix socket may have on every system, less a few."""

_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
"""Paths that Arrow takes as the address of a socket as they are."""

_START = "meld engine start"

RESTART = "meld engine restart"
"""The command that helps where an engine is there and does not answer."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What the pointer file says about the engine that runs.

    Attributes:
        pid: Its process.
        socket: Its socket.
        started: When it started, seconds since 1970; with the process it names one engine.
        version: Version of the product.
        tcp: Its address for other machines, ``""`` without one.
    """

    pid: int
    socket: str
    started: float
    version: str
    tcp: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of the engine of a workspace."""

    workspace: Path

    @property
    def folder(self) -> Path:
        """Directory of everything else."""
        return self.workspace / "engine"

    @property
    def pointer(self) -> Path:
        """There while an engine takes calls."""
        return self.folder / "engine.json"

    @property
    def options(self) -> Path:
        """How the engine was started last."""
        return self.folder / "options.json"

    @property
    def lock(self) -> Path:
        """Held as long as an engine lives."""
        return self.folder / "engine.lock"

    @property
    def socket(self) -> Path:
        """The socket; outside the workspace where its path there could not be an address.

        Raises:
            ConfigError: The directory for sockets could not be one, either.
        """
        inside = self.folder / "engine.sock"
        if _is_plain(inside):
            return inside
        name = hashlib.sha256(os.fsencode(self.workspace)).hexdigest()[:16]
        outside = runtime_dir() / f"{name}.sock"
        if not _is_plain(outside):
            raise ConfigError(
                f"a socket can be neither in {self.folder} nor in {outside.parent}: its path may "
                f"have {_MOST_SOCKET_CHARS} letters, digits, and / . _ + -",
                hint="set XDG_RUNTIME_DIR to a directory with a short and plain path",
            )
        return outside

    @property
    def log(self) -> Path:
        """What the engine did."""
        return self.workspace / "logs" / "engine.log"

    @property
    def crash_log(self) -> Path:
        """What libraries wrote to standard error; overwritten by every start."""
        return self.workspace / "logs" / "engine.err"


def places_of(settings: Settings) -> Places:
    """The places of the workspace that the settings name, links resolved."""
    return Places(settings.workspace.resolve())


def start_command(settings: Settings) -> str:
    """The command that starts the engine of a workspace."""
    return f"{_START} --workspace {settings.workspace}"


def make_private(folder: Path) -> None:
    """Make a directory that no other user can enter.

    Raises:
        ConfigError: It belongs to someone else, is a link, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(
                f"{folder} is no directory of this user",
                hint="remove it, or set XDG_RUNTIME_DIR to a directory of yours",
            )
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror or error}") from error


def write_pointer(places: Places, pointer: Pointer) -> None:
    """Tell clients that an engine takes calls."""
    write_atomic(places.pointer, json.dumps(asdict(pointer)))


def read_pointer(places: Places) -> Pointer | None:
    """Read the pointer; None where there is none.

    Raises:
        EngineUnavailable: It is damaged, or another user could have written it.
    """
    try:
        found = places.pointer.lstat()
        if not stat.S_ISREG(found.st_mode) or not _is_own(found) or found.st_mode & 0o022:
            raise EngineUnavailable(
                f"{places.pointer} could have been written by another user, and is not used",
                hint=f"remove it, then: {_START}",
            )
        fields = safe_json.read(places.pointer)
        return Pointer(
            int(fields["pid"]),
            str(fields["socket"]),
            float(fields["started"]),
            str(fields["version"]),
            str(fields["tcp"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineUnavailable(
            f"{places.pointer} cannot be read: {error}", hint=f"remove it, then: {_START}"
        ) from error


def check_socket(path: Path) -> None:
    """Refuse a socket that another user could answer or listen to.

    Raises:
        EngineUnavailable: It is gone, no socket, of another user, or open to others.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise EngineUnavailable(
            f"the engine's socket {path} is gone: {error.strerror}", hint=RESTART
        ) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise EngineUnavailable(f"{path} is no socket", hint=RESTART)
    if not _is_own(found):
        raise EngineUnavailable(
            f"the engine's socket {path} belongs to user {found.st_uid}, not to this one",
            hint="use a workspace of your own: MELD_WORKSPACE",
        )
    if found.st_mode & 0o077:
        raise EngineUnavailable(
            f"the engine's socket {path} is open to other users (mode {found.st_mode & 0o777:o})",
            hint="meld engine restart makes it anew, for this user alone",
        )


def numbering() -> int:
    """What tells process numbers of one container from those of another; 0 where nothing does."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _is_plain(path: Path) -> bool:
    text = os.fsencode(path)
    return len(text) <= _MOST_SOCKET_CHARS and bool(_PLAIN.fullmatch(str(path)))


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()
