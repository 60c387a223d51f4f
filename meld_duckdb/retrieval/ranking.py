"""Order blocking candidates by what their tables and records say, not by similarity alone.

The candidates are those of the lexical search; only their order changes. The fitted order ships as
``calibration/block.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features.load import load_calibration
from meld_duckdb.features.match import PairTables
from meld_duckdb.features.rank import Ranker, TableIndex, rank_features
from meld_duckdb.records import Record
from meld_duckdb.retrieval.blocking import Candidates

DEPTH = 10
"""Candidates of each record that are ordered anew, or ``k`` where that is more."""

MOST_RANKED = 300_000
"""Candidate pairs up to which they are ordered anew; more stay in the order of their score."""

_PART = 4096


@cache
def shipped_ranker() -> Ranker:
    """The order that ships with the package."""
    return Ranker.from_dict(load_calibration("block").content["weights"])


def order_candidates(
    left: Sequence[Record],
    right: Sequence[Record],
    found: Candidates,
    k: int,
    *,
    same: bool,
    ranker: Ranker | None = None,
) -> Candidates:
    """Order the candidates of every left record anew and keep the ``k`` best.

    Args:
        left: Left table.
        right: Right table.
        found: Candidates of both; equal ranks keep their order.
        k: Candidates kept per left record.
        same: Both are one table.
        ranker: The order; None for the shipped one.
    """
    ranker = ranker or shipped_ranker()
    first = TableIndex(left)
    tables = PairTables(first, first if same else TableIndex(right))
    score = np.empty(len(found.left))
    for start in range(0, len(score), _PART):
        interrupt.check()
        cut = slice(start, start + _PART)
        rows = rank_features(tables, found.left[cut], found.right[cut], found.score[cut])
        score[cut] = ranker.scores(rows)
    order = np.lexsort((found.rank, -score, found.left))
    at = found.left[order]
    rank = np.arange(len(at)) - np.searchsorted(at, at, side="left") + 1
    kept = rank <= k
    order = order[kept]
    return Candidates(found.left[order], found.right[order], rank[kept], found.score[order])
