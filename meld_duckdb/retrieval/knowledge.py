"""Facts of knowledge bases in the store: found by name first, then by likeness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from meld_duckdb.records import digest
from meld_duckdb.retrieval.rows import RowStore
from meld_duckdb.retrieval.schema import (
    ALIAS,
    Fact,
    FoundFact,
    sql_in,
    sql_text,
    storable,
    term_key,
)
from meld_duckdb.retrieval.search import search

_COLUMNS = ("key", "term", "relation", "object", "text")

_LOOKUP = 5_000
"""Names looked up by one query."""


def fact_key(base: str, fact: Fact) -> str:
    """Key of a fact: a base has each fact once."""
    return digest(base, fact.term, fact.relation, fact.object, fact.text)


class Knowledge(RowStore):
    """The table ``knowledge``: facts (term, relation, object) of named bases."""

    def add_knowledge(
        self,
        base: str,
        facts: Sequence[Fact],
        vectors: np.ndarray | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Add facts to a base; one that is there already is replaced.

        Args:
            base: Name of the knowledge base.
            facts: The facts. One with the relation ``alias`` gives another name of its term.
            vectors: float32 [n, d], L2-normalised, of the facts' texts, or None for no vectors.
            fresh: None of these facts is there yet: they are appended, however many there are.
        """
        keys = [fact_key(base, fact) for fact in facts]
        chosen = list({key: i for i, key in enumerate(keys)}.values())  # each key once
        kept = [facts[i] for i in chosen]
        rows = self._rows(
            "knowledge",
            {
                "key": [keys[i] for i in chosen],
                "base": [base] * len(kept),
                "term": [storable(f.term) for f in kept],
                "relation": [storable(f.relation) for f in kept],
                "object": [storable(f.object) for f in kept],
                "text": [storable(f.text) for f in kept],
                "term_key": [storable(term_key(f.term)) for f in kept],
                "alias_key": [
                    storable(term_key(f.object)) if f.relation == ALIAS else None for f in kept
                ],
                "encoder": [None if vectors is None else self._encoder] * len(kept),
            },
            [None] * len(kept) if vectors is None else vectors[chosen],
        )
        self._write("knowledge", rows, fresh=fresh)

    def stored_facts(self, base: str) -> dict[bytes, bool]:
        """Keys of the facts of a base, in binary, and whether each has a vector."""
        table = self._open("knowledge")
        found: dict[bytes, bool] = {}
        if table is None:
            return found
        names, where = ["key", "encoder"], f"base = {sql_text(base)}"
        for batch in self._batches("knowledge", table, where, names):
            for key, encoder in zip(*(batch.column(n).to_pylist() for n in names), strict=True):
                found[bytes.fromhex(key)] = encoder is not None and encoder == self._encoder
        return found

    def search_knowledge(
        self, base: str, texts: Sequence[str], vectors: np.ndarray | None, k: int
    ) -> list[list[FoundFact]]:
        """The facts of a base that say most about each text.

        Facts whose term is the text, or has it as another name, come first; then those found by
        words and, where ``vectors`` are given, by likeness, fused by reciprocal rank.

        Args:
            base: Name of the knowledge base.
            texts: What is looked for, one per query.
            vectors: float32 [n, d], L2-normalised, of the texts; None to search by words alone.
            k: How many facts at most per query.
        """
        table = self._open("knowledge")
        if table is None or not texts or k < 1:
            return [[] for _ in texts]
        where = f"base = {sql_text(base)}"
        with self.lance.guard("knowledge"):
            like = search(table, k, _COLUMNS, where, self._encoder, vectors, texts)
        named = self._named(base, [term_key(text) for text in texts])
        return [
            _first(chain(((row, True) for row in exact), ((row, False) for row in near)), k)
            for exact, near in zip(named, like, strict=True)
        ]

    def facts_of(self, base: str, terms: Sequence[str]) -> dict[str, list[Fact]]:
        """All facts of the terms that go by each name, in order of their keys.

        Args:
            base: Name of the knowledge base.
            terms: Names: exact terms or aliases.
        """
        facts: dict[str, list[Fact]] = {}
        distinct = list(dict.fromkeys(terms))
        for part in _parts(distinct):
            for term, rows in zip(part, self._named(base, list(map(term_key, part))), strict=True):
                rows.sort(key=lambda row: str(row["key"]))
                facts[term] = [_fact(row) for row in rows]
        return facts

    def known_terms(self, base: str, texts: Sequence[str]) -> list[bool]:
        """Whether each text is a term of a base, or another name of one."""
        keys = [storable(term_key(text)) or "" for text in texts]
        found: set[str | None] = set()
        for row in self._exact(base, keys, ("term_key", "alias_key")):
            found.update(row.values())
        return [key != "" and key in found for key in keys]

    def nearest_term(
        self, base: str, texts: Sequence[str], vectors: np.ndarray | None
    ) -> list[str | None]:
        """The term of a base that each text names best; None where none has a word of it.

        A term of that name is better than one that has it as another name; where there is neither,
        it is the term of the fact that is found first by words and, with vectors, by likeness.

        Args:
            base: Name of the knowledge base.
            texts: What is looked for.
            vectors: float32 [n, d], L2-normalised, of the texts; None to search by words alone.
        """
        keys = [storable(term_key(text)) or "" for text in texts]
        best: dict[str, tuple[bool, str, str, str]] = {}
        for row in self._exact(base, keys, ("key", "term", "term_key", "alias_key")):
            for name, is_alias in ((row["term_key"], False), (row["alias_key"], True)):
                if name is not None:
                    rank = (is_alias, row["term_key"], row["key"], row["term"])
                    best[name] = min(best.get(name, rank), rank)
        found = [best[key][3] if key and key in best else None for key in keys]
        left = [i for i, term in enumerate(found) if term is None and keys[i]]
        table = self._open("knowledge")
        if table is None or not left:
            return found
        near = None if vectors is None else vectors[left]
        where, asked = f"base = {sql_text(base)}", [texts[i] for i in left]
        with self.lance.guard("knowledge"):
            hits = search(table, 1, ("key", "term"), where, self._encoder, near, asked)
        for i, rows in zip(left, hits, strict=True):
            found[i] = rows[0]["term"] if rows else None
        return found

    def remove_knowledge(self, base: str) -> int:
        """Forget a base; gives how many facts it had."""
        n_facts = self.count_knowledge(base)
        if n_facts:
            self._delete("knowledge", f"base = {sql_text(base)}")
        return n_facts

    def remove_facts(self, base: str, keys: Sequence[bytes]) -> None:
        """Forget some facts of a base, by the keys that `stored_facts` gives."""
        for part in _parts([key.hex() for key in keys]):
            self._delete("knowledge", f"base = {sql_text(base)} AND {sql_in('key', part)}")

    def count_knowledge(self, base: str) -> int:
        """Number of facts of a base."""
        return self._count("knowledge", f"base = {sql_text(base)}")

    def _exact(
        self, base: str, keys: Sequence[str], columns: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Facts whose term is one of some names, or that give one of them as another name."""
        table = self._open("knowledge")
        if table is None:
            return
        for part in _parts([key for key in dict.fromkeys(keys) if key]):
            names = f"({sql_in('term_key', part)} OR {sql_in('alias_key', part)})"
            where = f"base = {sql_text(base)} AND {names}"
            for batch in self._batches("knowledge", table, where, columns):
                yield from batch.to_pylist()

    def _named(self, base: str, keys: Sequence[str]) -> list[list[dict[str, Any]]]:
        """For each name the facts of the terms that go by it, in order of their keys."""
        distinct = [storable(key) or "" for key in dict.fromkeys(keys)]
        own = f"base = {sql_text(base)}"
        names = ("key", "term_key", "alias_key")
        terms: dict[str, set[str]] = {key: {key} for key in distinct}
        for row in self._dicts("knowledge", f"{own} AND {sql_in('alias_key', distinct)}", names):
            terms[row["alias_key"]].add(row["term_key"])
        wanted = sorted(set().union(*terms.values()))
        by_term: dict[str, list[dict[str, Any]]] = {}
        where = f"{own} AND {sql_in('term_key', wanted)}"
        for row in self._dicts("knowledge", where, (*_COLUMNS, "term_key")):
            by_term.setdefault(row["term_key"], []).append(row)
        return [
            [row for term in sorted(terms[storable(key) or ""]) for row in by_term.get(term, [])]
            for key in keys
        ]


def _first(rows: chain[tuple[dict[str, Any], bool]], k: int) -> list[FoundFact]:
    found: dict[str, FoundFact] = {}
    similarity: dict[str, float | None] = {}
    for row, exact in rows:
        fact = _fact(row)
        similarity.setdefault(row["key"], None)
        if row.get("similarity") is not None:
            similarity[row["key"]] = row["similarity"]
        found.setdefault(row["key"], FoundFact(fact, None, exact))
    return [FoundFact(f.fact, similarity[key], f.exact) for key, f in list(found.items())[:k]]


def _fact(row: dict[str, Any]) -> Fact:
    return Fact(row["term"], row["relation"], row["object"], row["text"])


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[i : i + _LOOKUP] for i in range(0, len(names), _LOOKUP))
