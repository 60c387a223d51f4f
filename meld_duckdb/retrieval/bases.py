"""Which knowledge bases a workspace has: a manifest each, written when all its facts are stored.

A complete base has ``<workspace>/knowledge/NAME.json``. While facts are added to it or removed,
that file is called ``NAME.adding``, and the base counts as absent. The file of a base that is new
is empty until then.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, InputError, unknown_name
from meld_duckdb.records import digest, plain_text
from meld_duckdb.retrieval.schema import ALIAS, Fact, term_key
from meld_duckdb.workspace import write_atomic

if TYPE_CHECKING:
    from meld_duckdb.retrieval.knowledge import Knowledge

RawFact = tuple[str | None, str | None, str | None, str | None]
"""Term, relation, object and text of a fact as it was read; the text may be left out."""

_FORMAT = "meld-knowledge/1"
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_SUFFIX, _ADDING = ".json", ".adding"
_MOST_HELD = 1_000


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """Manifest of a knowledge base.

    Attributes:
        name: Its name.
        hierarchy: Relations that lead from a broader term to a narrower one.
        n_facts: Number of its facts.
        digest: Digest of its facts and hierarchy, whatever their order.
        source: Where its facts come from, for people.
        licence: Licence of the facts; empty where none was told.
        created_from: The files and packages that were read, in order.
        created_at: When it was written, in UTC.
        encoder: Digest of the encoder of its vectors; empty where not all facts have one.
    """

    name: str
    hierarchy: tuple[str, ...]
    n_facts: int
    digest: str
    source: str
    licence: str
    created_from: tuple[str, ...]
    created_at: dt.datetime
    encoder: str = ""


def check_name(name: str) -> str:
    """Give back a name that a base may have.

    Raises:
        InputError: It may not.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"{name[:80]!r} cannot be the name of a knowledge base",
            hint="a name has up to 64 of the characters a-z, 0-9, _ and -, for example icd10cm",
        )
    return name


def check_hierarchy(relations: Iterable[str]) -> tuple[str, ...]:
    """Give back the relations of a hierarchy, each once, in order.

    Raises:
        InputError: One is blank, or means something else.
    """
    known = tuple(dict.fromkeys(relation.strip() for relation in relations))
    for relation in known:
        if not relation or relation.casefold() == ALIAS:
            raise InputError(
                f"the relation {relation!r} cannot lead from a broader term to a narrower one",
                hint=f"{ALIAS} gives other names; name the relation whose objects are narrower",
            )
    return known


def clean(
    term: str | None, relation: str | None, object_: str | None, text: str | None
) -> Fact | str:
    """A fact as it is stored, or in words why the row is none.

    Space around the parts is cut off. ``alias`` is known in any case of its letters. A fact
    without a text reads "<term> <relation> <object>".
    """
    parts = [(part or "").strip() for part in (term, relation, object_, text)]
    term, relation, object_, text = parts
    if relation.casefold() == ALIAS:
        relation = ALIAS
    if not term_key(term):
        return "without a term"
    if not plain_text(relation):
        return "without a relation"
    if not (term_key(object_) if relation == ALIAS else plain_text(object_)):
        return "without an object"
    return Fact(term, relation, object_, text or f"{term} {relation} {object_}")


def content_digest(keys: Collection[bytes], hierarchy: Collection[str]) -> str:
    """Digest of a base by the keys of its facts, whatever their order."""
    return digest(b"".join(sorted(keys)).hex(), *hierarchy)


def list_bases(folder: Path) -> list[KnowledgeBase]:
    """The complete bases of a workspace, by name.

    Raises:
        ArtefactCorrupt: A manifest is damaged.
    """
    return [_read(folder, name) for name in _names(folder)]


def read_base(folder: Path, name: str) -> KnowledgeBase:
    """The manifest of a base.

    Args:
        folder: Where the manifests are.
        name: Name of the base.

    Raises:
        InputError: There is no such base, or not yet all of it.
        ArtefactCorrupt: Its manifest is damaged.
    """
    check_name(name)
    if (folder / f"{name}{_SUFFIX}").is_file():
        return _read(folder, name)
    if is_being_added(folder, name):
        raise InputError(
            f"the knowledge base {name!r} is not complete: facts are being added, or a run that "
            "added some was stopped",
            hint=f"go on: meld kb add {name} SOURCE, or meld kb load",
        )
    what, hint = unknown_name("knowledge base", name, _names(folder))
    raise InputError(what, hint=f"{hint}; make it: meld kb add {name} SOURCE")


def unfinished_base(folder: Path, name: str) -> KnowledgeBase | None:
    """What a base was before facts were added to it; None where it is new.

    Raises:
        ArtefactCorrupt: Its manifest is damaged.
    """
    if (folder / f"{name}{_SUFFIX}").is_file():
        return _read(folder, name)
    if is_being_added(folder, name) and (folder / f"{name}{_ADDING}").stat().st_size:
        return _read(folder, name, _ADDING)
    return None


def is_being_added(folder: Path, name: str) -> bool:
    """Whether facts are being added to a base, or a run that added some was stopped."""
    paths = [folder / f"{name}{suffix}" for suffix in (_SUFFIX, _ADDING)]
    return [path.is_file() for path in paths] == [False, True]


def write_base(folder: Path, base: KnowledgeBase) -> None:
    """Write the manifest of a base whose facts are all stored.

    Raises:
        ArtefactError: It cannot be written.
    """
    content = {"format": _FORMAT, **asdict(base), "created_at": base.created_at.isoformat()}
    with _writing(folder):
        folder.mkdir(exist_ok=True)
        path = folder / f"{base.name}{_SUFFIX}"
        write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False))
        path.with_suffix(_ADDING).unlink(missing_ok=True)


def suspend_base(folder: Path, name: str) -> None:
    """Let a base count as not complete from now on, until its manifest is written."""
    path = folder / f"{name}{_SUFFIX}"
    with _writing(folder):
        if path.is_file():
            path.replace(path.with_suffix(_ADDING))
        elif not is_being_added(folder, name):
            folder.mkdir(exist_ok=True)
            write_atomic(path.with_suffix(_ADDING), "")


def remove_base(folder: Path, name: str) -> bool:
    """Remove the manifest of a base, also a damaged one; tells whether there was one."""
    paths = [folder / f"{check_name(name)}{suffix}" for suffix in (_SUFFIX, _ADDING)]
    found = [path for path in paths if path.is_file()]
    with _writing(folder):
        for path in found:
            path.unlink(missing_ok=True)
    return bool(found)


@dataclass(frozen=True, slots=True)
class _Held:
    """What the store holds of a base."""

    n_facts: int
    digest: str
    all_embedded: bool


_HELD: dict[tuple[object, ...], _Held] = {}
_HOLDING = threading.Lock()


def check_facts(base: KnowledgeBase, store: Knowledge) -> KnowledgeBase:
    """Look whether the facts of a base are those of its manifest.

    They are read once per version of their table and process.

    Returns:
        The base; without an encoder where not all its facts have a vector of the store's.

    Raises:
        ArtefactCorrupt: They are not, for example because the workspace was rolled back.
    """
    held = _held(base, store)
    if held.digest != base.digest:
        raise misfit(base, held.n_facts)
    return base if held.all_embedded else replace(base, encoder="")


def misfit(base: KnowledgeBase, n_facts: int) -> ArtefactCorrupt:
    """Word that the ``n_facts`` stored facts of a base are not those of its manifest."""
    got = f"has {n_facts} facts, expected {base.n_facts}"
    if n_facts == base.n_facts:
        got = f"has other facts than the {n_facts} that were added"
    return ArtefactCorrupt(
        f"the knowledge base {base.name!r} {got}; the workspace was rolled back, or its index is "
        "damaged",
        hint=f"make it anew from {', '.join(base.created_from)}: meld kb add {base.name} SOURCE "
        "--replace (or meld kb load); or meld workspace rollback",
    )


def usable_bases(
    folder: Path, store: Knowledge, names: Collection[str] | None = None
) -> list[KnowledgeBase]:
    """The bases of a workspace, by name, after a look whether their facts are there.

    Args:
        folder: Where the manifests are.
        store: Where the facts are.
        names: Only these, so that others may be damaged; None for all that are complete.

    Returns:
        As `check_facts` gives them.

    Raises:
        InputError: There is no base of a name, or not yet all of it.
        ArtefactCorrupt: A manifest is damaged, or facts are gone.
    """
    wanted = _names(folder) if names is None else sorted(set(names))
    return [check_facts(read_base(folder, name), store) for name in wanted]


def _held(base: KnowledgeBase, store: Knowledge) -> _Held:
    key = (*store.knowledge_state(), base.name, base.hierarchy)
    with _HOLDING:
        if key not in _HELD:
            facts = store.stored_facts(base.name)
            digest_ = content_digest(facts, base.hierarchy)
            while len(_HELD) >= _MOST_HELD:
                del _HELD[next(iter(_HELD))]
            _HELD[key] = _Held(len(facts), digest_, all(facts.values()))
        return _HELD[key]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtefactError(
            f"the manifests in {folder} cannot be written: {error.strerror or error}",
            hint="make space, or see meld doctor, and run it again; stored facts are kept",
        ) from error


def _names(folder: Path) -> list[str]:
    stems = (path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}"))
    return sorted(stem for stem in stems if _NAME.fullmatch(stem))


def _read(folder: Path, name: str, suffix: str = _SUFFIX) -> KnowledgeBase:
    path = folder / f"{name}{suffix}"
    try:
        given: dict[str, Any] = safe_json.read(path)
        if given["format"] != _FORMAT or given["name"] != name:
            raise ValueError(f"it is a {given['format']} of {given['name']}")
        return KnowledgeBase(
            name,
            _texts(given["hierarchy"]),
            int(given["n_facts"]),
            _text(given["digest"]),
            _text(given["source"]),
            _text(given["licence"]),
            _texts(given["created_from"]),
            dt.datetime.fromisoformat(given["created_at"]),
            _text(given["encoder"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactCorrupt(
            f"the manifest {path} is damaged: {error}",
            hint=f"make the base anew: meld kb add {name} SOURCE --replace (or meld kb load); or "
            f"forget it: meld kb remove {name}",
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(map(_text, value))
