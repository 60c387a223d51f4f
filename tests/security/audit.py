"""``make audit``: every library of an installation fits, has a licence that permits, and no advisory.

    python -m tests.security.audit             # what is installed; needs no network
    python -m tests.security.audit --online    # also what PyPI knows of vulnerabilities

A library without a licence that is known here, or one that does not fit, is a failure. Without an
answer of the index the audit says so and goes on: advisories are no part of what it promises then.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "meld-duckdb"
INDEX = "https://pypi.org/pypi/{name}/{version}/json"
WAIT_S = 10.0
_GIVE_UP = 3
"""Failures after which an index that gave no answer yet is asked no more."""

PERMITTING = frozenset(
    "0BSD Apache-2.0 BSD-1-Clause BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 CNRI-Python HPND ISC "
    "LicenseRef-PublicDomain MIT MIT-0 MIT-CMU MPL-2.0 PSF-2.0 Python-2.0 Python-2.0.1 Unicode-3.0 "
    "Unlicense Zlib ZPL-2.1".split()
)
"""SPDX identifiers of licences under which a library may be used and passed on with any product."""

FORMS: tuple[tuple[str, str], ...] = (
    (r"apache", "Apache-2.0"),
    (r"\bmit\b|\bexpat\b", "MIT"),
    (r"3-clause|new bsd|modified bsd|bsd-3", "BSD-3-Clause"),
    (r"2-clause|simplified bsd|bsd-2", "BSD-2-Clause"),
    (r"\bbsd\b", "BSD-3-Clause"),
    (r"mozilla public license.*2|mpl[- ]?2", "MPL-2.0"),
    (r"python software foundation|psf", "PSF-2.0"),
    (r"\bisc\b", "ISC"),
    (r"unlicen[cs]e", "Unlicense"),
    (r"zlib", "Zlib"),
    (r"public domain", "LicenseRef-PublicDomain"),
    (r"historical permission|hpnd", "HPND"),
)
"""How licences are named where no SPDX expression is, the first that fits counts."""

READ: Mapping[str, str] = {}
"""Libraries whose metadata name no licence, with the one in their files: to be read by a person."""


@dataclass(frozen=True, slots=True)
class Library:
    """One library of the installation.

    Attributes:
        name: Canonical name.
        version: Installed version.
        licence: SPDX expression, or what the metadata say; empty for nothing.
        asked_by: A library that needs it.
    """

    name: str
    version: str
    licence: str
    asked_by: str


def closure(root: str = PRODUCT) -> tuple[list[Library], list[str]]:
    """All that a base installation brings, and what of it is missing or does not fit."""
    found: dict[str, Library] = {}
    wrong: list[str] = []
    waiting = [(root, frozenset[str](), root)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras, asked_by = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed, {asked_by} needs it")
            continue
        library = Library(name, distribution.version, licence_of(distribution.metadata), asked_by)
        found.setdefault(name, library)
        for needed in _needed(distribution.requires or (), extras):
            inner = canonicalize_name(needed.name)
            waiting.append((inner, frozenset(needed.extras), name))
            version = _version(inner)
            if version and not needed.specifier.contains(version, prereleases=True):
                wrong.append(f"{inner} {version} is installed, {name} needs {needed.specifier}")
    return sorted(found.values(), key=lambda library: library.name), sorted(wrong)


def _needed(requires: Iterable[str], extras: frozenset[str]) -> Iterator[Requirement]:
    for text in requires:
        needed = Requirement(text)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in (*extras, "")):
            yield needed


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def licence_of(about: metadata.PackageMetadata) -> str:
    """The licence as metadata say it: an SPDX expression, else classifiers, else a free text."""
    fields = {key.lower(): value for key, value in about.items()}
    if expression := fields.get("license-expression"):
        return str(expression)
    own = (v for k, v in about.items() if k.lower() == "classifier")
    named = [c.split("::")[-1].strip() for c in own if c.startswith("License ::")]
    texts = [text for text in named if text != "OSI Approved"] or [fields.get("license", "")]
    found = list(dict.fromkeys(filter(None, map(_spdx, texts))))
    return " AND ".join(found) if len(found) == len(texts) else " / ".join(texts)[:80].strip()


def _spdx(text: str) -> str | None:
    if text.strip() in PERMITTING:
        return text.strip()
    short = " ".join(text.split())[:200].lower()
    return next((spdx for form, spdx in FORMS if re.search(form, short)), None)


def permits(expression: str) -> bool:
    """Whether an SPDX expression permits use: of what ``OR`` joins one, else all have to."""
    words = iter([*re.findall(r"[\w.+-]+|[()]", expression), ""])
    word = next(words)

    def step() -> str:
        nonlocal word
        before, word = word, next(words, "")
        return before

    def one() -> bool:
        if word == "(":
            step()
            found = either()
            return step() == ")" and found
        found = step() in PERMITTING
        if word.upper() == "WITH":  # an exception permits more, not less
            step()
            step()
        return found

    def both() -> bool:
        found = one()
        while word.upper() == "AND":
            step()
            found = one() and found
        return found

    def either() -> bool:
        found = both()
        while word.upper() == "OR":
            step()
            found = both() or found
        return found

    return either() and word == ""


def advisories(library: Library, fetch: Callable[[str], bytes]) -> list[str]:
    """What the index knows of vulnerabilities of a library that are not withdrawn.

    Raises:
        OSError: The index does not answer.
        ValueError: It answers something else.
    """
    found = json.loads(fetch(INDEX.format(name=library.name, version=library.version)))
    return [
        f"{library.name} {library.version}: {known['id']}"
        + (f", mended in {', '.join(known['fixed_in'])}" if known.get("fixed_in") else "")
        for known in found.get("vulnerabilities") or ()
        if not known.get("withdrawn")
    ]


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=WAIT_S) as reply:
        body: bytes = reply.read()
        return body


def _known(libraries: Iterable[Library], fetch: Callable[[str], bytes]) -> tuple[list[str], str]:
    """Advisories of all libraries, and one line on how many the index told about."""
    found: list[str] = []
    told = failed = 0
    for library in libraries:
        if library.name == PRODUCT:
            continue
        try:
            found += advisories(library, fetch)
            told += 1
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            failed += 1  # a build of one's own, such as torch +cpu, is not on the index
            if not told and failed == _GIVE_UP:
                return [], f"not looked up, the index gives none: {type(error).__name__} {error}"
    return found, f"the index told about {told} libraries"


def main(arguments: list[str] | None = None, fetch: Callable[[str], bytes] = _fetch) -> int:
    """Print the audit; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--online", action="store_true", help="ask PyPI about vulnerabilities")
    parser.add_argument("--list", action="store_true", help="print every library")
    given = parser.parse_args(arguments)
    libraries, wrong = closure()
    for library in libraries:
        licence = READ.get(library.name, library.licence)
        if given.list:
            print(f"{library.name:<28}{library.version:<18}{licence or '?'}")
        if not permits(licence):
            wrong.append(
                f"{library.name} {library.version} has the licence {licence or 'unknown'!r}, "
                f"{library.asked_by} needs it"
            )
    said = "not asked for (--online)"
    if given.online:
        known, said = _known(libraries, fetch)
        wrong += known
    for line in wrong:
        print(f"wrong: {line}")
    print(
        f"{len(libraries)} libraries of a base installation, {len(wrong)} wrong; advisories: {said}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
