"""What an engine answers with: one workspace, one set of models, a `Handlers` per client."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa

from meld_duckdb import interrupt
from meld_duckdb.daemon.calls import Call, tell
from meld_duckdb.daemon.merging import MergingBackend
from meld_duckdb.daemon.places import numbering
from meld_duckdb.daemon.protocol import Hello
from meld_duckdb.daemon.sent import COMMON, OWN, anchored, sent_settings
from meld_duckdb.engine.backend import Backend
from meld_duckdb.errors import EngineError, EngineRejected, ProtocolMismatch, unknown_name
from meld_duckdb.handlers import Handlers
from meld_duckdb.planner.session import Session
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.static import StaticEmbedding
from meld_duckdb.service import LocalService
from meld_duckdb.setting_checks import REMOTE_SERVICES
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.trust import GUARDED
from meld_duckdb.udfs import SqlFunction
from meld_duckdb.workspace import Workspace, adopted_adapter, is_workspace

_MOST_CLIENTS = 256
_CLIENT_IDLE_S = 6 * 3600.0
_ENDED_IDLE_S = 30.0
_MOST_PID = 2**31
_POLL_S = 0.1
_MOST_SESSIONS = 8
_LANGUAGE_MODEL = "language model"

_T = TypeVar("_T")


class UnknownClient(Exception):
    """The client has to greet first: the engine is new, or forgot it after a long silence."""


class Models:
    """The models that all sessions share, each loaded when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._loaded: dict[str, Any] = {}

    def get(self, name: str, load: Callable[[], _T]) -> _T:
        """A model by name; one thread loads it, others that want the same one wait."""
        with self._lock:
            lock = self._locks[name]
        with lock:
            if name not in self._loaded:
                self._loaded[name] = load()
            model: _T = self._loaded[name]
            return model

    def names(self) -> list[str]:
        """What is loaded."""
        return sorted(list(self._loaded))  # another thread may be adding one

    def merging(self) -> MergingBackend | None:
        """The language model, if it is loaded."""
        found = self._loaded.get(_LANGUAGE_MODEL)
        return found if isinstance(found, MergingBackend) else None

    def forget(self, name: str) -> None:
        """Let go of a model that has changed on disk."""
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
        self._sessions: OrderedDict[Settings, Future[SharedSession]] = OrderedDict()
        self._adapter = self._adopted()

    def get(self, wanted: Settings) -> SharedSession:
        """The session of some settings; all are made anew once the encoder was tuned.

        To make one may have to wait for a process that indexes: only those wait who want it.
        """
        key = replace(wanted, on_error="null", max_calls=0, max_seconds=0)
        with self._lock:
            adapter = self._adopted()
            if adapter != self._adapter:
                self._adapter = adapter
                self._sessions.clear()
                self.models.forget("encoder")
            found = self._sessions.get(key)
            making = found is None
            if found is None:
                found = self._sessions[key] = Future()
                while len(self._sessions) > _MOST_SESSIONS:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
        return self._make(key, found) if making else _made(found)

    def _make(self, key: Settings, promised: Future[SharedSession]) -> SharedSession:
        try:
            session = SharedSession(key, self.models)
        except BaseException as error:
            with self._lock:
                if self._sessions.get(key) is promised:
                    del self._sessions[key]
            promised.set_exception(
                EngineError("opening the workspace was interrupted", hint="run it again")
                if isinstance(error, KeyboardInterrupt)
                else error
            )
            raise
        promised.set_result(session)
        return session

    def _adopted(self) -> str | None:
        path = self.settings.workspace
        return adopted_adapter(Workspace(path)) if is_workspace(path) else None


def _made(promised: Future[SharedSession]) -> SharedSession:
    """A session that another thread makes, once it has."""
    while True:
        try:
            return promised.result(timeout=_POLL_S)
        except TimeoutError:
            if promised.done():
                raise
            interrupt.check()


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
    """A client.

    Attributes:
        handlers: What answers its calls.
        settings: Its settings.
        local: Whether it came through the socket.
        statement: Its statement of now.
        n_calls: Calls that are sent, wait or run.
        used: When it was last there.
        lock: Held while its statement changes.
    """

    handlers: Handlers
    settings: Settings
    local: bool
    statement: int = 0
    n_calls: int = 0
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

    def greet(self, hello: Hello, *, local: bool = True) -> None:
        """Take a client in, or give one that is known other settings.

        Args:
            hello: Its greeting.
            local: Whether it came through the socket. Another one can allow no service that the
                engine does not.

        Raises:
            ProtocolMismatch: It wants other models than the engine has.
            EngineRejected, ConfigError: Its settings make no sense.
        """
        own = self._sessions.settings
        settings = client_settings(own, hello.settings)
        if not local:
            both = set(settings.remote_services) & set(own.remote_services)
            allowed = ",".join(name for name in REMOTE_SERVICES if name in both)
            settings = replace(settings, remote=allowed or "none")
        with self._lock:
            self._forget()
            known = self._clients.get(hello.client)
            if known is not None and known.settings == settings:
                return
            service = SharedService(settings, self._sessions)
            functions = list(self._functions.values())
            handlers = Handlers(service, [], functions, self._version)
            self._clients[hello.client] = _Client(handlers, settings, local)

    def check(self, function: str) -> None:
        """Refuse a call that cannot be answered at all.

        Raises:
            EngineRejected: There is no such function, or it is none for an engine.
        """
        known = self._functions.get(function)
        if known is None or known.local:
            what, hint = unknown_name("function", function[:200], self._functions)
            raise EngineRejected(what, hint=hint if known is None else "ask it where you are")

    def answer(self, call: Call) -> pa.Array:
        """Answer a call by the handlers of its client."""
        function = self._functions[call.function]
        with self._lock:
            client = self._clients.get(call.client)
        if client is None:  # calls that wait keep their client, see `calling`
            raise EngineRejected("the client was forgotten", hint="run the statement again")
        with client.lock:
            if call.statement != client.statement:
                client.statement = call.statement
                client.handlers.service.stats.begin_statement()
        call.meter.whole = function.task is None
        result: pa.Array = getattr(client.handlers, function.handler)(function, call.columns)
        return result

    def __len__(self) -> int:
        return len(self._clients)

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """Keep a client for the time of a call, from its arguments to its result.

        Raises:
            UnknownClient: It has not greeted.
        """
        with self._lock:
            client = self._clients.get(name)
            if client is None:
                raise UnknownClient(name)
            self._clients.move_to_end(name)
            client.n_calls += 1
            client.used = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                client.n_calls -= 1
                client.used = time.monotonic()

    def _forget(self) -> None:
        """Drop clients that were silent for long or have ended, and the oldest of too many."""
        idle = [(name, client) for name, client in self._clients.items() if not client.n_calls]
        now = time.monotonic()
        for name, client in idle:
            silent_s = now - client.used
            ended = client.local and silent_s > _ENDED_IDLE_S and not _lives(name)
            if ended or silent_s > _CLIENT_IDLE_S or len(self._clients) >= _MOST_CLIENTS:
                del self._clients[name]


def _lives(client: str) -> bool:
    """Tell whether the process lives that a client's name begins with; see `new_identity`.

    Of one in another container that cannot be told.
    """
    pid, _, rest = client.partition("-")
    if rest.partition("-")[0] != str(numbering()) or not pid.isdecimal():
        return True
    if not 0 < int(pid) < _MOST_PID:
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
        EngineRejected, ConfigError: A setting is unknown, missing, or has a bad value.
    """
    free = {name for name in own.answer.__slots__ if name not in COMMON} | set(OWN)
    unknown = sorted(given.keys() - free - set(COMMON))
    if unknown:
        raise EngineRejected(f"malformed hello: no setting {unknown[0][:60]!r} can be given")
    common = sent_settings(anchored(own))
    for name in COMMON:
        if name not in given:
            raise EngineRejected(f"malformed hello: no setting {name!r} is given")
        has, wants = common[name], given[name]
        if wants != has and (name, wants) != ("device", "auto"):
            raise ProtocolMismatch(
                f"the engine runs with {name} = {has!r}, this process wants {wants!r}",
                hint="start the engine with the same settings: meld engine restart",
            )
    values = {name: value for name, value in given.items() if name in free}
    guarded = {name: getattr(own, name) for name in GUARDED}  # the engine's own, checked before
    parsed, _ = resolve({**guarded, **values}, {})
    answer = replace(own.answer, **{n: getattr(parsed.answer, n) for n in values if n not in OWN})
    outer = {name: getattr(parsed, name) for name in values if name in OWN}
    return replace(own, **outer, answer=answer)
