"""What a workspace may set by its ``meld.toml``: not where data and secrets go, unless trusted.

A workspace may come from elsewhere: in a repository that was cloned, an archive, a directory of
another user. Its settings must not send rows to an address of its own, nor a file of this user's as
a key along with them. So settings of that kind are taken from arguments and the environment, and
from a ``meld.toml`` only after ``meld config trust``. What was trusted is noted in a file of the
user's as the digest of the path and of these settings: any change of them has to be trusted anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from meld_duckdb.errors import ConfigError
from meld_duckdb.records import digest

GUARDED = frozenset(
    {
        "engine_address",
        "engine_tls_cert",
        "engine_token_file",
        "openai_key_env",
        "openai_key_file",
        "openai_url",
        "remote",
        "snomed_url",
        "wikidata_sparql_url",
        "wikidata_url",
        "wikipedia_url",
        "workspace",
    }
)
"""Settings that say where data goes, or where a secret is read."""


def check_settings(
    toml: Path, given: Mapping[str, object], held: Collection[str], trusted: Path
) -> None:
    """Refuse guarded settings of a ``meld.toml`` that was not trusted as it is.

    Args:
        toml: The file.
        given: What it says.
        held: The settings that hold because it says so; arguments and environment come first.
        trusted: File of what this user trusts.

    Raises:
        ConfigError: It was not trusted.
    """
    guarded = sorted(GUARDED.intersection(held))
    if guarded and _identity(toml, given) not in _read(trusted):
        raise ConfigError(
            f"{toml} says where data or secrets go ({', '.join(guarded)}), and was not trusted on "
            "this machine as it is",
            hint=f"look at it, then: meld config trust --workspace {toml.parent}; or set "
            f"{', '.join(f'MELD_{key.upper()}' for key in guarded)} instead",
        )


def check_default(workspace: Path) -> None:
    """Refuse the workspace of the working directory if it belongs to another user.

    Whoever goes into a directory of others does not mean to work with what they put there.

    Raises:
        ConfigError: It does.
    """
    try:
        owner = workspace.stat().st_uid
    except OSError:
        return
    if hasattr(os, "geteuid") and owner != os.geteuid():
        raise ConfigError(
            f"the workspace {workspace.absolute()} belongs to user {owner}, not to this one",
            hint=f"name it if you mean it: --workspace {workspace}, or MELD_WORKSPACE",
        )


def trust(toml: Path, given: Mapping[str, object], trusted: Path) -> list[str]:
    """Note that the guarded settings of a ``meld.toml`` may hold.

    Args:
        toml: The file.
        given: What it says.
        trusted: File of what this user trusts; made if it is not there, for this user alone.

    Returns:
        The guarded settings, as they are written in TOML.

    Raises:
        ConfigError: It cannot be noted.
    """
    known, identity = _read(trusted), _identity(toml, given)
    try:
        trusted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(trusted, "a", opener=lambda path, _: os.open(path, flags, 0o600)) as file:
            if identity not in known:
                file.write(f"{identity}\n")
    except OSError as error:
        raise ConfigError(f"{trusted} cannot be written: {error.strerror or error}") from error
    return [f"{key} = {given[key]!r}" for key in sorted(GUARDED & given.keys())]


def _identity(toml: Path, given: Mapping[str, object]) -> str:
    """Digest of where a file is and what it says of the guarded settings."""
    said = (part for key in sorted(GUARDED & given.keys()) for part in (key, str(given[key])))
    return digest("trusted/1", str(toml.resolve()), *said)


def _read(trusted: Path) -> frozenset[str]:
    """Digests of what is trusted; none where the file is not this user's alone."""
    try:
        found = trusted.stat()
        if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
            return frozenset()
        return frozenset(trusted.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError):
        return frozenset()
