"""Clusters of a table whose pairs were judged by many processes; the same as `planner.clusters`.

The driver holds a few numbers for each row and each pair that matches, and no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import duckdb
import numpy as np
import pyarrow as pa

from meld_duckdb.distributed.chunks import Chunks, records_of
from meld_duckdb.distributed.worker import Computed
from meld_duckdb.planner.clusters import agreeing_groups, says_something
from meld_duckdb.records import digest
from meld_duckdb.retrieval.catalogue import content_digest
from meld_duckdb.service import LocalService

_ROWS = 16_384


@dataclass
class ContentStage:
    """What each row of a table says: equal rows are one row to blocking and matching."""

    asks: ClassVar[bool] = False
    chunks: Chunks
    name: str = "contents"

    def key(self, number: int) -> str:
        """See `Stage.key`."""
        return digest(self.name, self.chunks.digests[number], str(number))

    def compute(self, number: int, service: LocalService) -> Computed:
        """See `Stage.compute`."""
        records = records_of(self.chunks.chunk(number))
        start, stop = self.chunks.bounds(number)
        rows = {
            "row": np.arange(start, stop),
            "content": pa.array(
                [content_digest(r) if says_something(r) else None for r in records], pa.string()
            ),
            "record": pa.array([r.digest for r in records], pa.string()),
        }
        return Computed(pa.table(rows))


def number_contents(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Make the tables ``firsts`` (number, row) and ``numbered`` (row, number).

    Contents are numbered by their digests, and stand for their row of the lowest digest. A row
    without content has no number.
    """
    connection.read_parquet(list(files)).create_view("told")
    connection.execute(
        "CREATE TABLE firsts AS SELECT row_number() OVER (ORDER BY content) - 1 AS number, content,"
        " best.place AS row FROM (SELECT content, min({'said': record, 'place': row}) AS best"
        " FROM told WHERE content IS NOT NULL GROUP BY content)"
    )
    connection.execute(
        "CREATE TABLE numbered AS SELECT told.row, number"
        " FROM told LEFT JOIN firsts USING (content)"
    )


def rows_at(chunks: Chunks, positions: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Rows of a table in the order of positions, a batch at a time."""
    for start in range(0, len(positions), _ROWS):
        part = positions[start : start + _ROWS]
        distinct, back = np.unique(part, return_inverse=True)
        rows = chunks.take(distinct).take(pa.array(back)).combine_chunks()
        yield from rows.to_batches()


def connected(
    n_rows: int, pairs: np.ndarray, likely: np.ndarray, matches: np.ndarray, k: int, linkage: str
) -> np.ndarray:
    """Group rows by the pairs that match; see `clusters.agreeing_groups`.

    Groups never reach beyond a connected component of the pairs that match, so each component is
    grouped by itself.

    Args:
        n_rows: Rows.
        pairs: Candidate pairs, each once, int [n, 2].
        likely: Probability of each to match.
        matches: Whether it does.
        k: Candidates each row had.
        linkage: One of `clusters.LINKAGES`.

    Returns:
        A number for each row, the same within a group.
    """
    from scipy.sparse import csgraph, csr_matrix

    kept = pairs[matches].reshape(-1, 2)
    ones = np.ones(len(kept), dtype=np.int8)
    graph = csr_matrix((ones, (kept[:, 0], kept[:, 1])), shape=(n_rows, n_rows))
    _, found = csgraph.connected_components(graph, directed=False)
    component = np.asarray(found, dtype=np.int64)
    if linkage == "components":
        return component
    inside = np.flatnonzero(component[pairs[:, 0]] == component[pairs[:, 1]])
    inside = inside[np.bincount(component)[component[pairs[inside, 0]]] > 2]
    of_pair = component[pairs[inside, 0]]
    order = np.argsort(of_pair, kind="stable")
    inside, of_pair = inside[order], of_pair[order]
    group, free = component.copy(), n_rows
    for part in np.split(inside, np.flatnonzero(np.diff(of_pair)) + 1):
        if len(part):
            rows, local = np.unique(pairs[part], return_inverse=True)
            judged = np.where(matches[part], likely[part], -1.0)
            own = agreeing_groups(len(rows), local.reshape(-1, 2), judged, 0.0, k)
            group[rows] = free + own
            free += len(rows)
    return group
