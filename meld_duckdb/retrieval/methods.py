"""Which search serves a call of ``meld.block``: by its method and by the size of the tables.

| pairs of rows | ``ranked`` | ``lexical`` |
| --- | --- | --- |
| up to `sparse_top.EXACT_CELLS` | all compared, best ordered anew | all compared |
| more | as ``union``, if the order would take long | rare terms, then words and word pairs |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.features import sparse_top
from meld_duckdb.retrieval.blocking import METHODS, Candidates, best_of_each, find_candidates
from meld_duckdb.retrieval.lexical import LexicalSearch
from meld_duckdb.retrieval.neighbours import Neighbours
from meld_duckdb.retrieval.ranking import DEPTH, MOST_RANKED, order_candidates
from meld_duckdb.retrieval.static import DIMENSION, StaticEmbedding
from meld_duckdb.retrieval.table_rows import TableRows

MOST_GATHERED_CELLS = 2_500_000_000
"""Pairs of rows up to which large tables are searched by rare words and 3-grams."""

MOST_GATHERED_ROWS = 200_000
"""Rows of both tables up to which their 3-grams are counted."""

ENCODED_ROWS = 2_000
"""Rows of both tables up to which a union takes the encoder's vectors, not static ones."""

CANDIDATES_A_PAIR = 20
"""Candidate pairs that may be listed for each pair that may be compared: they cost far less."""

SHORT_DIMENSION = 128
"""Length of static vectors of large tables."""


@dataclass(frozen=True, slots=True)
class Vectorisers:
    """How rows become vectors, all float32 with L2-normalised rows.

    Attributes:
        encode: By the encoder, one table.
        static: Gives the static embeddings, loaded when first asked for.
    """

    encode: Callable[[TableRows], np.ndarray]
    static: Callable[[], StaticEmbedding]


def find(
    left: TableRows,
    right: TableRows,
    k: int,
    method: str,
    models: Vectorisers,
    *,
    max_pairs: int,
    estimate: bool = False,
) -> Candidates:
    """Find the ``k`` best right rows of every left row.

    Args:
        left: Left table.
        right: Right table; the same object for one table twice: a row is no candidate of itself.
        k: Candidates per left row; fewer where nothing else is similar at all.
        method: One of `blocking.METHODS`.
        models: How rows become vectors.
        max_pairs: Pairs that may be compared.
        estimate: Whether to estimate the recall, where two searches are made.

    Raises:
        ConfigError: The method is unknown, or ``k`` is no number of candidates.
        InputError: There would be more than `CANDIDATES_A_PAIR` times ``max_pairs``.
    """
    _check(len(left), len(right), k, method, CANDIDATES_A_PAIR * max_pairs)
    if not len(left) or not len(right):
        return _nothing()
    depth, same = max(k, DEPTH), right is left
    n_ordered = len(left) * min(depth, len(right))
    if method == "union" or (method == "ranked" and _is_large(left, right, n_ordered)):
        return _union(left, right, k, models, estimate)
    if method == "ranked" and n_ordered <= MOST_RANKED:
        first, second = left.records, right.records
        found = find_candidates(first, second, depth, vectors=None, lexical=True, same=same)
        return order_candidates(first, second, found, k, same=same)
    if method == "static":
        return best_of_each(*Neighbours(*_static(left, right, models)).nearest(k), k)[0]
    if method in {"ranked", "lexical"} and _is_huge(left, right):
        texts = left.texts
        return LexicalSearch(texts, texts if same else right.texts).candidates(k)
    vectors = None
    if method in {"dense", "hybrid"}:
        first_vectors = models.encode(left)
        vectors = (first_vectors, first_vectors if same else models.encode(right))
    lexical = method != "dense"
    return find_candidates(
        left.records, right.records, k, vectors=vectors, lexical=lexical, same=same
    )


def _check(n_left: int, n_right: int, k: int, method: str, most: int) -> None:
    if method not in METHODS:
        raise ConfigError(f"option 'method' is {method!r}, expected one of {', '.join(METHODS)}")
    if k < 1:
        raise ConfigError(f"option 'k' is {k}, expected a whole number from 1 on")
    n_found = n_left * min(k, n_right)
    if n_found > most:
        raise InputError(
            f"{n_left} rows x {k} candidates are {n_found}, "
            f"more than {CANDIDATES_A_PAIR} x max_pairs = {most}",
            hint="lower k, take smaller parts of the tables to block, or raise the setting "
            "max_pairs",
        )


def _is_large(left: TableRows, right: TableRows, n_ordered: int) -> bool:
    """Tell whether the fitted order is given up for a union."""
    if len(left) * len(right) <= sparse_top.EXACT_CELLS:
        return False
    return n_ordered > MOST_RANKED or len(left) + len(right) > MOST_GATHERED_ROWS


def _is_huge(left: TableRows, right: TableRows) -> bool:
    n_cells = len(left) * len(right)
    return n_cells > MOST_GATHERED_CELLS or (
        n_cells > sparse_top.EXACT_CELLS and len(left) + len(right) > MOST_GATHERED_ROWS
    )


def _static(
    left: TableRows, right: TableRows, models: Vectorisers
) -> tuple[np.ndarray, np.ndarray]:
    is_small = len(left) * len(right) <= sparse_top.EXACT_CELLS
    texts = left.texts
    return models.static().encode_tables(
        texts, texts if right is left else right.texts, DIMENSION if is_small else SHORT_DIMENSION
    )


def _union(
    left: TableRows, right: TableRows, k: int, models: Vectorisers, estimate: bool
) -> Candidates:
    from meld_duckdb.retrieval.recall import estimate_recall
    from meld_duckdb.retrieval.union import find_union

    if len(left) + len(right) <= ENCODED_ROWS:
        first = models.encode(left)
        vectors = (first, first if right is left else models.encode(right))
    else:
        vectors = _static(left, right, models)
    found, union = find_union(left, right, vectors, k)
    if not estimate:
        return found
    return replace(found, recall=estimate_recall(left, right, union))


def _nothing() -> Candidates:
    none = np.empty(0, dtype=np.int64)
    return Candidates(none, none, none, np.empty(0))
