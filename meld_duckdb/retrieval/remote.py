"""The client of remote knowledge, the only door to httpx: what leaves the machine leaves here.

Only keywords are sent, one per request, and only to services that the setting ``remote`` allows.
A failure is data: no sentences and a reason. No call takes longer than its deadline, which grows
with the number of keywords, since every request runs in a thread that is left behind when its time
is up. A service that fails again and again is left alone for a while, by all calls.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import socket
import threading
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.retrieval import remote_sources as sources
from meld_duckdb.retrieval.remote_breaker import Breaker
from meld_duckdb.retrieval.remote_cache import RemoteCache
from meld_duckdb.retrieval.remote_call import (
    Again,
    Call,
    Failed,
    Limits,
    Means,
    RemoteFacts,
    Reply,
    Sent,
    Slots,
    Timing,
)
from meld_duckdb.setting_checks import REMOTE_SERVICES, complain
from meld_duckdb.settings import Settings

if TYPE_CHECKING:
    import httpx

__all__ = ["Limits", "RemoteFacts", "RemoteKnowledge", "Timing"]

_NOTICED = 100
"""Keywords to be asked about beyond which a call says how long that takes."""

_GZIP = 16 + zlib.MAX_WBITS
_CONNECTED = (".connect_tcp.complete", ".start_tls.complete")


class RemoteKnowledge:
    """Knowledge of remote services, each answer kept on disk. Safe for many threads.

    The threads that share one of these share its rate limit and what they know of services that
    fail, so a process needs only one.

    Args:
        settings: What is allowed, and where the services are.
        cache_path: The file of `RemoteCache`.
        notice: Told when a service is left alone, a call will take long, or its time was too short.
        limits: How patient to be.
        timing: Clock and sleep.
    """

    def __init__(
        self,
        settings: Settings,
        cache_path: Path,
        notice: Callable[[str], None],
        *,
        limits: Limits | None = None,
        timing: Timing | None = None,
    ) -> None:
        limits = limits or Limits()
        self._settings = settings
        self._cache = RemoteCache(cache_path)
        self._means = Means(
            limits=limits,
            timing=timing or Timing(),
            slots=Slots(limits.per_second),
            breaker=Breaker(limits.break_after, limits.cool_down_s),
            open_line=lambda: _Line(settings.remote_contact, limits.max_bytes),
            notice=notice,
        )

    def facts(self, service: str, keywords: Sequence[str]) -> dict[str, RemoteFacts]:
        """Ask a service about keywords, those it was not asked about before.

        Args:
            service: One of `settings.REMOTE_SERVICES`.
            keywords: Cleaned before they are sent; blank ones and those of more than 100
                characters are not sent.

        Returns:
            An entry per distinct keyword, as it was given.

        Raises:
            ConfigError: The service is unknown or not allowed, or its address cannot be used.
            KeyboardInterrupt: There was an interruption; what was answered is kept.
        """
        self._check(service)
        cleaned = {keyword: sources.clean_keyword(keyword) for keyword in keywords}
        told: dict[str, RemoteFacts] = {}
        for keyword in cleaned.values():
            reason = sources.refusal(keyword)
            if reason:
                told[keyword] = RemoteFacts((), f"not sent: {reason}")
        wanted = [keyword for keyword in dict.fromkeys(cleaned.values()) if keyword not in told]
        where = sources.endpoint(service, self._settings)
        for keyword, sentences in self._cache.get(service, where, wanted).items():
            told[keyword] = RemoteFacts(sentences, None)
        missing = [keyword for keyword in wanted if keyword not in told]
        told.update(self._failed_lately(service, missing))
        missing = [keyword for keyword in missing if keyword not in told]
        call = Call(service, len(missing), self._settings, self._means)
        self._announce(service, len(missing), call.least_s)
        try:
            for keyword in missing:
                told[keyword] = call.ask(keyword)
                if told[keyword].error is None:
                    self._cache.put(service, where, keyword, told[keyword].sentences)
        finally:
            call.close()
        return {keyword: told[cleaned[keyword]] for keyword in cleaned}

    def close(self) -> None:
        """Close the file of the cache."""
        self._cache.close()

    def _failed_lately(self, service: str, keywords: Sequence[str]) -> dict[str, RemoteFacts]:
        """Those keywords that the service failed to answer just now, and why."""
        now = self._means.timing.clock()
        failed = self._means.breaker.failed_lately(service, keywords, now)
        return {
            k: RemoteFacts((), failure.reason, failure.passing) for k, failure in failed.items()
        }

    def _announce(self, service: str, n_keywords: int, seconds: float) -> None:
        """Say how long a call takes that asks about many keywords."""
        is_open = self._means.breaker.is_open(service, self._means.timing.clock())
        if n_keywords > _NOTICED and not is_open:
            about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
            self._means.notice(f"asking {service} about {n_keywords:,} keywords, about {about}")

    def _check(self, service: str) -> None:
        if service not in REMOTE_SERVICES:
            what, hint = unknown_name("service", service, REMOTE_SERVICES)
            raise ConfigError(what, hint=hint)
        allowed = self._settings.remote_services
        if service not in allowed:
            value = ",".join([*allowed, service])
            raise ConfigError(
                f"the service {service!r} must not be asked: the setting 'remote' is "
                f"{self._settings.remote!r}",
                hint=f'to send keywords to it, write remote = "{value}" into meld.toml or set '
                f"MELD_REMOTE={value}",
            )
        names = sources.endpoint_settings(service)
        values = {name: getattr(self._settings, name) for name in names}
        values["remote_contact"] = self._settings.remote_contact
        for name, value in values.items():
            expected = complain(name, value)
            if expected:
                raise ConfigError(f"setting {name!r} is {value!r}, expected {expected}")


class _Line:
    """A client of httpx and its sockets; see `remote_call.Line`.

    The time-outs of httpx count from byte to byte, and finding a host has none. So the one who
    waits gives up by the clock: the sockets are shut, which ends the thread, and where there is
    no socket yet the thread ends by itself.
    """

    def __init__(self, contact: str, max_bytes: int) -> None:
        self.given_up = False
        self._contact = contact
        self._max_bytes = max_bytes
        self._client: httpx.Client | None = None
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._busy = False

    def send(self, url: str, accept: str, timeout_s: float) -> Sent:
        sent = Sent()
        self._busy = True
        arguments = (sent, url, accept, timeout_s)
        threading.Thread(target=self._run, args=arguments, name="meld-remote", daemon=True).start()
        return sent

    def give_up(self) -> None:
        with self._lock:
            self.given_up = True
            for connection in self._sockets:
                _shut(connection)
            self._close_idle()

    def close(self) -> None:
        with self._lock:
            self._close_idle()

    def _close_idle(self) -> None:
        if self._client is not None and not self._busy:
            self._client.close()
            self._client = None

    def _run(self, sent: Sent, url: str, accept: str, timeout_s: float) -> None:
        import httpx

        try:
            sent.reply = self._exchange(url, accept, timeout_s)
        except Failed as failure:
            sent.failure = failure
        except httpx.TimeoutException:
            sent.failure = Again("timeout")
        except httpx.TransportError as error:
            sent.failure = Again(f"connection failed ({type(error).__name__})")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
            # A proxy or certificate that the environment names and that cannot be used.
            sent.failure = Failed(f"cannot be sent ({type(error).__name__})")
        finally:
            with self._lock:
                self._busy = False
                if self.given_up:
                    self._close_idle()
            sent.done.set()

    def _exchange(self, url: str, accept: str, timeout_s: float) -> Reply:
        if self._client is None:
            self._client = _client(self._contact)
        request = self._client.build_request(
            "GET",
            url,
            headers={"Accept": accept},
            timeout=timeout_s,
            extensions={"trace": self._watch},
        )
        response = self._client.send(request, stream=True, follow_redirects=False)
        try:
            status = response.status_code
            location = response.headers.get("location") if response.is_redirect else None
            body = self._body(response) if status == 200 else b""
            return Reply(status, body, location, response.headers.get("retry-after"))
        finally:
            response.close()

    def _body(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_raw():
            size += len(part)
            if size > self._max_bytes:
                raise self._too_long()
            parts.append(part)
        body = b"".join(parts)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"gzip", "x-gzip"}:
            return self._unpacked(body)
        if encoding not in {"", "identity"}:
            raise Failed("the answer has another encoding than asked for")
        return body

    def _unpacked(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            plain = unpacker.decompress(body, self._max_bytes + 1)
        except zlib.error as error:
            raise Failed("the answer is not packed as it says") from error
        if len(plain) > self._max_bytes:
            raise self._too_long()
        return plain

    def _too_long(self) -> Failed:
        return Failed(f"the answer is longer than {self._max_bytes:,} bytes")

    def _watch(self, event: str, info: dict[str, Any]) -> None:
        """Remember the sockets that are opened; a hook of httpx named trace."""
        if event.endswith(_CONNECTED):
            connection = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.append(connection)
                if self.given_up:
                    _shut(connection)


def _client(contact: str) -> httpx.Client:
    """A client that tells of itself its name, and keeps no cookies."""
    import httpx

    try:
        own = version("meld-duckdb")
    except PackageNotFoundError:
        own = "0"
    contact = "" if contact == "none" else f" ({contact})"
    client = httpx.Client(
        headers={
            "User-Agent": f"meld-duckdb/{own}{contact} httpx/{httpx.__version__}",
            "Accept-Language": "en",
            "Accept-Encoding": "gzip",
        }
    )
    client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    return client


def _shut(connection: socket.socket) -> None:
    """Wake who reads from a socket. Its own ``shutdown`` would forget that it is encrypted."""
    with contextlib.suppress(OSError, TypeError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
