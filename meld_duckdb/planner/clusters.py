"""From candidate pairs to clusters: which rows of one table describe the same entity.

Rows with equal content (keys left out) are one row to all that follows, so copies cost nothing and
never push each other out of the candidates. Rows without any value are clusters of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb.records import Record, is_key_column
from meld_duckdb.retrieval.blocking import Candidates
from meld_duckdb.retrieval.catalogue import content_digest


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """The distinct contents of a table.

    Attributes:
        records: One record for each content, in an order that the order of the rows has no part in.
        of_row: Position in ``records`` of each row's content, -1 for a row without any value.
    """

    records: list[Record]
    of_row: np.ndarray


def distinct_contents(records: Sequence[Record]) -> Distinct:
    """Find the distinct contents of a table."""
    digests = [content_digest(r) if _says_something(r) else "" for r in records]
    first: dict[str, Record] = {}
    for key, record in zip(digests, records, strict=True):
        if key and (key not in first or record.digest < first[key].digest):
            first[key] = record
    at = {key: i for i, key in enumerate(sorted(first))}
    of_row = np.fromiter((at.get(key, -1) for key in digests), np.int64, len(digests))
    return Distinct([first[key] for key in at], of_row)


def _says_something(record: Record) -> bool:
    return any(not is_key_column(name) for name in record.present)


def each_pair_once(candidates: Candidates) -> np.ndarray:
    """The candidate pairs of one table with itself, each once, the lower position first: [n, 2]."""
    both = np.sort(np.column_stack([candidates.left, candidates.right]), axis=1)
    return np.unique(both, axis=0)


def in_order_of_nearness(pairs: np.ndarray, n_records: int) -> np.ndarray:
    """Order pairs so that pairs of the same records come soon after each other.

    Returns:
        A permutation of the pairs. Preparing a record for comparison costs more than comparing it,
        and not all can be kept prepared.
    """
    from scipy.sparse import csgraph, csr_matrix

    if not len(pairs):
        return np.empty(0, dtype=np.int64)
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(n_records, n_records))
    near = csgraph.reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True)
    place = np.empty(n_records, dtype=np.int64)
    place[near] = np.arange(n_records)
    places = np.sort(place[pairs], axis=1)
    return np.lexsort((places[:, 0], places[:, 1]))


def connect(distinct: Distinct, matches: np.ndarray) -> np.ndarray:
    """Cluster the rows of a table: rows are together that a chain of matches connects.

    Args:
        distinct: The contents of the table.
        matches: Pairs of positions in ``distinct.records`` that match, int [n, 2].

    Returns:
        Number of each row's cluster from 0, in the order of the clusters' first rows.
    """
    from scipy.sparse import csgraph, csr_matrix

    n = len(distinct.records)
    ones = np.ones(len(matches), dtype=np.int8)
    graph = csr_matrix((ones, (matches[:, 0], matches[:, 1])), shape=(n, n))
    of_content = csgraph.connected_components(graph, directed=False)[1] if n else np.empty(0, int)
    empty = np.flatnonzero(distinct.of_row < 0)
    cluster = np.empty(len(distinct.of_row), dtype=np.int64)
    cluster[distinct.of_row >= 0] = of_content[distinct.of_row[distinct.of_row >= 0]]
    cluster[empty] = n + np.arange(len(empty))
    _, first, number = np.unique(cluster, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return np.asarray(order[number])
