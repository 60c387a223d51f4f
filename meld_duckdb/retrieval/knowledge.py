"""Facts of knowledge bases in the store: found by name first, then by likeness."""

from __future__ import annotations

from collections.abc import Sequence
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


class Knowledge(RowStore):
    """The table ``knowledge``: facts (term, relation, object) of named bases."""

    def add_knowledge(
        self, base: str, facts: Sequence[Fact], vectors: np.ndarray | None = None
    ) -> None:
        """Add facts to a base; one that is there already is replaced.

        Args:
            base: Name of the knowledge base.
            facts: The facts. One with the relation ``alias`` gives another name of its term.
            vectors: float32 [n, d], L2-normalised, of the facts' texts, or None for no vectors.
        """
        keys = [digest(base, f.term, f.relation, f.object, f.text) for f in facts]
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
        self._write("knowledge", rows)

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

    def remove_knowledge(self, base: str) -> int:
        """Forget a base; gives how many facts it had."""
        n_facts = self.count_knowledge(base)
        if n_facts:
            self._delete("knowledge", f"base = {sql_text(base)}")
        return n_facts

    def count_knowledge(self, base: str) -> int:
        """Number of facts of a base."""
        return self._count("knowledge", f"base = {sql_text(base)}")

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
        fact = Fact(row["term"], row["relation"], row["object"], row["text"])
        similarity.setdefault(row["key"], None)
        if row.get("similarity") is not None:
            similarity[row["key"]] = row["similarity"]
        found.setdefault(row["key"], FoundFact(fact, None, exact))
    return [FoundFact(f.fact, similarity[key], f.exact) for key, f in list(found.items())[:k]]
