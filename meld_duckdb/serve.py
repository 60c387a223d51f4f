"""Serve a database with all functions to DuckDB clients on this machine, by DuckDB's Quack.

The functions are Python and run here; a client sends statements and gets rows. What protects the
database: a token, the loopback interface, the read-only mode of DuckDB, its switch against files
(``enable_external_access``), locked settings, and a judge of every statement (`remote_sql`).
"""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from meld_duckdb import interrupt
from meld_duckdb.errors import ConfigError
from meld_duckdb.register import connect
from meld_duckdb.remote_sql import Judge, refused_functions

DEFAULT_PORT = 9494
EXTENSIONS = ("httpfs", "quack")
"""What the server and its clients load; httpfs has the cryptography that Quack needs."""

_INSTALL = (
    "pip install 'meld-duckdb[serve]' brings the shell, the extensions, and the DuckDB they fit"
)
_FEWEST_CHARACTERS = 16
_JUDGE = "__meld_remote_sql"
_SHUT = (
    f"SET GLOBAL quack_authorization_function = '{_JUDGE}'",
    "SET GLOBAL python_enable_replacements = false",
    "SET GLOBAL autoload_known_extensions = false",
    "SET GLOBAL autoinstall_known_extensions = false",
    "SET GLOBAL enable_external_access = false",
    "SET GLOBAL lock_configuration = true",
)


@dataclass(frozen=True, slots=True)
class Served:
    """A database that is being served: where, and how a client gets there.

    Attributes:
        uri: Address as DuckDB names it.
        load: Statements that load the extensions in a client of the same DuckDB.
    """

    uri: str
    load: tuple[str, ...]


def new_token() -> str:
    """A random token."""
    return secrets.token_urlsafe(32)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    database: str,
    token: str,
    *,
    port: int = DEFAULT_PORT,
    read_write: bool = False,
    learn: bool = False,
    **settings: object,
) -> Iterator[Served]:
    """Serve a database for as long as the block lasts.

    Args:
        database: File or ``":memory:"``.
        token: What a client has to name; printable ASCII.
        port: Port of the loopback interface.
        read_write: Whether clients may change tables.
        learn: Whether clients may change the workspace: ``meld_learn`` and ``meld.index``.
        **settings: See `meld_duckdb.register`.

    Raises:
        ConfigError: The token is too short, DuckDB has no Quack, the file cannot be opened, or the
            port is taken.
    """
    _check_token(token)
    read_only = not read_write and database != ":memory:"
    connection = connect(database, read_only=read_only, **{**settings, "learn": learn})
    try:
        load = _load_extensions(connection)
        _shut(connection, read_write=read_write)
        uri = _listen(connection, token, port)
        try:
            yield Served(uri, load)
        finally:
            interrupt.interrupt()  # calls that still run
            connection.execute(f"CALL quack_stop('{uri}')")
    finally:
        connection.close()


def _check_token(token: str) -> None:
    good = token.isascii() and token.isprintable() and " " not in token
    if not good or len(token) < _FEWEST_CHARACTERS:
        raise ConfigError(
            f"the token has {len(token)} characters, expected at least {_FEWEST_CHARACTERS} of "
            "printable ASCII without spaces",
            hint="leave it out, and a random one is made",
        )


def _load_extensions(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Load Quack from the package that has it, or from where DuckDB installs extensions."""
    statements = load_statements()
    for name, statement in zip(EXTENSIONS, statements, strict=True):
        try:
            connection.execute(statement)
        except duckdb.Error as error:
            raise ConfigError(
                f"DuckDB {duckdb.__version__} has no extension {name!r}{_elsewhere(name)}",
                hint=f"{_INSTALL}; or run INSTALL {name} in this DuckDB, from its own repository",
            ) from error
    return statements


def load_statements() -> tuple[str, ...]:
    """The statements that load the extensions, from their packages where these have them."""
    files = [_extension_file(name) for name in EXTENSIONS]
    return tuple(
        f"LOAD '{str(file).replace(chr(39), chr(39) * 2)}'" if file.is_file() else f"LOAD {name}"
        for name, file in zip(EXTENSIONS, files, strict=True)
    )


def _extension_file(name: str) -> Path:
    return _package(name) / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"


def _package(name: str) -> Path:
    """Where the package of an extension has a directory for each DuckDB it fits."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    return Path(spec.origin or "").parent / "extensions" if spec else Path("no package")


def _elsewhere(name: str) -> str:
    found = sorted(path.parent.name for path in _package(name).glob(f"*/{name}.duckdb_extension"))
    return f", the package duckdb-extension-{name} has it for {', '.join(found)}" if found else ""


def _shut(connection: duckdb.DuckDBPyConnection, *, read_write: bool) -> None:
    """Leave nothing to remote callers but the tables of the database."""
    names = connection.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions()"
        " WHERE function_type = 'table' AND database_name = 'system'"
    ).fetchall()
    judge = Judge(refused_functions(name for (name,) in names), read_write=read_write)

    # DuckDB evaluates the annotations of the functions it is given: plain types only.
    def decide(session: str, sql: str) -> str | None:
        interrupt.clear()  # Ctrl-C was for an earlier statement
        return judge.judge(sql)

    connection.create_function(
        _JUDGE,
        decide,
        ["VARCHAR", "VARCHAR"],
        "VARCHAR",
        null_handling="special",
        side_effects=True,
    )
    for statement in _SHUT:
        connection.execute(statement)


def _listen(connection: duckdb.DuckDBPyConnection, token: str, port: int) -> str:
    uri = f"quack:localhost:{port}"
    with socket.socket() as probe:
        # Quack would share the port with the other server, and each get some of the calls.
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ConfigError(f"port {port} is taken", hint="name another one by --port")
    try:
        # A parameter, since DuckDB shows the text of a statement that fails.
        connection.execute("CALL quack_serve(?, token := ?)", [uri, token])
    except duckdb.Error as error:
        raise ConfigError(f"{uri} cannot be served: {str(error).splitlines()[0]}") from error
    return uri


def find_shell() -> tuple[Path, tuple[str, ...]]:
    """The ``duckdb`` program, and the statements that load the extensions in it.

    Raises:
        ConfigError: There is none.
    """
    spec = importlib.util.find_spec("duckdb_cli")
    beside = Path(spec.origin or "").parent / "duckdb" if spec else None
    found = str(beside) if beside and beside.is_file() else shutil.which("duckdb")
    if found is None:
        raise ConfigError("there is no program 'duckdb'", hint=_INSTALL)
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    same = done.stdout.startswith(f"v{duckdb.__version__} ")
    return Path(found), load_statements() if same else tuple(f"LOAD {e}" for e in EXTENSIONS)
