"""Candidates of two independent searches together: words in common, and near vectors.

A lexical search and a search by vectors miss different matches. Their union is ordered by the mean
of both scores and cut to the ``k`` best of each left row. How the two lists overlap tells how many
matches both missed; see `retrieval.recall`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features import sparse_top
from meld_duckdb.retrieval.blocking import Candidates, ExactLexical, best_of_each
from meld_duckdb.retrieval.lexical import LexicalSearch
from meld_duckdb.retrieval.neighbours import Neighbours, Vectors, cosines
from meld_duckdb.retrieval.table_rows import TableRows

REVERSE = 3
"""Nearest left rows of every right row that become candidates too."""

LEXICAL_SHARE = 0.7
"""Weight of the lexical score in the mean; the rest is the cosine of the vectors."""


class _Lexical(Protocol):
    def candidates(self, k: int) -> Candidates: ...

    def scores(self, left: np.ndarray, right: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, slots=True, eq=False)
class Union:
    """All pairs that one of the searches found, by left row, then right row.

    Attributes:
        left: Positions in the left table.
        right: Positions in the right table.
        score: Mean score.
        lexical: Whether the lexical search found the pair.
        dense: Whether the search by vectors did.
        kept: Whether the pair is among the ``k`` best of its left row.
    """

    left: np.ndarray
    right: np.ndarray
    score: np.ndarray
    lexical: np.ndarray
    dense: np.ndarray
    kept: np.ndarray


def find_union(
    left: TableRows, right: TableRows, vectors: tuple[Vectors, Vectors], k: int
) -> tuple[Candidates, Union]:
    """Search both ways and join the lists.

    Args:
        left: Left table.
        right: Right table; the same object for one table twice: a row is no candidate of itself.
        vectors: float32 [n, d] of both tables, rows L2-normalised; the same object likewise.
        k: Candidates kept per left row.
    """
    interrupt.check()
    search = lexical_search(left, right)
    first = search.candidates(k)
    by_words = first.left * len(right) + first.right
    near = Neighbours(*vectors)
    found = [near.nearest(k), near.nearest(min(k, REVERSE), reverse=True)]
    by_vectors = np.unique(np.concatenate([a * len(right) + b for a, b, _ in found]))
    pairs = np.union1d(by_words, by_vectors)
    a, b = pairs // max(len(right), 1), pairs % max(len(right), 1)
    lexical = np.isin(pairs, by_words, assume_unique=True)
    dense = np.isin(pairs, by_vectors, assume_unique=True)
    words = np.empty(len(pairs), dtype=np.float32)
    words[np.searchsorted(pairs, by_words)] = first.score
    words[~lexical] = search.scores(a[~lexical], b[~lexical])
    score = LEXICAL_SHARE * words + (1 - LEXICAL_SHARE) * cosines(*vectors, a, b)
    kept = np.zeros(len(pairs), dtype=bool)
    best, at = best_of_each(a, b, score, k)
    kept[at] = True
    return best, Union(a, b, score, lexical, dense, kept)


def lexical_search(left: TableRows, right: TableRows) -> _Lexical:
    """Prepare two tables: compared whole with 3-grams if small, else by words and word pairs."""
    second = left.texts if right is left else right.texts
    if len(left) * len(right) <= sparse_top.EXACT_CELLS:
        return ExactLexical(left.texts, second)
    return LexicalSearch(left.texts, second)
