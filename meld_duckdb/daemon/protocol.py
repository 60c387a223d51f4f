"""What crosses the socket beside Arrow: headers, greetings, messages, errors. JSON, checked.

One call is one Flight exchange: the client sends a `Header` as descriptor and the argument columns
as one record batch or several; the engine sends any number of messages as metadata, then one
record batch with the single column of the result, or a message with an error. Nothing names a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from meld_duckdb.errors import EngineRejected, MeldError, ProtocolMismatch

VERSION = 2
"""Changes whenever client and engine of different versions would misunderstand each other."""

HELLO, STATUS, STOP = "hello", "status", "stop"
"""Actions: a client greets the engine; health and metrics; over the socket alone, to end it."""

_MOST_TEXT = 65_536
_MOST_SHOWN = 16_000
_MOST_NUMBER = 2**53
_CLIENT = re.compile(r"[0-9a-zA-Z-]{8,64}")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Header:
    """What is asked by one call.

    Attributes:
        client: Who asks, as greeted.
        function: SQL name of the function.
        statement: Number of the client's statement, for its statistics.
        timeout_s: Seconds after which the call fails; 0 for no limit.
        n_bytes: Memory that its arguments take at most.
    """

    client: str
    function: str
    statement: int = 0
    timeout_s: float = 0.0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """The greeting of a client.

    Attributes:
        client: A name it gave itself, the same for all calls of one registration.
        version: Its version of the product.
        protocol: Its version of the protocol.
        workspace: Its workspace; ``""`` takes whatever the engine serves.
        settings: Its settings, those of paths left out.
    """

    client: str
    version: str
    protocol: int
    workspace: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Welcome:
    """The engine's reply to a greeting: what it is, and what it takes."""

    version: str
    protocol: int
    workspace: str
    model: str
    encoder: str
    backend: str
    device: str
    pid: int
    started: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message on the way to a result; an empty one says that the engine is there.

    Attributes:
        notice: A line for people.
        error: Why the call failed.
        declined: With an error: the engine did not answer the call, another process may.
        unknown_client: The engine does not know the client: it has to greet (again).
        progress: How far the call is; see `progress.Meter.state`.
    """

    notice: str | None = None
    error: MeldError | None = None
    declined: bool = False
    unknown_client: bool = False
    progress: Mapping[str, object] | None = None


def encode(thing: Header | Hello | Welcome) -> bytes:
    """Encode a dataclass of this module."""
    return json.dumps(asdict(thing)).encode("utf-8")


def decode(kind: type[_T], data: bytes) -> _T:
    """Decode a dataclass of this module.

    Raises:
        EngineRejected: It is too long, no JSON, or not of this kind.
    """
    found = _object(data, kind.__name__)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value = found.get(field.name)
        wanted = str(field.type)
        if not _fits(value, wanted):
            raise EngineRejected(
                f"malformed {kind.__name__.lower()}: {field.name!r} is {_shown(value)}, "
                f"expected {wanted}"
            )
        values[field.name] = value
    client = values.get("client")
    if client is not None and not _CLIENT.fullmatch(client):
        raise EngineRejected(f"malformed {kind.__name__.lower()}: no name of a client")
    return kind(**values)


def encode_message(message: Message) -> bytes:
    """Encode a message; texts that are too long to be sent are shortened."""
    most = _MOST_SHOWN
    while True:
        error = None if message.error is None else error_fields(message.error)
        found = {
            "notice": _shortened(message.notice, most),
            "error": error and {k: _shortened(v, most) for k, v in error.items()},
            "declined": message.declined,
            "unknown_client": message.unknown_client,
            "progress": message.progress,
        }
        data = json.dumps({k: v for k, v in found.items() if v}).encode("utf-8")
        if len(data) <= _MOST_TEXT:
            return data
        most //= 2


def decode_message(data: bytes) -> Message:
    """Decode a message.

    Raises:
        EngineRejected: It is no JSON object.
    """
    found = _object(data, "Message")
    error, notice, progress = found.get("error"), found.get("notice"), found.get("progress")
    return Message(
        notice if isinstance(notice, str) else None,
        error_from(error) if isinstance(error, dict) else None,
        found.get("declined") is True,
        found.get("unknown_client") is True,
        progress if isinstance(progress, dict) else None,
    )


def error_fields(error: MeldError) -> dict[str, str | None]:
    """An error as code, what happened, and hint."""
    return {"code": error.code, "what": error.what, "hint": error.hint}


def error_from(found: Mapping[str, Any]) -> MeldError:
    """The error that `error_fields` took apart, of the same class."""
    hint = found.get("hint")
    kinds = {kind.code: kind for kind in reversed(list(_kinds(MeldError)))}
    kind = kinds.get(str(found.get("code")), MeldError)
    return kind(str(found.get("what")), hint=None if hint is None else str(hint))


def check_versions(client: Hello, version: str, workspace: str) -> None:
    """Refuse a client of another version or workspace.

    Raises:
        ProtocolMismatch: It is one; names what both have.
    """
    if (client.version, client.protocol) != (version, VERSION):
        raise ProtocolMismatch(
            f"the engine is meld-duckdb {version} (protocol {VERSION}), "
            f"this process is meld-duckdb {client.version} (protocol {client.protocol})",
            hint="run meld engine restart with the version you want",
        )
    if client.workspace and client.workspace != workspace:
        raise ProtocolMismatch(
            f"the engine serves the workspace {workspace}, this process wants {client.workspace}",
            hint=f"meld engine start --workspace {client.workspace}",
        )


def _kinds(kind: type[MeldError]) -> Iterator[type[MeldError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _object(data: bytes, name: str) -> dict[str, Any]:
    if len(data) > _MOST_TEXT:
        raise EngineRejected(f"malformed {name.lower()}: {len(data)} bytes, at most {_MOST_TEXT}")
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise EngineRejected(f"malformed {name.lower()}: no JSON") from error
    if not isinstance(found, dict):
        raise EngineRejected(f"malformed {name.lower()}: no JSON object")
    return found


def _fits(value: object, wanted: str) -> bool:
    if wanted == "str":
        return isinstance(value, str)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_NUMBER
    if wanted == "float":
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return 0 <= value < _MOST_NUMBER
    return isinstance(value, dict)


def _shortened(text: str | None, most: int) -> str | None:
    return text if text is None or len(text) <= most else text[: most - 1] + "…"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
