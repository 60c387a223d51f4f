"""Values that settings may have: addresses, names that become part of a request, numbers."""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection

from meld_duckdb.errors import ConfigError, unknown_name

REMOTE_SERVICES = ("wikidata", "wikipedia", "snomed")
"""Services that the setting ``remote`` may allow; see `retrieval.remote`."""


def complain(key: str, value: str) -> str | None:
    """What the setting ``key`` expected of an address or name, where ``value`` is not that."""
    if key == "engine_address":
        good = value == "workspace" or _is_address(value, {"tls", "tcp"}, with_port=True)
        return None if good else "workspace, tls://HOST:PORT or tcp://HOST:PORT"
    if key.endswith("_url"):
        good = _is_address(value) or (key, value) == ("openai_url", "none")
        return None if good else "an http or https address, no user, no query"
    if key == "snomed_branch":
        parts = value.split("/")
        good = all(part.strip(".") and part.isascii() and part.isprintable() for part in parts)
        return None if good else "a branch such as MAIN"
    if key == "remote_contact":
        good = value.isascii() and value.isprintable() and len(value) <= 100
        return None if good else "an e-mail or web address of at most 100 ASCII characters"
    if key.endswith("_percent"):
        return None if int(value) <= 100 else "a percentage"
    return None


def _is_address(
    value: str, schemes: Collection[str] = ("http", "https"), *, with_port: bool = False
) -> bool:
    try:
        parts = urllib.parse.urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    plain = value.isascii() and value.isprintable() and not set(value) & set(" @?#")
    if with_port and (port is None or parts.path):
        return False
    return plain and parts.scheme in schemes and bool(parts.hostname) and port != 0


def check_services(value: str, source: str) -> None:
    """Refuse a setting ``remote`` that is no list of services.

    Raises:
        ConfigError: It is none.
    """
    services = [part.strip().lower() for part in value.split(",")]
    for service in services:
        if service not in {*REMOTE_SERVICES, "none"}:
            what, hint = unknown_name("service", service, [*REMOTE_SERVICES, "none"])
            raise ConfigError(f"{what} in setting 'remote' in {source}", hint=hint)
    if "none" in services and len(services) > 1:
        raise ConfigError(f"setting 'remote' in {source} is {value!r}, expected none alone")
