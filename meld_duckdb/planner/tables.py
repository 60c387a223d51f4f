"""Table context at query time: which indexed table a record stands in, and that table in memory.

A table is loaded from LanceDB when the first query needs its context, and kept (least recently
used first out). Table functions lend their tables for the time of a call instead of indexing them.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from meld_duckdb.errors import ArtefactMissing
from meld_duckdb.features.columns import TableProfile
from meld_duckdb.features.context import PairTables, TableIndex
from meld_duckdb.features.impute import ImputeIndex
from meld_duckdb.features.schema_match import SchemaContext
from meld_duckdb.records import Record, is_key_column
from meld_duckdb.retrieval.catalogue import Catalogue, content_digest
from meld_duckdb.tasks.base import Query

Context = tuple[str, ...]
"""Table digests of a query's records, in the order of the records; empty for no context."""

_KEPT = 8
_T = TypeVar("_T")


class Tables:
    """Looks up contexts and keeps the tables they name. Safe for threads."""

    def __init__(self, catalogue: Catalogue, load: Callable[[str], Sequence[Record]]) -> None:
        self._catalogue = catalogue
        self._load = load
        self._lock = threading.RLock()
        self._lent: dict[str, Sequence[Record]] = {}
        self._borrowers: Counter[str] = Counter()
        self._indexes: OrderedDict[str, TableIndex] = OrderedDict()
        self._pairs: OrderedDict[str, PairTables] = OrderedDict()
        self._profiles: OrderedDict[str, TableProfile] = OrderedDict()
        self._schemas: OrderedDict[str, SchemaContext] = OrderedDict()
        self._contents: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._impute: OrderedDict[str, ImputeIndex] = OrderedDict()

    def find(self, queries: Sequence[Query]) -> list[Context]:
        """Find the context of each query.

        Records of a pair prefer two different tables over one table twice, then the table indexed
        last; a pair of which one record is in no indexed table has no context. A single record
        that is in no indexed table takes the newest one with its columns: it may be a new row.
        """
        homes = self._catalogue.memberships(r for q in queries for r in q.records)
        contexts = [_choose([homes.get(r.digest, ()) for r in q.records]) for q in queries]
        for i, query in enumerate(queries):
            if not contexts[i] and len(query.records) == 1:
                similar = self._catalogue.same_shape(query.records[0])
                contexts[i] = (similar,) if similar else ()
        return contexts

    @contextmanager
    def lend(self, tables: Mapping[str, Sequence[Record]]) -> Iterator[None]:
        """Make tables known by digest for the time of a ``with`` block; blocks may overlap."""
        with self._lock:
            self._lent.update(tables)
            self._borrowers.update(tables.keys())
        try:
            yield
        finally:
            with self._lock:
                self._borrowers.subtract(tables.keys())
                for digest in tables:
                    if self._borrowers[digest] <= 0:
                        self._lent.pop(digest, None)

    def index(self, digest: str) -> TableIndex:
        """The table with a digest, ready for look-ups by record."""
        with self._lock:
            return _keep(self._indexes, digest, lambda: self._build(digest))

    def position(self, digest: str, record: Record) -> int | None:
        """Where a record stands in a table, as a whole or by its content without keys."""
        index = self.index(digest)
        at = index.position.get(record.digest)
        if at is not None:
            return at
        with self._lock:
            contents = _keep(
                self._contents,
                digest,
                lambda: {content_digest(r): i for i, r in reversed(list(enumerate(index.records)))},
            )
        return contents.get(content_digest(record))

    def own_record(self, digest: str, record: Record) -> Record:
        """The table's own row for a record, so that it is no evidence for itself; else the record.

        A record with key columns is only its own row if they agree; equal content elsewhere is a
        duplicate, and evidence.
        """
        index = self.index(digest)
        at = index.position.get(record.digest)
        if at is None and not any(is_key_column(name) for name in record.fields):
            at = self.position(digest, record)
        return record if at is None else index.records[at]

    def pair(self, left: str, right: str) -> PairTables:
        """Two tables with a digest each, ready for context features of pairs."""
        with self._lock:
            return _keep(
                self._pairs,
                f"{left}/{right}",
                lambda: PairTables(self.index(left), self.index(right)),
            )

    def schema(
        self, left: str, right: str, vectors: Callable[[Sequence[Record]], dict[str, np.ndarray]]
    ) -> SchemaContext:
        """Two tables of schema columns (or one twice), embedded by ``vectors`` on first use."""
        first, second = sorted((left, right))
        with self._lock:
            return _keep(
                self._schemas,
                f"{first}/{second}",
                lambda: self._build_schema(first, second, vectors),
            )

    def profile(self, digest: str) -> TableProfile:
        """The column statistics of the table with a digest."""
        with self._lock:
            return _keep(self._profiles, digest, lambda: TableProfile(self.index(digest).records))

    def impute_index(self, digest: str, column: str) -> ImputeIndex | None:
        """The rows of a table that hold a value in a column; None where none does."""
        with self._lock:
            index = _keep(
                self._impute,
                f"{digest}/{column}",
                lambda: ImputeIndex(self.index(digest).records, column),
            )
        return index if index.records else None

    def _build_schema(
        self, left: str, right: str, vectors: Callable[[Sequence[Record]], dict[str, np.ndarray]]
    ) -> SchemaContext:
        first, second = self.index(left).records, self.index(right).records
        return SchemaContext(first, second, vectors([*first, *second]))

    def _build(self, digest: str) -> TableIndex:
        records = self._lent.get(digest)
        if records is None:
            records = self._load(digest)
            if not records:
                raise ArtefactMissing(
                    "the rows of an indexed table are gone from the workspace",
                    hint="index it again: FROM meld.index('name')",
                )
        return TableIndex(records)


def _choose(homes: list[tuple[str, ...]]) -> Context:
    if not all(homes):
        return ()
    if len(homes) == 1:
        return (homes[0][0],)
    left, right = homes
    different = ((a, b) for a in left for b in right if a != b)
    return next(different, (left[0], right[0]))


def _keep(kept: OrderedDict[str, _T], key: str, build: Callable[[], _T]) -> _T:
    if key not in kept:
        kept[key] = build()
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
