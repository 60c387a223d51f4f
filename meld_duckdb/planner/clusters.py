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
        of_row: Position in ``records`` of each row's content, -1 for a row that is like no other:
            one without any value, or in no group.
    """

    records: list[Record]
    of_row: np.ndarray


def distinct_contents(records: Sequence[Record], groups: np.ndarray | None = None) -> Distinct:
    """Find the distinct contents of a table.

    Args:
        records: Its rows.
        groups: Number of each row's group, -1 for none; equal contents of different groups are
            different. None for one group of all.
    """
    digests = [content_digest(r) if says_something(r) else "" for r in records]
    if groups is not None:
        digests = [
            f"{key} {group}" if key and group >= 0 else ""
            for key, group in zip(digests, groups.tolist(), strict=True)
        ]
    first: dict[str, Record] = {}
    for key, record in zip(digests, records, strict=True):
        if key and (key not in first or record.digest < first[key].digest):
            first[key] = record
    at = {key: i for i, key in enumerate(sorted(first))}
    of_row = np.fromiter((at.get(key, -1) for key in digests), np.int64, len(digests))
    return Distinct([first[key] for key in at], of_row)


def says_something(record: Record) -> bool:
    """Whether a record holds any value that is no key."""
    return any(not is_key_column(name) for name in record.present)


def mutual_pairs(candidates: Candidates) -> np.ndarray:
    """The pairs of one table of which each row is a candidate of the other: int [n, 2], ordered.

    Each pair is there once, the lower position first. That halves the pairs to be judged; what one
    side alone proposes is seldom the same entity and often what chains strangers together.
    """
    both = np.sort(np.column_stack([candidates.left, candidates.right]), axis=1)
    pairs, times = np.unique(both, axis=0, return_counts=True)
    return np.asarray(pairs[times == 2])


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


LINKAGES = ("majority", "components")
"""How matching pairs make clusters: `agreeing_groups`, or `connected_groups`."""


def connected_groups(
    n_records: int, pairs: np.ndarray, probability: np.ndarray, threshold: float
) -> np.ndarray:
    """Group records by the connected components of the pairs that match.

    Arguments and result as of `agreeing_groups`.
    """
    from scipy.sparse import csgraph, csr_matrix

    kept = pairs[probability >= threshold].reshape(-1, 2)
    ones = np.ones(len(kept), dtype=np.int8)
    graph = csr_matrix((ones, (kept[:, 0], kept[:, 1])), shape=(n_records, n_records))
    _, group = csgraph.connected_components(graph, directed=False)
    return np.asarray(group, dtype=np.int64)


def agreeing_groups(
    n_records: int, pairs: np.ndarray, probability: np.ndarray, threshold: float, k: int
) -> np.ndarray:
    """Group records so that most pairs within a group match.

    Likeliest pairs first, the groups of both records are joined if more than half of the pairs
    between the groups match. A chain of matches alone joins nothing: variants of a product match
    their neighbours, and the ends of such a chain are different products. A pair that was
    not proposed counts as a mismatch, unless the joined group is so large (more than ``k`` records)
    that its records cannot all be each other's candidates.

    Args:
        n_records: Number of records.
        pairs: Candidate pairs, each once, int [n, 2].
        probability: Of each pair to match.
        threshold: Probability from which a pair matches.
        k: Candidates each record had.

    Returns:
        A number for each record, the same within a group.
    """
    group = list(range(n_records))
    members = [[i] for i in range(n_records)]
    # Between two groups: [pairs proposed, pairs that match].
    between: list[dict[int, list[int]]] = [{} for _ in range(n_records)]
    matching = probability >= threshold
    for (i, j), is_match in zip(pairs.tolist(), matching.tolist(), strict=True):
        between[i][j] = between[j][i] = [1, int(is_match)]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -np.round(probability, 9)))
    for i, j in pairs[order[matching[order]]].tolist():
        a, b = group[i], group[j]
        if a == b:
            continue
        proposed, agreed = between[a][b]
        size = len(members[a]) * len(members[b])
        asked = size if len(members[a]) + len(members[b]) <= k else proposed
        if 2 * agreed > asked:
            small, large = sorted((a, b), key=lambda g: (len(members[g]), g))
            _absorb(small, large, group, members, between)
    return np.asarray(group, dtype=np.int64)


def _absorb(
    small: int,
    large: int,
    group: list[int],
    members: list[list[int]],
    between: list[dict[int, list[int]]],
) -> None:
    """Put one group into another."""
    for member in members[small]:
        group[member] = large
    members[large] += members[small]
    members[small] = []
    del between[large][small]
    for other, (proposed, agreed) in between[small].items():
        if other == large:
            continue
        known = between[large].get(other, (0, 0))
        counts = [known[0] + proposed, known[1] + agreed]
        del between[other][small]
        between[large][other] = between[other][large] = counts
    between[small] = {}


def number_clusters(distinct: Distinct, group: np.ndarray) -> np.ndarray:
    """Number the clusters of all rows of a table.

    Args:
        distinct: The contents of the table.
        group: A number for each content, the same within a group.

    Returns:
        Number of each row's cluster from 0, in the order of the clusters' first rows.
    """
    told = distinct.of_row >= 0
    cluster = np.empty(len(told), dtype=np.int64)
    cluster[told] = group[distinct.of_row[told]]
    cluster[~told] = len(distinct.records) + np.arange(np.count_nonzero(~told))
    _, first, number = np.unique(cluster, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return np.asarray(order[number])
