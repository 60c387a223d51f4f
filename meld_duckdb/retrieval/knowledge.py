"""Facts of knowledge bases in the store: found by name first, then by likeness."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

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
    vector_matrix,
)
from meld_duckdb.retrieval.search import search

_COLUMNS = ("key", "term", "relation", "object", "text")

_LOOKUP = 5_000
"""Names looked up by one query."""

_AT_ONCE = 1_024
"""Queries by vector compared with a batch of facts in one go."""


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
        named = self._named(base, [term_key(text) for text in texts], k)
        return [
            _first(chain(((row, True) for row in exact), ((row, False) for row in near)), k)
            for exact, near in zip(named, like, strict=True)
        ]

    def facts_of(self, base: str, names: Sequence[str], most: int = 200) -> dict[str, list[Fact]]:
        """Facts of the terms that go by each name, in order of their keys.

        Memory is bounded by ``most``, however many facts a term has and terms go by a name.

        Args:
            base: Name of the knowledge base.
            names: Exact terms or aliases.
            most: Facts per name at most, those with the lowest keys; and terms per name at most,
                beside that of the name itself.
        """
        facts: dict[str, list[Fact]] = {}
        for part in _parts(list(dict.fromkeys(names))):
            named = self._named(base, list(map(term_key, part)), most)
            for name, rows in zip(part, named, strict=True):
                first = heapq.nsmallest(most, rows, key=lambda row: str(row["key"]))
                facts[name] = [_fact(row) for row in first]
        return facts

    def known_terms(self, base: str, texts: Sequence[str]) -> list[bool]:
        """Whether each text is a term of a base, or another name of one."""
        keys = [storable(term_key(text)) or "" for text in texts]
        wanted = set(keys) - {""}
        found: set[str] = set()
        for part in _parts(sorted(wanted)):
            either = f"({sql_in('term_key', part)} OR {sql_in('alias_key', part)})"
            for batch in self._facts(base, either, ("term_key", "alias_key")):
                for column in batch.columns:
                    found.update(wanted.intersection(column.to_pylist()))
        return [key in found for key in keys]

    def likeliest_term(self, base: str, vectors: np.ndarray, least: float) -> list[str | None]:
        """The term of the fact whose text is most like each query; ties by the fact's key.

        Every fact of the base is compared, by no index, so other bases make no difference.

        Args:
            base: Name of the knowledge base.
            vectors: float32 [n, d], L2-normalised.
            least: Cosine in [-1, 1], to four places, that the fact has at least.

        Returns:
            None where no fact is that like, or none has a vector of this encoder.
        """
        best: list[tuple[float, str, str | None]] = [(-2.0, "", None)] * len(vectors)
        own = f"encoder = {sql_text(self._encoder)} AND vector IS NOT NULL"
        columns = ("key", "term", "vector")
        for batch in self._facts(base, own, columns) if len(vectors) else ():
            keys = np.asarray(batch.column("key").to_pylist(), dtype=np.str_)
            order = np.argsort(keys)
            rows = vector_matrix(pa.chunked_array([batch.column("vector")]), self._dimension)[order]
            for start in range(0, len(vectors), _AT_ONCE):
                like = np.round(vectors[start : start + _AT_ONCE] @ rows.T, 4)
                for i, j in enumerate(like.argmax(axis=1), start):  # the first of equals
                    found, key = float(like[i - start, j]), str(keys[order[j]])
                    if (-found, key) < (-best[i][0], best[i][1]):
                        best[i] = (found, key, batch.column("term")[int(order[j])].as_py())
        # float32 of the least is compared, as the cosines are float32, too
        return [term if found >= np.float32(least) else None for found, _, term in best]

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

    def knowledge_state(self) -> tuple[str, str, int]:
        """What all facts depend on: where they are, the encoder, and the version of the table."""
        table = self._open("knowledge")
        return str(self.lance.path), self._encoder, 0 if table is None else int(table.version)

    def _facts(self, base: str, where: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The facts of a base that pass a filter, some columns of them, part by part."""
        table = self._open("knowledge")
        if table is not None:
            where = f"base = {sql_text(base)} AND {where}"
            yield from self._batches("knowledge", table, where, columns)

    def _named(self, base: str, keys: Sequence[str], most: int) -> list[list[dict[str, Any]]]:
        """For each name facts of the terms that go by it: by term, then in order of their keys.

        Of a term there are at most ``most`` facts; of the terms that have the name as an alias,
        the first ``most``.
        """
        distinct = [storable(key) or "" for key in dict.fromkeys(keys)]
        others: dict[str, list[str]] = {key: [] for key in distinct}
        names = ("term_key", "alias_key")
        for batch in self._facts(base, sql_in("alias_key", distinct), names):
            for term, alias in zip(*(batch.column(n).to_pylist() for n in names), strict=True):
                if term != alias:
                    _keep_first(others[alias], term, most)
        terms = {key: sorted({key, *others[key]}) for key in distinct}
        by_term = self._first_facts(base, sorted(set(chain.from_iterable(terms.values()))), most)
        return [
            [row for term in terms[storable(key) or ""] for row in by_term.get(term, [])]
            for key in keys
        ]

    def _first_facts(
        self, base: str, terms: Sequence[str], most: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Of each term the facts with the lowest keys, in order of these."""
        first: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for part in _parts(terms):
            where = sql_in("term_key", part)
            for batch in self._facts(base, where, (*_COLUMNS, "term_key")):
                keys, names = (batch.column(n).to_pylist() for n in ("key", "term_key"))
                for i, (key, name) in enumerate(zip(keys, names, strict=True)):
                    rows = first.setdefault(name, [])
                    if len(rows) < most or key < rows[-1][0]:
                        row = {column: batch.column(column)[i].as_py() for column in _COLUMNS}
                        insort(rows, (key, row), key=lambda pair: pair[0])
                        del rows[most:]
        return {name: [row for _, row in rows] for name, rows in first.items()}


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


def _keep_first(kept: list[str], text: str, most: int) -> None:
    """Add a text to a list that is in order, has each once, and keeps the first ``most``."""
    i = bisect_left(kept, text)
    if i < most and kept[i : i + 1] != [text]:
        kept.insert(i, text)
        del kept[most:]


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[i : i + _LOOKUP] for i in range(0, len(names), _LOOKUP))
