"""Knowledge sources by name, and what each knows about the items of a question.

    none            no knowledge
    dak             the schemas themselves: what they say of tables and columns an item mentions
    eak, eak:NAME   examples out of all knowledge bases of the workspace, or out of one
    wikidata, wikipedia, snomed     remote services, if the setting ``remote`` allows them

Names joined by ``+`` make one source. Paper: KcMF §3.3, B2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.kcmf.dataset import SchemaKnowledge
from meld_duckdb.kcmf.items import Item
from meld_duckdb.kcmf.keywords import may_be_sent
from meld_duckdb.kcmf.sentences import examples_as_knowledge
from meld_duckdb.planner.flights import letting_others
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record, digest
from meld_duckdb.retrieval.bases import KnowledgeBase
from meld_duckdb.retrieval.store import Store

if TYPE_CHECKING:
    from meld_duckdb.retrieval.remote import RemoteKnowledge

NO_KNOWLEDGE = "none"
DATASET = "dak"
EXAMPLES = "eak"
REMOTE = ("wikidata", "wikipedia", "snomed")
KNOWN = (NO_KNOWLEDGE, DATASET, EXAMPLES, *REMOTE)

LEAST_ALIKE = 0.7
"""Cosine from which on a term of an embedded base is taken for a word that it does not have."""

_VERSION = "knowledge/1"
_KEPT = 8

Sentences = dict[str, tuple[str, ...]]
"""What is known about items, by their record's digest."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source knows about items.

    Attributes:
        sentences: By the digest of the item's record.
        failures: Why a service could not be asked about an item now, likewise.
    """

    sentences: Sentences = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A knowledge source.

    Attributes:
        name: As it was given.
        dataset: Whether the schemas themselves belong to it.
        bases: Knowledge bases that belong to it.
        services: Remote services that belong to it.
        endpoints: Their addresses, in the same order.
    """

    name: str
    dataset: bool = False
    bases: tuple[KnowledgeBase, ...] = ()
    services: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    @property
    def looks_up(self) -> bool:
        """Whether keywords are looked up in it."""
        return bool(self.bases or self.services)

    @property
    def digest(self) -> str:
        """Identity of what it can say, but for what a service learns in time."""
        parts = (f"{base.name} {base.digest} {base.encoder}" for base in self.bases)
        return digest(_VERSION, self.name, *parts, *self.services, *self.endpoints)


class Sources:
    """Looks knowledge up.

    Args:
        tables: Where the schemas of a question are.
        bases: The knowledge bases of the workspace of these names; all for None.
        store: Where their facts are.
        likeness: How terms of embedded bases are found that have another name.
        remote: The client of remote services, made on first use.
        endpoint: Address of a service, a part of what its answers depend on.
    """

    def __init__(
        self,
        tables: Tables,
        bases: Callable[[Collection[str] | None], Sequence[KnowledgeBase]],
        store: Callable[[], Store],
        likeness: Likeness,
        remote: Callable[[], RemoteKnowledge],
        endpoint: Callable[[str], str],
    ) -> None:
        self._tables = tables
        self._bases = bases
        self._store = store
        self._likeness = likeness
        self._remote = remote
        self._endpoint = endpoint
        self._schemas: dict[tuple[str, ...], SchemaKnowledge] = {}

    def choose(self, kind: str, names: Sequence[str] | None) -> tuple[Source, ...]:
        """The sources of a call.

        Args:
            kind: ``"schema_match"`` or ``"entity_match"``.
            names: As given. None for a vote each of no knowledge, the schemas and the knowledge
                bases; of what there is: without bases the schemas alone (for entities nothing),
                for entities with bases these alone, because two votes tie.

        Raises:
            ConfigError: A source is unknown, makes no sense here, or has nothing to ask.
            InputError: There is no such knowledge base.
        """
        if names is not None:
            return tuple(self._read(parts) for parts in read_names(kind, names))
        examples = [EXAMPLES] if self._bases(None) else []
        if kind == "schema_match":
            chosen = [NO_KNOWLEDGE, DATASET, EXAMPLES] if examples else [DATASET]
        else:
            chosen = examples or [NO_KNOWLEDGE]
        return tuple(self._read((name,)) for name in chosen)

    def _read(self, parts: Sequence[str]) -> Source:
        bases: dict[str, KnowledgeBase] = {}
        for part in parts:
            name, _, base = part.partition(":")
            if name == EXAMPLES:
                found = self._bases([base] if base else None)
                bases.update((b.name, b) for b in found)
        if any(part.startswith(EXAMPLES) for part in parts) and not bases:
            raise ConfigError(
                "option 'sources': 'eak' is given, but the workspace has no knowledge base",
                hint="add one: meld kb load icd10cm, or meld kb add NAME FILE",
            )
        services = tuple(part for part in parts if part in REMOTE)
        return Source(
            "+".join(parts),
            DATASET in parts,
            tuple(bases.values()),
            services,
            tuple(self._endpoint(service) for service in services),
        )

    def lookup(
        self, source: Source, keywords: Mapping[str, Sequence[str]], items: Mapping[str, Item]
    ) -> Found:
        """What bases and services say about the keywords of items.

        A service is sent only what `keywords.may_be_sent` lets through.

        Args:
            source: The source.
            keywords: By the digest of the item's record.
            items: The items, likewise.
        """
        said: dict[str, list[tuple[str, ...]]] = {key: [] for key in keywords}
        failed: dict[str, str] = {}
        for base in source.bases:
            wanted = list(dict.fromkeys(w for words in keywords.values() for w in words))
            known = self._from_base(base, wanted)
            for key, words in keywords.items():
                said[key] += [known[word] for word in words if word in known]
        for service in source.services:
            sendable = {
                key: [w for w in words if may_be_sent(w, items[key].name, items[key].description)]
                for key, words in keywords.items()
            }
            wanted = list(dict.fromkeys(w for words in sendable.values() for w in words))
            with letting_others():  # a service may take seconds
                told = self._remote().facts(service, wanted)
            for key, words in sendable.items():
                said[key] += [told[word].sentences for word in words]
                passing = [told[word].error for word in words if told[word].passing]
                if passing:
                    failed[key] = f"{service}: {passing[0]}"
        return Found({key: merge_sentences(parts) for key, parts in said.items()}, failed)

    def known(self, bases: Sequence[KnowledgeBase], phrases: Sequence[str]) -> list[bool]:
        """Which phrases name a term of one of the bases."""
        found = [False] * len(phrases)
        for base in bases:
            these = self._store().known_terms(base.name, phrases)
            found = [a or b for a, b in zip(found, these, strict=True)]
        return found

    def of_schemas(self, context: Context, items: Sequence[Record]) -> tuple[str, ...]:
        """What the schemas of a question say about what its items mention."""
        return self._schema(context).about(items) if context else ()

    def stands_in(self, record: Record, table: str) -> bool:
        """Whether a record is a row of a table, by the table's digest."""
        return record.digest in self._tables.index(table).position

    def _from_base(self, base: KnowledgeBase, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Sentences about the terms that words name, exactly or, in an embedded base, nearly."""
        facts = self._store().facts_of(base.name, words)
        terms = {word: facts[word][0].term for word in words if facts.get(word)}
        for word, term in self._likeness.terms(base, [w for w in words if w not in terms]).items():
            facts[word], terms[word] = self._store().facts_of(base.name, [term])[term], term
        return {
            word: examples_as_knowledge(term, facts[word], base.hierarchy)
            for word, term in terms.items()
        }

    def _schema(self, context: Context) -> SchemaKnowledge:
        key = tuple(sorted(set(context)))
        if key not in self._schemas:
            while len(self._schemas) >= _KEPT:
                self._schemas.pop(next(iter(self._schemas)))
            records = (r for table in key for r in self._tables.index(table).records)
            self._schemas[key] = SchemaKnowledge(records)
        return self._schemas[key]


class Likeness:
    """Finds terms that go by another name, in bases embedded by the encoder of now.

    Args:
        encoder_digest: Identity of that encoder.
        encode: Embeds texts.
        store: Where the facts are.
    """

    def __init__(
        self,
        encoder_digest: Callable[[], str],
        encode: Callable[[Sequence[str]], np.ndarray],
        store: Callable[[], Store],
    ) -> None:
        self._encoder_digest = encoder_digest
        self._encode = encode
        self._store = store

    def terms(self, base: KnowledgeBase, words: Sequence[str]) -> dict[str, str]:
        """The term most alike to each word, where one is alike enough."""
        if not words or not base.encoder or base.encoder != self._encoder_digest():
            return {}
        found = self._store().likeliest_term(base.name, self._encode(words), LEAST_ALIKE)
        pairs = zip(words, found, strict=True)
        return {word: term for word, term in pairs if term is not None}


def merge_sentences(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """One list of sentences, each once: the first of every part, then the second, and so on."""
    longest = max((len(part) for part in parts), default=0)
    in_turn = (part[i] for i in range(longest) for part in parts if i < len(part))
    return tuple(dict.fromkeys(in_turn))


def read_names(kind: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts of sources as they were given, each source once; no base is looked for.

    Raises:
        ConfigError: A source is unknown or makes no sense here.
    """
    if not names:
        raise ConfigError(
            "option 'sources' is an empty list, expected one source at least",
            hint="'none' is the source without knowledge",
        )
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for given in names:
        parts = tuple(dict.fromkeys(part.strip().lower() for part in given.split("+")))
        for part in parts:
            _check_part(kind, part)
        if NO_KNOWLEDGE in parts and len(parts) > 1:
            raise ConfigError(
                f"option 'sources': {given!r} joins 'none' with others",
                hint="make it a source of its own: ['none', 'dak']",
            )
        found.setdefault(frozenset(parts), parts)
    return list(found.values())


def _check_part(kind: str, part: str) -> None:
    name, colon, base = part.partition(":")
    if name not in KNOWN or (colon and (name != EXAMPLES or not base)):
        what, hint = unknown_name("source", part, KNOWN)
        raise ConfigError(f"option 'sources': {what}", hint=hint)
    if name == DATASET and kind != "schema_match":
        raise ConfigError(
            "option 'sources': 'dak' is about schemas, not about entities",
            hint="give entities knowledge by 'eak' (see meld kb) or 'none'",
        )
