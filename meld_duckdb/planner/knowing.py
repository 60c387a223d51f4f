"""Knowledge bases of a workspace: facts are stored part by part, then the base is entered at once.

A run that was stopped is gone on with by running it again: what is stored is not stored twice.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.errors import ArtefactCorrupt, InputError
from meld_duckdb.planner.indexing import EMBEDDED_ROWS, Progress
from meld_duckdb.planner.loaded import Loaded
from meld_duckdb.retrieval.bases import (
    KnowledgeBase,
    RawFact,
    check_facts,
    check_hierarchy,
    check_name,
    clean,
    content_digest,
    is_being_added,
    misfit,
    read_base,
    remove_base,
    suspend_base,
    unfinished_base,
    usable_bases,
    write_base,
)
from meld_duckdb.retrieval.knowledge import fact_key
from meld_duckdb.retrieval.schema import Fact, FoundFact
from meld_duckdb.retrieval.store import Store
from meld_duckdb.settings import Settings

__all__ = ["About", "Added", "Knowing", "check_facts", "usable_bases"]

_PLAIN_ROWS = 20_000
_EMBEDDED_AT_ONCE = 64
_WITH_VECTOR, _SEEN = 1, 2
"""What is known of a stored fact: it has a vector; it was read by this run."""


@dataclass(frozen=True, slots=True)
class About:
    """What is to be noted of a base beside its facts; see `KnowledgeBase`."""

    source: str
    created_from: str
    hierarchy: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """Result of `Knowing.add`.

    Attributes:
        base: The base as it is now.
        n_read: Rows that were read.
        n_added: Facts that are new.
        n_there: Facts that were there before, also from a run that was stopped.
        n_duplicates: Rows that say the same as an earlier one.
        n_removed: Facts that were there before and are not among those read (`replace`).
        skipped: Rows that are no fact, by reason.
        relations: How many facts were read of each relation.
        seconds: How long it took.
    """

    base: KnowledgeBase
    n_read: int
    n_added: int
    n_there: int
    n_duplicates: int
    n_removed: int
    skipped: Mapping[str, int]
    relations: Mapping[str, int]
    seconds: float


class Knowing:
    """Adds, removes and searches the knowledge bases of a workspace.

    Args:
        loaded: The workspace, its store and encoder.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._folder = loaded.workspace.knowledge_path

    @property
    def settings(self) -> Settings:
        """Those of the workspace's session."""
        return self._loaded.settings

    def add(
        self,
        name: str,
        rows: Iterable[RawFact],
        about: About,
        *,
        embed: bool = False,
        replace_all: bool = False,
        n_rows: int = 0,
        progress: Progress | None = None,
    ) -> Added:
        """Add facts to a base, which is made if there is none.

        Args:
            name: Its name.
            rows: The facts as they were read; see `clean`.
            about: What is noted of them; a hierarchy and sources are added to those of before.
            embed: Whether to embed their texts.
            replace_all: Forget facts and hierarchy of before, unless they are given again.
            n_rows: How many rows there are, for ``progress``.
            progress: Called after every part that was written.

        Raises:
            InputError: The name or hierarchy cannot be, or there is no fact among the rows.
            ArtefactCorrupt: The facts of before are not those of the manifest.
            ArtefactError: The workspace cannot be written; what was stored is kept.
        """
        started = time.perf_counter()
        about = replace(about, hierarchy=check_hierarchy(about.hierarchy))
        check_name(name)
        with self._loaded.ledger.index_lock.hold():
            self._loaded.ledger.recover()
            before = None if replace_all else unfinished_base(self._folder, name)
            adding = _Adding(
                self._loaded.store,
                name,
                self._embed if embed else None,
                lambda: suspend_base(self._folder, name),
            )
            if not replace_all:
                self._check_before(before, adding)
            told = progress or (lambda done, total: None)
            adding.take_all(rows, lambda n_read: told(n_read, n_rows))
            adding.check_any(about.created_from)
            n_removed = self._settle(adding, replace_all)
            base = self._manifest(before, about, adding)
            write_base(self._folder, base)
        return adding.result(base, n_removed, time.perf_counter() - started)

    def _check_before(self, before: KnowledgeBase | None, adding: _Adding) -> None:
        """Refuse to add to facts of which the manifest says nothing, or something else."""
        name, n_facts = adding.name, len(adding.keys)
        if is_being_added(self._folder, name):
            return
        if before is None and n_facts:
            raise ArtefactCorrupt(
                f"there are {n_facts} facts of a knowledge base {name!r} that is not there; the "
                "workspace was rolled back to when it was",
                hint=f"keep only what is added now: meld kb add {name} SOURCE --replace (or meld "
                f"kb load); or forget them first: meld kb remove {name}",
            )
        if before is not None and content_digest(adding.keys, before.hierarchy) != before.digest:
            raise misfit(before, n_facts)

    def _settle(self, adding: _Adding, replace_all: bool) -> int:
        """Make one operation of what was added, and of forgetting what is not given any more."""
        ledger, history = self._loaded.ledger, self._loaded.catalogue.history
        stale = adding.unseen() if replace_all else []
        if not adding.has_written and not stale:
            return 0
        with ledger.write_lock.hold():
            ledger.recover()
            history.begin(f"knowledge {adding.name}")
            adding.remove(stale)
            self._finish(f"knowledge {adding.name}", self._loaded.store)
        return len(stale)

    def _finish(self, what: str, store: Store) -> None:
        history = self._loaded.catalogue.history
        store.lance.optimise("knowledge", force=True)
        store.lance.forget_before("knowledge", history.oldest_kept("knowledge"))
        history.finish(what, store.lance.versions(), store.lance.counts())

    def _manifest(
        self, before: KnowledgeBase | None, about: About, adding: _Adding
    ) -> KnowledgeBase:
        hierarchy, source, licence = about.hierarchy, about.source, about.licence
        created_from: tuple[str, ...] = (about.created_from,)
        if before is not None:
            hierarchy = tuple(dict.fromkeys([*before.hierarchy, *hierarchy]))
            source, licence = _both(before.source, source), _both(before.licence, licence)
            created_from = tuple(dict.fromkeys([*before.created_from, *created_from]))
        return KnowledgeBase(
            adding.name,
            hierarchy,
            len(adding.keys),
            content_digest(adding.keys, hierarchy),
            source,
            licence,
            created_from,
            dt.datetime.now(dt.UTC).replace(microsecond=0),
            self._loaded.encoder_digest if adding.all_embedded() else "",
        )

    def remove(self, name: str) -> int:
        """Forget a base, also one that is not complete; gives how many facts it had.

        Raises:
            InputError: There is no such base.
        """
        check_name(name)
        ledger = self._loaded.ledger
        store = ledger.open_store()
        with ledger.index_lock.hold(), ledger.write_lock.hold():
            ledger.recover()
            n_facts = store.count_knowledge(name)
            if not remove_base(self._folder, name) and not n_facts:
                read_base(self._folder, name)  # there is none: it says which there are
            if n_facts:
                self._loaded.catalogue.history.begin(f"remove knowledge {name}")
                store.remove_knowledge(name)
                self._finish(f"remove knowledge {name}", store)
        return n_facts

    def find(self, name: str, text: str, k: int) -> list[FoundFact]:
        """The facts of a base that say most about a text; by likeness too if it is embedded.

        Raises:
            InputError: There is no such base.
            ArtefactCorrupt: Facts of it are gone.
        """
        base = read_base(self._folder, name)
        store = self._loaded.store
        base = check_facts(base, store)
        same = base.encoder and base.encoder == self._loaded.encoder_digest
        vectors = self._embed([text]) if same else None
        return store.search_knowledge(name, [text], vectors, k)[0]

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
            interrupt.check()
            parts.append(self._loaded.encoder.encode(texts[start : start + _EMBEDDED_AT_ONCE]))
        return np.concatenate(parts)


class _Adding:
    """Facts of one base on their way into the store.

    Args:
        store: The store.
        name: Name of the base.
        embed: Gives float32 [n, d], L2-normalised, of texts; None to store no vectors.
        before_change: Called before the first change of the store.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        embed: Callable[[Sequence[str]], np.ndarray] | None,
        before_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.keys = {k: _WITH_VECTOR * has for k, has in store.stored_facts(name).items()}
        self.n_read = 0
        self.has_written = False
        self._store = store
        self._embed = embed
        self._before_change = before_change
        self._skipped: Counter[str] = Counter()
        self._relations: Counter[str] = Counter()
        self._n_added = self._n_there = self._n_duplicates = 0

    def take_all(self, rows: Iterable[RawFact], told: Callable[[int], None]) -> None:
        """Store the facts among rows part by part; tells how many were read, 0 at first."""
        told(0)
        for part in _parts(rows, EMBEDDED_ROWS if self._embed else _PLAIN_ROWS):
            interrupt.check()
            self.take(part)
            told(self.n_read)

    def take(self, rows: Sequence[RawFact]) -> None:
        """Store the facts among some rows that are not there as wanted."""
        fresh: list[Fact] = []
        again: list[Fact] = []
        for row in rows:
            fact = clean(*row)
            if isinstance(fact, str):
                self._skipped[fact] += 1
                continue
            key = bytes.fromhex(fact_key(self.name, fact))
            state = self.keys.get(key)
            if state is not None and state & _SEEN:
                self._n_duplicates += 1
                continue
            self._relations[fact.relation] += 1
            embeds = self._embed is not None
            if state is None:
                fresh.append(fact)
            elif embeds and not state & _WITH_VECTOR:
                again.append(fact)
            self._n_there += state is not None
            self.keys[key] = (state or 0) | _SEEN | _WITH_VECTOR * embeds
        self._write(fresh, fresh=True)
        self._write(again, fresh=False)
        self._n_added += len(fresh)
        self.n_read += len(rows)

    def _write(self, facts: Sequence[Fact], *, fresh: bool) -> None:
        if not facts:
            return
        vectors = None if self._embed is None else self._embed([fact.text for fact in facts])
        self._changes()
        self._store.add_knowledge(self.name, facts, vectors, fresh=fresh)

    def _changes(self) -> None:
        if not self.has_written:
            self._before_change()
            self.has_written = True

    def check_any(self, given: str) -> None:
        """Refuse rows without a fact."""
        if not sum(self._relations.values()):
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(self._skipped.items()))
            raise InputError(
                f"there is no fact in {given}: {reasons or 'it has no rows'}",
                hint="a fact has a term, a relation and an object, for example "
                "cholera, is a, infectious disease",
            )

    def unseen(self) -> list[bytes]:
        """Keys of stored facts that were not among the rows."""
        return [key for key, state in self.keys.items() if not state & _SEEN]

    def remove(self, keys: Sequence[bytes]) -> None:
        """Forget stored facts."""
        if keys:
            self._changes()
            self._store.remove_facts(self.name, keys)
            for key in keys:
                del self.keys[key]

    def all_embedded(self) -> bool:
        """Whether every fact of the base has a vector of the encoder."""
        return all(state & _WITH_VECTOR for state in self.keys.values())

    def result(self, base: KnowledgeBase, n_removed: int, seconds: float) -> Added:
        """What was done."""
        return Added(
            base,
            self.n_read,
            self._n_added,
            self._n_there,
            self._n_duplicates,
            n_removed,
            dict(self._skipped),
            dict(self._relations),
            seconds,
        )


def _parts(rows: Iterable[RawFact], n_rows: int) -> Iterator[list[RawFact]]:
    left = iter(rows)
    while part := list(islice(left, n_rows)):
        yield part


def _both(before: str, now: str) -> str:
    return "; ".join(dict.fromkeys(x for x in [*before.split("; "), now] if x))
