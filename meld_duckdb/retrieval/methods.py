"""Which search serves a call of ``meld.block``: by its method and by the size of the tables.

| pairs of rows | ``ranked`` | ``lexical`` |
| --- | --- | --- |
| up to `sparse_top.EXACT_CELLS` | all compared, best ordered anew | all compared |
| more | as ``union``, if the order would take long | rare terms, then words and word pairs |

Where only rows with equal values may be compared, all rows of a group are; a group as large as
tables that cannot be compared whole is blocked as two tables of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np

from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.features import sparse_top
from meld_duckdb.retrieval.blocking import (
    METHODS,
    Candidates,
    best_of_each,
    compare_within,
    find_candidates,
    lexical_matrices,
)
from meld_duckdb.retrieval.groups import Groups, Term, equal_groups, packed
from meld_duckdb.retrieval.lexical import LexicalSearch
from meld_duckdb.retrieval.neighbours import Neighbours
from meld_duckdb.retrieval.ranking import DEPTH, MOST_RANKED, order_candidates
from meld_duckdb.retrieval.static import DIMENSION, StaticEmbedding
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.retrieval.union import LEXICAL_SHARE

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

_LEXICAL_SHARE = {"union": LEXICAL_SHARE, "hybrid": 0.5, "dense": 0.0, "static": 0.0}
"""Weight of the lexical score within groups; 1 for the other methods."""


@dataclass(frozen=True, slots=True)
class Blocking:
    """How candidates are found.

    Attributes:
        k: Candidates per left row; fewer where nothing else is similar at all.
        method: One of `blocking.METHODS`.
        equal: Columns whose values have to be equal, or rows are not compared; see `groups`.
    """

    k: int = 10
    method: str = "ranked"
    equal: tuple[Term, ...] = ()


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
    how: Blocking,
    models: Vectorisers,
    *,
    max_pairs: int,
    listed: bool = False,
) -> Candidates:
    """Find the best right rows of every left row.

    Args:
        left: Left table.
        right: Right table; the same object for one table twice: a row is no candidate of itself.
        how: How they are found.
        models: How rows become vectors.
        max_pairs: Pairs that may be compared.
        listed: Candidates are listed and not compared: `CANDIDATES_A_PAIR` times as many may be
            found, and the recall is estimated where two searches are made.

    Raises:
        ConfigError: The method is unknown, or ``k`` is no number of candidates.
        InputError: There would be more pairs, or a table has no column that ``equal`` names.
    """
    if how.method not in METHODS:
        raise ConfigError(
            f"option 'method' is {how.method!r}, expected one of {', '.join(METHODS)}"
        )
    if how.k < 1:
        raise ConfigError(f"option 'k' is {how.k}, expected a whole number from 1 on")
    groups = equal_groups(left, right, how.equal) if how.equal else None
    n_found = len(left) * min(how.k, len(right))
    if groups is not None:
        n_found = groups.n_candidates(how.k, same=right is left)
    _check(n_found, f"{len(left)} rows x {how.k} candidates", max_pairs, listed)
    if not len(left) or not len(right):
        return _nothing()
    if groups is not None:
        return _find_within(left, right, how.k, how.method, models, groups)
    return _find_among_all(left, right, how.k, how.method, models, listed)


def _check(n_found: int, what: str, max_pairs: int, listed: bool) -> None:
    times = CANDIDATES_A_PAIR if listed else 1
    if n_found > times * max_pairs:
        bound = f"{times} x max_pairs" if listed else "max_pairs"
        raise InputError(
            f"{what} are {n_found} pairs, more than {bound} = {times * max_pairs}",
            hint="find fewer by a lower k, or name columns whose values have to be equal "
            "(equal := ['brand']); FROM meld.block finds more, which are not compared; or raise "
            "the setting max_pairs",
        )


def _find_among_all(
    left: TableRows, right: TableRows, k: int, method: str, models: Vectorisers, estimate: bool
) -> Candidates:
    """Choose the search by method and size."""
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
    if method in {"ranked", "lexical"} and by_rare_words(left, right):
        texts = left.texts
        return LexicalSearch(texts, texts if same else right.texts).candidates(k)
    vectors = _encoded(left, right, models) if method in {"dense", "hybrid"} else None
    lexical = method != "dense"
    return find_candidates(
        left.records, right.records, k, vectors=vectors, lexical=lexical, same=same
    )


def _find_within(
    left: TableRows, right: TableRows, k: int, method: str, models: Vectorisers, groups: Groups
) -> Candidates:
    """As `find`, among the rows of one group."""
    same = right is left
    depth = max(k, DEPTH)
    is_ordered = method == "ranked" and groups.n_candidates(depth, same=same) <= MOST_RANKED
    wanted, inner = (depth, "lexical") if is_ordered else (k, method)
    large: list[tuple[np.ndarray, np.ndarray]] = []
    small: list[tuple[np.ndarray, np.ndarray]] = []
    for rows, columns in groups.members():
        is_large = len(rows) * len(columns) > sparse_top.EXACT_CELLS
        (large if is_large else small).append((rows, columns))
    parts = [_within_small(left, right, wanted, inner, models, groups, small)] if small else []
    for rows, columns in large:
        first = left.take(rows)
        second = first if same and np.array_equal(rows, columns) else right.take(columns)
        # A row that is on both sides may be its own best: one more is asked for then.
        more = int(same and second is not first)
        part = _find_among_all(first, second, wanted + more, inner, models, False)
        a, b = rows[part.left], columns[part.right]
        other = (a != b) if same else np.ones(len(a), dtype=bool)
        parts.append(best_of_each(a[other], b[other], part.score[other], wanted)[0])
    found = _merged(parts) if parts else _nothing()
    if not is_ordered or not len(found.left):
        return found
    return order_candidates(left.records, right.records, found, k, same=same)


def _within_small(
    left: TableRows,
    right: TableRows,
    k: int,
    method: str,
    models: Vectorisers,
    groups: Groups,
    members: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Candidates:
    """Compare all rows of each group, with the weights of terms that the whole tables give."""
    share = _LEXICAL_SHARE.get(method, 1.0)
    texts = (left.texts, left.texts if right is left else right.texts)
    matrices = []
    if share > 0:
        is_huge = by_rare_words(left, right)
        matrices = [LexicalSearch(*texts).words] if is_huge else lexical_matrices(*texts)
    vectors = None
    if share < 1:
        by_encoder = method != "static" and (method != "union" or _is_encoded(left, right))
        vectors = (_encoded if by_encoder else _static)(left, right, models)
    same = right is left
    return compare_within(
        packed(members), groups, matrices, vectors, k, lexical_share=share, same=same
    )


def _merged(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of different left rows together, by left row."""
    left = np.concatenate([part.left for part in parts])
    order = np.argsort(left, kind="stable")
    return Candidates(
        left[order],
        np.concatenate([part.right for part in parts])[order],
        np.concatenate([part.rank for part in parts])[order],
        np.concatenate([part.score for part in parts])[order],
    )


def _is_large(left: TableRows, right: TableRows, n_ordered: int) -> bool:
    """Tell whether the fitted order is given up for a union."""
    if len(left) * len(right) <= sparse_top.EXACT_CELLS:
        return False
    return n_ordered > MOST_RANKED or len(left) + len(right) > MOST_GATHERED_ROWS


def by_rare_words(left: Sized, right: Sized) -> bool:
    """Tell whether tables are so large that `LexicalSearch` serves them."""
    n_cells = len(left) * len(right)
    return n_cells > MOST_GATHERED_CELLS or (
        n_cells > sparse_top.EXACT_CELLS and len(left) + len(right) > MOST_GATHERED_ROWS
    )


def _is_encoded(left: TableRows, right: TableRows) -> bool:
    """Tell whether a union takes the encoder's vectors."""
    return len(left) + len(right) <= ENCODED_ROWS


def _encoded(
    left: TableRows, right: TableRows, models: Vectorisers
) -> tuple[np.ndarray, np.ndarray]:
    first = models.encode(left)
    return first, first if right is left else models.encode(right)


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

    vectors = (_encoded if _is_encoded(left, right) else _static)(left, right, models)
    found, union = find_union(left, right, vectors, k)
    if not estimate:
        return found
    return replace(found, recall=estimate_recall(left, right, union))


def _nothing() -> Candidates:
    none = np.empty(0, dtype=np.int64)
    return Candidates(none, none, none, np.empty(0))
