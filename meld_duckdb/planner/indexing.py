"""Indexing a table: its rows are embedded and stored part by part, then entered at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.planner.ledger import Ledger, as_entered
from meld_duckdb.records import Record
from meld_duckdb.retrieval.catalogue import Catalogue, IndexedTable, table_digest
from meld_duckdb.retrieval.store import Store, StoredTable

EMBEDDED_ROWS = 512
"""Rows written at once: an interruption or kill loses at most so many embeddings."""

_PLAIN_ROWS = 20_000
_NOTICED = 64
"""Rows to embed from which on a line says so."""

Progress = Callable[[int, int], None]
"""Called with the rows done and all rows, first with those that were done before."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """Result of `Indexer.index`.

    Attributes:
        name: The table, as given.
        n_entries: Number of its rows.
        n_embedded: Distinct rows that were embedded.
        digest: Digest of its content.
        seconds: How long it took.
        n_resumed: Rows that an earlier run had stored before it was stopped.
    """

    name: str
    n_entries: int
    n_embedded: int
    digest: str
    seconds: float
    n_resumed: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """Rows of a table in the order in which they are stored, and what is to be done with each."""

    records: list[Record]
    splits: list[str | None]
    stored: np.ndarray
    ready: np.ndarray


class Indexer:
    """Indexes tables of one session.

    Args:
        ledger: Records what was done.
        catalogue: Knows what is indexed.
        store: The store.
        encoder_digest: Of the encoder behind ``embed``.
        embed: Gives float32 [n, d], L2-normalised, of records of a table by its name.
        notice: Called with one line when something slow begins.
    """

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Catalogue,
        store: Store,
        encoder_digest: str,
        embed: Callable[[Sequence[Record], str], np.ndarray],
        notice: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._store = store
        self._encoder_digest = encoder_digest
        self._embed = embed
        self._notice = notice

    def index(
        self,
        name: str,
        records: Sequence[Record],
        *,
        embed: bool,
        split: str | None = None,
        progress: Progress | None = None,
    ) -> Indexed:
        """Index a table; see `Session.index`."""
        started = time.perf_counter()
        content = table_digest(records)
        self._ledger.recover()
        with self._ledger.index_lock.hold():
            entered = [t for t in self._catalogue.tables() if t.digest == content]
            if split is None:
                split = next((t.split_column for t in entered if t.split_column), None)
            splits = _splits(name, records, split)
            work = self._plan(content, records, splits, embed=embed)
            missing = self._missing(work) if embed else 0
            if missing > _NOTICED:
                self._notice(f"embedding {missing} rows of {name}, about {missing // 100 + 1} s")
            self._write(name, content, work, embed, progress)
            if any(t.encoder == self._encoder_digest for t in entered):
                embed = True
            encoder = self._encoder_digest if embed else ""
            column = "" if split is None else split
            table = StoredTable(name, content, len(records), 0, encoder, column)
            if not _newest(self._catalogue.tables(), table):
                self._ledger.enter_table(self._store, table, work.records)
        seconds = time.perf_counter() - started
        resumed = 0 if entered else int(work.ready.sum())
        return Indexed(name, len(records), missing, content, seconds, resumed)

    def _plan(
        self,
        content: str,
        records: Sequence[Record],
        splits: Sequence[str | None],
        *,
        embed: bool,
    ) -> _Work:
        """Find out which rows are there; rows that are, keep their positions."""
        stored = self._store.stored_rows(content)
        order = _arrange([r.digest for r in records], {p: row[0] for p, row in stored.items()})
        work = _Work(
            [records[i] for i in order],
            [splits[i] for i in order],
            np.zeros(len(order), dtype=bool),
            np.zeros(len(order), dtype=bool),
        )
        for position, (record, split, embedded) in stored.items():
            if position < len(order) and work.records[position].digest == record:
                work.stored[position] = True
                same = split == work.splits[position]
                work.ready[position] = same and (embedded or not embed)
        return work

    def _missing(self, work: _Work) -> int:
        """Number of distinct rows that no table has a vector of."""
        left = [r for r, ready in zip(work.records, work.ready, strict=True) if not ready]
        known = self._store.embedded_records(left) if left else set()
        return len({r.digest for r in left} - known)

    def _write(
        self, name: str, content: str, work: _Work, embed: bool, progress: Progress | None
    ) -> None:
        """Write the rows that are not there as wanted, part by part."""
        n_rows, done = len(work.records), int(work.ready.sum())
        step = EMBEDDED_ROWS if embed else _PLAIN_ROWS
        if progress is not None:
            progress(done, n_rows)
        for start in range(0, n_rows, step):
            part = slice(start, min(start + step, n_rows))
            left = int((~work.ready[part]).sum())
            if left:
                interrupt.check()
                self._write_part(name, content, work, part, embed)
                done += left
                if progress is not None:
                    progress(done, n_rows)

    def _write_part(self, name: str, content: str, work: _Work, part: slice, embed: bool) -> None:
        records, splits = work.records[part], work.splits[part]
        if not embed and work.stored[part].all():  # a vector that is there stays
            self._store.set_splits(content, part.start, splits)
            return
        vectors = self._embed(records, name) if embed else None
        fresh = not work.stored[part].any()
        self._store.add_entries(content, part.start, records, vectors, splits, fresh=fresh)


def _newest(tables: Sequence[IndexedTable], table: StoredTable) -> bool:
    """Tell whether a table is entered as it is, and none later than it."""
    return bool(tables) and tables[-1] == as_entered(table)


def _splits(name: str, records: Sequence[Record], column: str | None) -> list[str | None]:
    """The split of each row: its value in a column.

    Raises:
        InputError: No row has such a column.
    """
    if column is None:
        return [None] * len(records)
    columns = dict.fromkeys(name for record in records for name in record.fields)
    if records and column not in columns:
        what, hint = unknown_name("column", column, columns)
        raise InputError(f"the split of {name} cannot be read: {what}", hint=hint)
    return [record.fields.get(column) for record in records]


def _arrange(digests: Sequence[str], stored: dict[int, str]) -> list[int]:
    """Order rows so that those stored already stand where they are stored.

    Args:
        digests: Of the rows, in the order given.
        stored: Digests that are stored, by position.

    Returns:
        Positions in ``digests``, in the order in which the rows are stored.
    """
    if all(p < len(digests) and digests[p] == d for p, d in stored.items()):
        return list(range(len(digests)))
    free: dict[str, list[int]] = {}
    for i in range(len(digests) - 1, -1, -1):
        free.setdefault(digests[i], []).append(i)
    order: list[int | None] = [None] * len(digests)
    for position, record in stored.items():
        if position < len(order) and free.get(record):
            order[position] = free[record].pop()
    left = iter(sorted(i for rows in free.values() for i in rows))
    return [next(left) if i is None else i for i in order]
