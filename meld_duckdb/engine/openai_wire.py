"""HTTP to an OpenAI-compatible server: the second door to httpx, and the only way prompts leave.

Requests run in one event loop in a thread of its own, so that many wait at once and one that nobody
wants any more is broken off, which lets the server stop computing. What fails for the moment (no
connection, 429, 5xx) is tried again, later each time, until the time of the request is up. The key
is sent in a header and told to nobody else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import random
import threading
import urllib.parse
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from meld_duckdb import safe_json
from meld_duckdb.errors import EngineError, EngineTimeout, EngineUnavailable

if TYPE_CHECKING:
    import httpx

_PASSING = frozenset({408, 429, 500, 502, 503, 504, 529})
_NO_ENTRY = frozenset({401, 403})
_CONNECT_S = 10.0
_MOST_WAIT_S = 20.0
_TRIES = 6
_SHOWN = 300

_T = TypeVar("_T")


class Refused(Exception):
    """The server says that it will not or cannot do what it was asked.

    Attributes:
        status: The status.
        message: What it says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


@dataclass(slots=True)
class Usage:
    """What was sent and received since the engine was opened."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait.

    Attributes:
        timeout_s: Seconds for a request and all its repetitions.
        backoff_s: Seconds before the first repetition, twice as many before each next one.
        tries: Most repetitions, the first one included.
    """

    timeout_s: float = 300.0
    backoff_s: float = 0.5
    tries: int = _TRIES


class Wire:
    """Connections to one server. Safe for threads.

    Args:
        url: Its address, with ``/v1`` where it has that.
        key: Its key, None without one.
        concurrency: Requests at once, at most.
        patience: How long to wait.
    """

    def __init__(self, url: str, key: str | None, concurrency: int, patience: Patience) -> None:
        self.url = url.rstrip("/")
        self.usage = Usage()
        self._key = key
        self._concurrency = concurrency
        self._patience = patience
        self._random = random.Random()
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Run a coroutine in the loop; cancelling the future breaks its request off."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self.submit(self._client.aclose()).result(_CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CONNECT_S)
        self._loop.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request to ``url`` and give the JSON that is answered; see `ask`."""
        return await self.ask("POST", f"{self.url}{path}", body)

    async def ask(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request and give the JSON that is answered, None where it is none.

        Raises:
            Refused: The server does not want to.
            EngineUnavailable: It cannot be reached, fails again and again, or wants another key.
            EngineTimeout: The time is up.
        """
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._concurrency)
        async with self._slots:
            try:
                async with asyncio.timeout(self._patience.timeout_s):
                    return await self._try(method, url, body)
            except TimeoutError:
                raise EngineTimeout(
                    f"the server {self.url} gave no answer within {self._patience.timeout_s:g} s",
                    hint="raise openai_timeout_s, or lower openai_concurrency",
                ) from None

    async def _try(self, method: str, url: str, body: Mapping[str, Any] | None) -> Any:
        """Repeat a request until it is answered, refused, or has failed too often."""
        import httpx

        for number in range(self._patience.tries):
            self.usage.requests += 1
            self.usage.retries += number > 0
            failure: Exception | None = None
            try:
                reply = await self._opened().request(method, url, json=body)
            except (httpx.TransportError, httpx.DecodingError) as error:
                failure, said, later = error, f"{type(error).__name__} {error}".rstrip(), None
            else:
                if reply.status_code not in _PASSING:
                    return self._read(reply)
                said, later = f"status {reply.status_code}", reply.headers.get("retry-after")
            if number + 1 < self._patience.tries:
                await asyncio.sleep(self._pause(number, later))
        raise EngineUnavailable(
            f"the server {self.url} failed {self._patience.tries} times in a row: {said}",
            hint="is it running? The settings openai_url and openai_concurrency say where it is "
            "and how much it is asked at once",
        ) from failure

    def _pause(self, number: int, later: str | None) -> float:
        """Seconds until the next repetition, what the server asks for included."""
        grown = self._patience.backoff_s * 2.0**number * self._random.uniform(0.8, 1.2)
        asked = float(later) if later is not None and later.strip().isdecimal() else 0.0
        return min(max(grown, asked), max(_MOST_WAIT_S, asked))

    def _read(self, reply: httpx.Response) -> Any:
        if reply.status_code in _NO_ENTRY:
            raise EngineUnavailable(
                f"the server {self.url} refuses {'the' if self._key else 'requests without a'} key "
                f"(status {reply.status_code})",
                hint="openai_key_file names a file with the key, openai_key_env an environment "
                "variable",
            )
        if reply.is_redirect:
            raise EngineUnavailable(
                f"the server {self.url} sends requests elsewhere (status {reply.status_code})",
                hint="set openai_url to where it really is",
            )
        if reply.is_error:
            raise Refused(reply.status_code, _message(reply, self._key))
        try:
            is_json = reply.content.lstrip()[:1] in (b"{", b"[")
            return safe_json.loads(reply.content) if is_json else None
        except ValueError as error:
            raise EngineError(
                f"the server {self.url} answered with damaged JSON: {error}",
                hint="is openai_url the address of an OpenAI-compatible server?",
            ) from error

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(self._patience.timeout_s, connect=_CONNECT_S),
                limits=httpx.Limits(max_connections=self._concurrency),
                trust_env=not is_loopback(self.url),
            )
        return self._client


def is_loopback(url: str) -> bool:
    """Tell whether an address is on this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _message(reply: httpx.Response, key: str | None) -> str:
    """What a refusal says, in one short line, without the key that some servers repeat."""
    said: Any = reply.text
    try:
        said = safe_json.loads(reply.content)
        for name in ("error", "message", "detail"):
            said = said.get(name, said) if isinstance(said, dict) else said
    except ValueError:
        pass
    line = " ".join(str(said).split())
    if key:
        line = line.replace(key, "(the key)")
    return line[:_SHOWN] + ("..." if len(line) > _SHOWN else "")
