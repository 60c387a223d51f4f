"""Knowledge sources by name, and what each knows about the items of a question.

    none            no knowledge
    dak             the schemas themselves: what they say of tables and columns an item mentions
    eak, eak:NAME   examples out of all knowledge bases of the workspace, or out of one
    wikidata, wikipedia, snomed     remote services, if the setting ``remote`` allows them

Names joined by ``+`` make one source. Paper: KcMF §3.3, B2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.kcmf.dataset import SchemaKnowledge
from meld_duckdb.kcmf.items import Item
from meld_duckdb.kcmf.sentences import examples_as_knowledge
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

_VERSION = "knowledge/1"
_KEPT = 8

Sentences = dict[str, tuple[str, ...]]
"""What is known about items, by their record's digest."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source knows about items.

    Attributes:
        sentences: By the digest of the item's record.
        failures: Why a service could not be asked about an item, likewise.
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
    """

    name: str
    dataset: bool = False
    bases: tuple[KnowledgeBase, ...] = ()
    services: tuple[str, ...] = ()

    @property
    def looks_up(self) -> bool:
        """Whether keywords are looked up in it."""
        return bool(self.bases or self.services)

    @property
    def digest(self) -> str:
        """Identity of what it can say, remote services aside."""
        parts = (f"{base.name} {base.digest}" for base in self.bases)
        return digest(_VERSION, self.name, str(self.dataset), *parts, *self.services)


class Sources:
    """Looks knowledge up.

    Args:
        tables: Where the schemas of a question are.
        bases: The knowledge bases of the workspace.
        store: Where their facts are.
        remote: The client of remote services, made on first use.
    """

    def __init__(
        self,
        tables: Tables,
        bases: Callable[[], Sequence[KnowledgeBase]],
        store: Callable[[], Store],
        remote: Callable[[], RemoteKnowledge],
    ) -> None:
        self._tables = tables
        self._bases = bases
        self._store = store
        self._remote = remote
        self._schemas: dict[tuple[str, ...], SchemaKnowledge] = {}

    def choose(self, kind: str, names: Sequence[str] | None) -> tuple[Source, ...]:
        """The sources of a call.

        Args:
            kind: ``"schema_match"`` or ``"entity_match"``.
            names: As given; None for no knowledge, the schemas (for columns) and the knowledge
                bases (if there are any), one vote each.

        Raises:
            ConfigError: A source is unknown, or makes no sense here.
        """
        bases = tuple(self._bases())
        if names is None:
            names = [NO_KNOWLEDGE, *([DATASET] if kind == "schema_match" else [])]
            names += [EXAMPLES] if bases else []
        if not names:
            raise ConfigError(
                "option 'sources' is an empty list, expected one source at least",
                hint="'none' is the source without knowledge",
            )
        return tuple(_read(kind, name, bases) for name in names)

    def lookup(self, source: Source, keywords: Mapping[str, Sequence[str]]) -> Found:
        """What bases and services say about the keywords of items, by the items' digests."""
        wanted = list(dict.fromkeys(word for words in keywords.values() for word in words))
        said: dict[str, list[str]] = {word: [] for word in wanted}
        failed: dict[str, str] = {}
        for base in source.bases:
            for word, sentences in self._from_base(base, wanted).items():
                said[word].extend(sentences)
        for service in source.services:
            for word, facts in self._remote().facts(service, wanted).items():
                said[word].extend(facts.sentences)
                if facts.error is not None:
                    failed[word] = f"{service}: {facts.error}"
        return Found(
            {
                item: tuple(dict.fromkeys(s for word in words for s in said[word]))
                for item, words in keywords.items()
            },
            {
                item: next(failed[word] for word in words if word in failed)
                for item, words in keywords.items()
                if any(word in failed for word in words)
            },
        )

    def known(self, source: Source, phrases: Sequence[str]) -> list[bool]:
        """Which phrases name a term of one of its bases."""
        found = [False] * len(phrases)
        for base in source.bases:
            these = self._store().known_terms(base.name, phrases)
            found = [a or b for a, b in zip(found, these, strict=True)]
        return found

    def of_schemas(self, context: Context, items: Sequence[Record]) -> tuple[str, ...]:
        """What the schemas of a question say about what its items mention."""
        return self._schema(context).about(items) if context else ()

    def _from_base(self, base: KnowledgeBase, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        terms = self._store().nearest_term(base.name, words, None)
        named = {word: term for word, term in zip(words, terms, strict=True) if term is not None}
        facts = self._store().facts_of(base.name, list(dict.fromkeys(named.values())))
        return {
            word: examples_as_knowledge(term, facts.get(term, []), base.hierarchy)
            for word, term in named.items()
        }

    def _schema(self, context: Context) -> SchemaKnowledge:
        key = tuple(sorted(set(context)))
        if key not in self._schemas:
            while len(self._schemas) >= _KEPT:
                self._schemas.pop(next(iter(self._schemas)))
            records = (r for table in key for r in self._tables.index(table).records)
            self._schemas[key] = SchemaKnowledge(records)
        return self._schemas[key]


def merge_sentences(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """One list of sentences, each once: the first of every part, then the second, and so on."""
    longest = max((len(part) for part in parts), default=0)
    in_turn = (part[i] for i in range(longest) for part in parts if i < len(part))
    return tuple(dict.fromkeys(in_turn))


def about_items(pair: Sequence[Item], found: Sentences) -> tuple[str, ...]:
    """The sentences about both items of a pair, in turn."""
    return merge_sentences([found.get(item.record.digest, ()) for item in pair])


def _read(kind: str, given: str, bases: Sequence[KnowledgeBase]) -> Source:
    parts = [part.strip().lower() for part in given.split("+")]
    chosen: list[KnowledgeBase] = []
    for part in parts:
        name, colon, base = part.partition(":")
        if name not in KNOWN or (colon and name != EXAMPLES):
            what, hint = unknown_name("source", part, KNOWN)
            raise ConfigError(f"option 'sources': {what}", hint=hint)
        if name == NO_KNOWLEDGE and len(parts) > 1:
            raise ConfigError(
                f"option 'sources': {given!r} joins 'none' with others",
                hint="make it a source of its own: ['none', 'dak']",
            )
        if name == DATASET and kind != "schema_match":
            raise ConfigError(
                "option 'sources': 'dak' is about schemas, not about entities",
                hint="give entities knowledge by 'eak' (see meld kb) or 'none'",
            )
        if name == EXAMPLES:
            chosen += _named(base, bases) if colon else bases
    return Source(
        given,
        DATASET in parts,
        tuple({base.name: base for base in chosen}.values()),
        tuple(part for part in parts if part in REMOTE),
    )


def _named(name: str, bases: Sequence[KnowledgeBase]) -> list[KnowledgeBase]:
    found = [base for base in bases if base.name == name]
    if not found:
        what, hint = unknown_name("knowledge base", name, [base.name for base in bases])
        raise ConfigError(
            f"option 'sources': {what}", hint=hint if bases else "add one: meld kb add NAME FILE"
        )
    return found
