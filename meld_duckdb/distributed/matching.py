"""Pairs judged with their tables as context: whole tables, or the neighbourhood of the pairs.

Whole tables are held by every actor, some kilobytes a row; answers are those of one process. The
neighbourhood of a partition is its rows, their candidates, and the rows that have these among their
own best candidates: rivals, which is what the context of a pair is about. Its cost does not grow
with the tables; what is farther away, and how common a word is elsewhere, it does not see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa

from meld_duckdb.distributed.blocking import PairFiles, Sides
from meld_duckdb.distributed.chunks import Chunks, records_of
from meld_duckdb.distributed.lists import Lists
from meld_duckdb.distributed.worker import Computed
from meld_duckdb.planner.options import Options
from meld_duckdb.records import Record, digest
from meld_duckdb.retrieval.blocking import Candidates
from meld_duckdb.service import LocalService

RIVAL_RANK = 3
"""Rows that have one of the others among so many of their best candidates are its rivals."""


@dataclass
class JoinStage:
    """The pairs of a left chunk that match.

    Attributes:
        sides: The tables.
        pairs: Candidates.
        options: Options of the call.
        identity: Of settings and workspace.
        ids: Columns that name the rows of either table.
        rivals: Left rows by right row, for a neighbourhood; None for whole tables.
    """

    asks: ClassVar[bool] = True
    sides: Sides
    pairs: PairFiles
    options: Options
    identity: str
    ids: tuple[str, str]
    rivals: Lists | None
    name: str = "join"
    _whole: tuple[list[Record], list[Record]] | None = field(default=None, repr=False)

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self._common, str(number))

    @cached_property
    def _common(self) -> str:
        """What all follow from: the tables are context of every pair."""
        return digest(
            self.name,
            self.identity,
            self.sides.digest,
            self.pairs.digest,
            repr(self.options),
            *self.ids,
            "whole" if self.rivals is None else f"{RIVAL_RANK}",
        )

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        found = self.pairs.of_chunk(number)
        left, right, local = self._context(number, found)
        answers, _ = service.session.join(left, right, local, self.options)
        at = np.flatnonzero([answer.value == "match" for answer in answers])
        errors = [answer.error for answer in answers if answer.error]
        some = [answers[i] for i in at.tolist()]
        rows = {
            "l_id": _ids(self.sides.left, self.ids[0], found.left[at]),
            "r_id": _ids(self.sides.right, self.ids[1], found.right[at]),
            "probability": pa.array([answer.probability for answer in some], pa.float64()),
            "tier": pa.array([answer.tier for answer in some], pa.int8()),
            "blocking_score": pa.array(found.score[at], pa.float64()),
        }
        return Computed(pa.table(rows), len(errors), errors[0] or "" if errors else "")

    def _context(
        self, number: int, found: Candidates
    ) -> tuple[list[Record], list[Record], Candidates]:
        """The rows of both sides, and the pairs by their positions among these."""
        if self.rivals is None:
            if self._whole is None:
                left = records_of(self.sides.left.whole())
                right = left if self.sides.same else records_of(self.sides.right.whole())
                self._whole = left, right
            return *self._whole, found
        own = np.arange(*self.sides.left.bounds(number))
        b = np.unique(found.right)
        a = np.union1d(own, self.rivals.of(b))
        if self.sides.same:
            a = b = np.union1d(a, b)
        left = records_of(self.sides.left.take(a))
        right = left if self.sides.same else records_of(self.sides.right.take(b))
        local = Candidates(
            np.searchsorted(a, found.left), np.searchsorted(b, found.right), found.rank, found.score
        )
        return left, right, local


@dataclass
class ScoreStage:
    """Probabilities of pairs of rows of one table, each pair once.

    Attributes:
        rows: The table.
        pairs: Positions, in chunks: a, b.
        options: Options of the call.
        identity: Of settings and workspace.
        near: The best candidates of each row, for a neighbourhood; None for the whole table.
    """

    asks: ClassVar[bool] = True
    rows: Chunks
    pairs: Chunks
    options: Options
    identity: str
    near: Lists | None
    name: str = "scored"
    _whole: list[Record] | None = field(default=None, repr=False)

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self._common, self.pairs.digests[number], str(number))

    @cached_property
    def _common(self) -> str:
        return digest(
            self.name,
            self.identity,
            self.rows.digest,
            repr(self.options),
            "whole" if self.near is None else f"{RIVAL_RANK}",
        )

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        found = self.pairs.chunk(number)
        pairs = np.column_stack([found["a"].to_numpy(), found["b"].to_numpy()])
        if self.near is None:
            if self._whole is None:
                self._whole = records_of(self.rows.whole())
            records, local = self._whole, pairs
        else:
            at = np.unique(pairs)
            at = np.union1d(at, self.near.of(at))
            records, local = records_of(self.rows.take(at)), np.searchsorted(at, pairs)
        likely, least, answers, _ = service.session.judge_rows(records, local, self.options)
        errors = [answer.error for answer in answers if answer.error]
        rows = {
            "a": pairs[:, 0],
            "b": pairs[:, 1],
            "probability": likely.astype(np.float64),
            "matches": likely >= least,
        }
        return Computed(pa.table(rows), len(errors), errors[0] or "" if errors else "")


def _ids(table: Chunks, column: str, positions: np.ndarray) -> pa.ChunkedArray:
    """The values of a column at some positions, in any order."""
    distinct, back = np.unique(positions, return_inverse=True)
    return table.take(distinct)[column].take(pa.array(back))


@dataclass
class NameStage:
    """Candidate pairs with the names of their rows, for those who only block."""

    asks: ClassVar[bool] = False
    sides: Sides
    pairs: PairFiles
    ids: tuple[str, str]
    name: str = "block"

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self._common, str(number))

    @cached_property
    def _common(self) -> str:
        return digest(self.name, self.sides.digest, self.pairs.digest, *self.ids)

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        found = self.pairs.of_chunk(number)
        rows = {
            "l_id": _ids(self.sides.left, self.ids[0], found.left),
            "r_id": _ids(self.sides.right, self.ids[1], found.right),
            "rank": pa.array(found.rank, pa.int32()),
            "score": pa.array(found.score, pa.float64()),
        }
        return Computed(pa.table(rows))
