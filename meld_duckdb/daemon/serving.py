"""What an engine answers with: one workspace, one set of models, a `Handlers` per client."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa

from meld_duckdb.daemon.calls import Call, tell
from meld_duckdb.daemon.merging import MergingBackend
from meld_duckdb.daemon.protocol import Hello
from meld_duckdb.engine.backend import Backend
from meld_duckdb.errors import EngineRejected, ProtocolMismatch, unknown_name
from meld_duckdb.handlers import Handlers
from meld_duckdb.planner.session import Session
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.static import StaticEmbedding
from meld_duckdb.service import LocalService
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.udfs import SqlFunction
from meld_duckdb.workspace import Workspace, adopted_adapter, is_workspace

OWN = ("on_error", "cache", "max_pairs", "remote", "remote_contact")
"""Settings, besides those that can change an answer, that every client has its own of."""

COMMON = (
    "backend",
    "device",
    "starter",
    "model",
    "encoder",
    "max_prompt_tokens",
    "wikidata_url",
    "wikidata_sparql_url",
    "wikipedia_url",
    "snomed_url",
    "snomed_branch",
)
"""Settings that the engine has once: a client that wants others is refused."""

_MOST_CLIENTS = 256
_CLIENT_IDLE_S = 6 * 3600.0
_ENDED_IDLE_S = 30.0
_MOST_PID = 2**31
_MOST_SESSIONS = 8
_LANGUAGE_MODEL = "language model"

_T = TypeVar("_T")


class UnknownClient(Exception):
    """The client has to greet first: the engine is new, or forgot it after a long silence."""


class Models:
    """The models that all sessions share, each loaded when first needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loaded: dict[str, Any] = {}

    def get(self, name: str, load: Callable[[], _T]) -> _T:
        """A model by name; one thread loads it, the others wait."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load()
            model: _T = self._loaded[name]
            return model

    def names(self) -> list[str]:
        """What is loaded."""
        return sorted(self._loaded)

    def merging(self) -> MergingBackend | None:
        """The language model, if it is loaded."""
        found = self._loaded.get(_LANGUAGE_MODEL)
        return found if isinstance(found, MergingBackend) else None

    def forget(self, name: str) -> None:
        """Let go of a model that has changed on disk."""
        with self._lock:
            self._loaded.pop(name, None)


class SharedSession(Session):
    """A session whose models are those of the process, and whose prompts are merged."""

    def __init__(self, settings: Settings, models: Models) -> None:
        self._models = models
        super().__init__(settings, tell)

    @property
    def untuned_encoder(self) -> Encoder:
        """The embedding model without an adapter."""
        with self._lock:  # always before the lock of the models
            return self._models.get(
                "untuned encoder", lambda: super(SharedSession, self).untuned_encoder
            )

    def _load_encoder(self) -> Encoder:
        return self._models.get("encoder", super()._load_encoder)

    def _load_static(self) -> StaticEmbedding:
        return self._models.get("static", super()._load_static)

    def _load_backend(self) -> Backend:
        load = super()._load_backend
        size = self.settings.engine_batch
        return self._models.get(_LANGUAGE_MODEL, lambda: MergingBackend(load(), size))


class Sessions:
    """Sessions by settings, the least recently used first out."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models()
        self._lock = threading.Lock()
        self._sessions: OrderedDict[Settings, SharedSession] = OrderedDict()
        self._adapter = self._adopted()

    def get(self, wanted: Settings) -> SharedSession:
        """The session of some settings; all are made anew once the encoder was tuned."""
        key = replace(wanted, on_error="null")
        with self._lock:
            adapter = self._adopted()
            if adapter != self._adapter:
                self._adapter = adapter
                self._sessions.clear()
                self.models.forget("encoder")
            if key not in self._sessions:
                self._sessions[key] = SharedSession(key, self.models)
                while len(self._sessions) > _MOST_SESSIONS:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def _adopted(self) -> str | None:
        path = self.settings.workspace
        return adopted_adapter(Workspace(path)) if is_workspace(path) else None


class SharedService(LocalService):
    """The service of one client; its notices go to the call that is answered."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        super().__init__(settings)
        self._shared = sessions

    @property
    def session(self) -> Session:
        """The session of these settings, shared by all clients with the same."""
        return self._shared.get(self.settings)

    def notice(self, text: str) -> None:
        """Say one line to the client; it may hold contents of rows, so it is not logged."""
        tell(text)


@dataclass(eq=False)
class _Client:
    handlers: Handlers
    settings: Settings
    statement: int = 0
    n_running: int = 0
    used: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Clients:
    """The clients of an engine, and how their calls are answered.

    Args:
        sessions: The sessions.
        functions: All SQL functions.
        version: Version of the product.
    """

    def __init__(self, sessions: Sessions, functions: Sequence[SqlFunction], version: str) -> None:
        self._sessions = sessions
        self._functions = {function.name: function for function in functions}
        self._version = version
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def greet(self, hello: Hello) -> None:
        """Take a client in, or give one that is known other settings.

        Raises:
            ProtocolMismatch: It wants other models than the engine has.
            EngineRejected, ConfigError: Its settings make no sense.
        """
        settings = client_settings(self._sessions.settings, hello.settings)
        with self._lock:
            self._forget()
            known = self._clients.get(hello.client)
            if known is not None and known.settings == settings:
                return
            service = SharedService(settings, self._sessions)
            functions = list(self._functions.values())
            handlers = Handlers(service, [], functions, self._version)
            self._clients[hello.client] = _Client(handlers, settings)

    def check(self, client: str, function: str) -> None:
        """Refuse a call that cannot be answered at all.

        Raises:
            UnknownClient: It has not greeted.
            EngineRejected: There is no such function, or it is none for an engine.
        """
        known = self._functions.get(function)
        if known is None or known.local:
            what, hint = unknown_name("function", function[:200], self._functions)
            raise EngineRejected(what, hint=hint if known is None else "ask it where you are")
        with self._lock:
            if client not in self._clients:
                raise UnknownClient(client)

    def answer(self, call: Call) -> pa.Array:
        """Answer a call by the handlers of its client."""
        function = self._functions[call.function]
        with self._using(call.client) as client:
            with client.lock:
                if call.statement != client.statement:
                    client.statement = call.statement
                    client.handlers.service.stats.begin_statement()
            result: pa.Array = getattr(client.handlers, function.handler)(function, call.columns)
            return result

    def __len__(self) -> int:
        return len(self._clients)

    @contextmanager
    def _using(self, name: str) -> Iterator[_Client]:
        with self._lock:
            client = self._clients.get(name)
            if client is None:
                raise EngineRejected("the client was forgotten", hint="run the statement again")
            self._clients.move_to_end(name)
            client.n_running += 1
            client.used = time.monotonic()
        try:
            yield client
        finally:
            with self._lock:
                client.n_running -= 1
                client.used = time.monotonic()

    def _forget(self) -> None:
        """Drop clients that were silent for long or have ended, and the oldest of too many."""
        idle = [name for name, client in self._clients.items() if not client.n_running]
        now = time.monotonic()
        for name in idle:
            silent_s = now - self._clients[name].used
            ended = silent_s > _ENDED_IDLE_S and not _lives(name)
            if ended or silent_s > _CLIENT_IDLE_S or len(self._clients) >= _MOST_CLIENTS:
                del self._clients[name]


def _lives(client: str) -> bool:
    """Tell whether the process lives that a client's name begins with; see `new_identity`."""
    pid = client.partition("-")[0]
    if not pid.isdecimal() or not 0 < int(pid) < _MOST_PID:
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def client_settings(own: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings of a client on an engine with its own.

    Raises:
        ProtocolMismatch: A setting that the engine has once is another one; names both.
        EngineRejected, ConfigError: A setting is unknown or has a bad value.
    """
    free = {name for name in own.answer.__slots__ if name not in COMMON} | set(OWN)
    unknown = sorted(given.keys() - free - set(COMMON))
    if unknown:
        raise EngineRejected(f"malformed hello: no setting {unknown[0][:60]!r} can be given")
    for name in COMMON:
        has = getattr(own.answer if name in own.answer.__slots__ else own, name)
        wants = given.get(name, has)
        if wants != has and (name, wants) != ("device", "auto"):
            raise ProtocolMismatch(
                f"the engine runs with {name} = {has!r}, this process wants {wants!r}",
                hint="start the engine with the same settings: meld engine restart",
            )
    values = {name: value for name, value in given.items() if name in free}
    parsed, _ = resolve({**values, "workspace": own.workspace}, {})
    answer = replace(own.answer, **{n: getattr(parsed.answer, n) for n in values if n not in OWN})
    outer = {name: getattr(parsed, name) for name in values if name in OWN}
    return replace(own, **outer, answer=answer)
