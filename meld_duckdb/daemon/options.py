"""How an engine is started: for how long, and for whom besides this user."""

from __future__ import annotations

import ipaddress
import json
import stat
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.daemon.places import Places, places_of
from meld_duckdb.errors import ConfigError
from meld_duckdb.settings import Settings
from meld_duckdb.workspace import write_atomic

DRAIN_S = 30.0
"""Seconds that running calls have to finish once an engine is told to stop."""

_FILES = ("token_file", "tls_cert", "tls_key")


@dataclass(frozen=True, slots=True)
class Options:
    """How an engine is started.

    Attributes:
        idle_timeout_s: Seconds without a call after which it stops; 0 for never.
        tcp: ``HOST:PORT`` to serve other machines too, ``""`` for not.
        token_file: File with the token that these name; needed with ``tcp``.
        tls_cert: Certificate, PEM; needed with ``tcp`` beyond this machine.
        tls_key: Its key, PEM.
        drain_s: Seconds that running calls have to finish once it is told to stop.
    """

    idle_timeout_s: float = 0.0
    tcp: str = ""
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    drain_s: float = DRAIN_S

    def arguments(self) -> list[str]:
        """The same as arguments of a command."""
        named = {
            "--idle-timeout": self.idle_timeout_s or None,
            "--tcp": self.tcp or None,
            "--token-file": self.token_file,
            "--tls-cert": self.tls_cert,
            "--tls-key": self.tls_key,
        }
        return [str(word) for k, v in named.items() if v is not None for word in (k, v)]


@dataclass(frozen=True, slots=True)
class Listening:
    """The checked form of serving other machines."""

    location: str
    token: str
    tls: tuple[bytes, bytes] | None


def last_options(settings: Settings) -> Options:
    """How the engine of a workspace was started last; the defaults if it never was.

    What a workspace from elsewhere brings along does not count: an engine that listens where, and
    for whom, others have said.
    """
    where = places_of(settings)
    try:
        found = safe_json.read(where.options)
        if found["folder"] != _identity(where):
            return Options()
        token, certificate, key = (None if found[k] is None else Path(found[k]) for k in _FILES)
        idle_timeout_s, tcp = float(found["idle_timeout_s"]), str(found["tcp"])
        return Options(idle_timeout_s, tcp, token, certificate, key)
    except (OSError, ValueError, KeyError, TypeError):
        return Options()


def keep_options(where: Places, options: Options) -> None:
    """Note how the engine of a workspace was started."""
    files = {k: None if (v := getattr(options, k)) is None else str(v.absolute()) for k in _FILES}
    kept = {
        "idle_timeout_s": options.idle_timeout_s,
        "tcp": options.tcp,
        **files,
        "folder": _identity(where),
    }
    write_atomic(where.options, json.dumps(kept))


def _identity(where: Places) -> int:
    """What tells the directory of an engine from a copy of it."""
    return where.folder.stat().st_ino


def check_listening(options: Options) -> Listening | None:
    """Check how other machines are to be served; None for not at all.

    Raises:
        ConfigError: Without a token, or beyond this machine without encryption.
    """
    if not options.tcp:
        return None
    host, _, port = options.tcp.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ConfigError(f"--tcp is {options.tcp!r}, expected HOST:PORT")
    if options.token_file is None:
        raise ConfigError("--tcp needs a token", hint="name its file: --token-file FILE")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together")
    tls = None
    if options.tls_cert is not None and options.tls_key is not None:
        tls = (_read(options.tls_cert), _read(options.tls_key))
    elif not is_loopback(host):
        raise ConfigError(
            f"--tcp {options.tcp} would send rows over the network unencrypted",
            hint="give --tls-cert and --tls-key, or serve 127.0.0.1",
        )
    scheme = "grpc+tcp" if tls is None else "grpc+tls"
    return Listening(f"{scheme}://{options.tcp}", _read_token(options.token_file), tls)


def check_private(path: Path) -> None:
    """Refuse a file with a secret that other users can read or write.

    Raises:
        ConfigError: They can.
    """
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"the token file {path} is open to other users", hint=f"chmod 600 {path}")


def _read_token(path: Path) -> str:
    token = _read(path).decode("utf-8", "replace").strip()
    check_private(path)
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"the token in {path} is no line of at least 16 ASCII characters",
            hint="python -c 'import secrets; print(secrets.token_hex(32))'",
        )
    return token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, so that what is sent to it stays here."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
