"""Candidates of tables of any size, the same that one process finds.

Tables that one process searches by rare words and word pairs (`retrieval.lexical`) are searched in
three stages, of which every partition is small:

    terms    per chunk: its texts as numbers of terms; the driver counts them over both tables
    gathered per chunk of the left and shard of the right table: rows that share rare terms
    pairs    per chunk of the left table: the best of what the shards gave

Weights and budgets follow from the counts over both tables, so cutting changes no candidate.
Smaller tables are one partition, searched as `meld.block` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from meld_duckdb import interrupt
from meld_duckdb.distributed.chunks import Chunks, texts_of
from meld_duckdb.distributed.lists import read_array
from meld_duckdb.distributed.parts import Entry, Parts
from meld_duckdb.distributed.worker import Computed
from meld_duckdb.features import sparse_top
from meld_duckdb.features.hashed_terms import BITS, Terms, hashed_terms
from meld_duckdb.records import digest
from meld_duckdb.retrieval import lexical
from meld_duckdb.retrieval.blocking import Candidates, best_of_each
from meld_duckdb.retrieval.methods import Blocking
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.service import LocalService


@dataclass(frozen=True, slots=True)
class Sides:
    """The two tables of a job; one table twice where ``same``."""

    left: Chunks
    right: Chunks
    same: bool

    @property
    def digest(self) -> str:
        """Content of both."""
        return digest(self.left.digest, self.right.digest, str(self.same))


@dataclass
class TermStage:
    """Terms of the texts of each chunk."""

    asks: ClassVar[bool] = False
    chunks: Chunks
    name: str

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest("terms", self.chunks.digests[number])

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        found = hashed_terms(texts_of(self.chunks.chunk(number)), interrupt.check)
        terms = pa.ListArray.from_arrays(
            pa.array(found.starts, pa.int32()), pa.array(found.columns)
        )
        return Computed(pa.table({"terms": terms}))


@dataclass(frozen=True, slots=True)
class TermFiles:
    """The finished partitions of a `TermStage`, by chunk."""

    parts: Parts
    entries: tuple[Entry, ...]

    def read(self, numbers: Sequence[int]) -> Terms:
        """The terms of some chunks, one after another."""
        lists = [self.parts.read(self.entries[n])["terms"].combine_chunks() for n in numbers]
        columns = [np.asarray(item.flatten(), dtype=np.int32) for item in lists]
        lengths = [np.diff(np.asarray(item.offsets, dtype=np.int64)) for item in lists]
        starts = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
        return Terms(np.concatenate(columns), starts)

    def count(self) -> np.ndarray:
        """In how many texts each term is: int64 [2 ** BITS]."""
        counts = np.zeros(1 << BITS, dtype=np.int64)
        for number in range(len(self.entries)):
            counts += np.bincount(self.read([number]).columns, minlength=1 << BITS)
        return counts


@dataclass(frozen=True, slots=True)
class Counts:
    """In how many texts each term is, as files that processes of a machine share.

    Attributes:
        left: Of the left table.
        right: Of the right table, the same file for one table twice.
        n_texts: Texts of both, of one table once.
    """

    left: Path
    right: Path
    n_texts: int

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Texts of the right table that hold each term, and how much each term tells."""
        cost = read_array(self.right)
        frequency = cost if self.left == self.right else cost + read_array(self.left)
        return cost, lexical.term_weights(frequency, self.n_texts)


@dataclass
class GatherStage:
    """Rows of a shard of the right table that share rare terms with those of a left chunk.

    Partitions of one shard follow each other: an actor keeps the shard it had.

    Attributes:
        sides: The tables.
        terms: Their terms.
        counts: Their counts.
        shard_chunks: Chunks of the right table that make a shard.
        k: Candidates wanted per left row.
        threads: Threads of an actor.
    """

    asks: ClassVar[bool] = False
    sides: Sides
    terms: tuple[TermFiles, TermFiles]
    counts: Counts
    shard_chunks: int
    k: int
    threads: int
    name: str = "gathered"
    _shard: tuple[int, Any, Any] | None = field(default=None, repr=False)

    @property
    def n_shards(self) -> int:
        """Shards of the right table."""
        return -(-len(self.sides.right.digests) // self.shard_chunks)

    @property
    def most(self) -> int:
        """Rows gathered for a left row."""
        return max(lexical.GATHERED * self.k, lexical.LEAST_GATHERED) + int(self.sides.same)

    @property
    def numbers(self) -> range:
        """All partitions: every left chunk with every shard."""
        return range(self.n_shards * len(self.sides.left.digests))

    def of_chunk(self, number: int) -> list[int]:
        """The partitions of a left chunk."""
        n_left = len(self.sides.left.digests)
        return [shard * n_left + number for shard in range(self.n_shards)]

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self._common, str(number))

    @cached_property
    def _common(self) -> str:
        """What all follow from: counts are of both tables."""
        return digest(self.name, self.sides.digest, str(self.shard_chunks), str(self.most))

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        shard, chunk = divmod(number, len(self.sides.left.digests))
        cost, weights = self._counted
        first, partners, words = self._partners(shard)
        asked = self.terms[0].read([chunk])
        part = lexical.within_budget(asked, cost)
        a, b, product = sparse_top.top_products(
            part.matrix(weights), partners, self.most, self.threads
        )
        b = partners.shape[1] - 1 - b
        score = sparse_top.pair_products(asked.words().matrix(weights), words, a, b)
        start, _ = self.sides.left.bounds(chunk)
        rows = {"left": a + start, "right": b + first, "product": product, "score": score}
        return Computed(pa.table(rows))

    def _partners(self, shard: int) -> tuple[int, Any, Any]:
        """Position of a shard's first row, its rows by term, and by word."""
        if self._shard is None or self._shard[0] != shard:
            cost, weights = self._counted
            chunks = range(len(self.sides.right.digests))
            own = chunks[shard * self.shard_chunks : (shard + 1) * self.shard_chunks]
            held = self.terms[1].read(own)
            words = held.words().matrix(weights)
            self._shard = shard, lexical.by_term(held, cost, weights), words
        first, _ = self.sides.right.bounds(shard * self.shard_chunks)
        return first, self._shard[1], self._shard[2]

    @cached_property
    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.counts.read()


@dataclass
class PairStage:
    """The ``k`` best rows of each left row, from what the shards gave."""

    asks: ClassVar[bool] = False
    gather: GatherStage
    parts: Parts
    entries: tuple[Entry, ...]
    name: str = "pairs"

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self.name, str(self.gather.k), self.gather.key(number))

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        files = [self.entries[n] for n in self.gather.of_chunk(number)]
        found = pa.concat_tables([self.parts.read(entry) for entry in files])
        left, right = found["left"].to_numpy(), found["right"].to_numpy()
        # Over all shards as many are gathered as one search would, then scored by words alone.
        _, at = best_of_each(left, right, found["product"].to_numpy(), self.gather.most)
        left, right, score = left[at], right[at], found["score"].to_numpy()[at]
        some = score > 0
        if self.gather.sides.same:
            some &= left != right
        return Computed(
            as_rows(best_of_each(left[some], right[some], score[some], self.gather.k)[0])
        )


@dataclass
class WholeStage:
    """Candidates of tables that one process searches, in one partition."""

    asks: ClassVar[bool] = True
    sides: Sides
    how: Blocking
    identity: str
    name: str = "pairs"

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self.name, self.identity, self.sides.digest, repr(self.how))

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        left = TableRows(array=self.sides.left.whole().to_struct_array())
        right = left
        if not self.sides.same:
            right = TableRows(array=self.sides.right.whole().to_struct_array())
        return Computed(as_rows(service.session.block_rows(left, right, self.how, listed=True)))


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Candidate pairs by chunk of the left table: left, right, rank, score."""

    left: Chunks
    parts: Parts
    entries: tuple[Entry, ...]

    @property
    def paths(self) -> list[str]:
        """All files."""
        return [str(self.parts.path(entry)) for entry in self.entries]

    @property
    def digest(self) -> str:
        """What all pairs follow from."""
        return digest(*(entry.key for entry in self.entries))

    def of_chunk(self, number: int) -> Candidates:
        """The pairs of a left chunk."""
        whole = len(self.entries) == 1
        rows = self.parts.read(self.entries[0 if whole else number])
        left, right, rank, score = (
            rows[name].to_numpy() for name in ("left", "right", "rank", "score")
        )
        cut = slice(*np.searchsorted(left, self.left.bounds(number)))
        return Candidates(left[cut], right[cut], rank[cut], score[cut])


def as_rows(found: Candidates) -> pa.Table:
    """Candidates as rows."""
    return pa.table(
        {
            "left": pa.array(found.left, pa.int64()),
            "right": pa.array(found.right, pa.int64()),
            "rank": pa.array(found.rank, pa.int32()),
            "score": pa.array(found.score, pa.float64()),
        }
    )
