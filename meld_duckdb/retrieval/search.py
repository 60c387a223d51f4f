"""Search in one LanceDB table: by vectors, by words, or by both, the ranks put together.

Below `lance.EXACT_BELOW` rows with vectors there is no vector index and every search is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from meld_duckdb.retrieval.lance import words_query

if TYPE_CHECKING:
    from meld_duckdb.retrieval.lance import LanceTable

SPARE = 4
"""Rows fetched beyond those wanted, so that ties are broken by key and not by chance."""

_FUSED = 50
"""Rows that each of the two rankings gives at least, before they are put together."""

_RANK_OFFSET = 60
"""Of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""

_PROBES, _REFINE = 50, 5
"""Parts of a vector index that are looked at; rows per row wanted whose distance is exact."""

_AT_ONCE = 256
"""Queries by vector handed over in one go."""

Row = dict[str, Any]


def search(
    table: LanceTable,
    k: int,
    columns: Sequence[str],
    where: str,
    encoder: str,
    vectors: np.ndarray | None,
    texts: Sequence[str] | None,
    text_column: str = "text",
) -> list[list[Row]]:
    """The best ``k`` rows of a table for each query; best first, ties by similarity, then by key.

    Args:
        table: The table; it has ``key``, ``vector`` and ``encoder``.
        k: How many rows at most.
        columns: Columns wanted, ``key`` among them.
        where: Filter that every row passes.
        encoder: Encoder of the vectors; vectors of others are not compared.
        vectors: float32 [n, d], L2-normalised, one per query; None to search by words alone.
        texts: Words of each query; None to search by vectors alone.
        text_column: Column that is searched by words.

    Returns:
        For each query rows as dicts of ``columns`` and ``similarity`` (cosine in [-1, 1] to four
        places, None where there is nothing to compare).
    """
    if vectors is None:
        if texts is None:
            return []
        nothing = [np.zeros(0, dtype=np.float32)] * len(texts)
        ranked = (
            _by_words(table, text, query, k + SPARE, columns, where, encoder, text_column)
            for text, query in zip(texts, nothing, strict=True)
        )
        return [rows[:k] for rows in ranked]
    depth = k + SPARE if texts is None else max(4 * k, _FUSED)
    near = _by_vectors(table, vectors, depth, columns, where, encoder)
    if texts is None:
        return [rows[:k] for rows in near]
    return [
        _fuse((rows, _by_words(table, text, query, depth, columns, where, encoder, text_column)), k)
        for rows, text, query in zip(near, texts, vectors, strict=True)
    ]


def _by_vectors(
    table: LanceTable,
    vectors: np.ndarray,
    depth: int,
    columns: Sequence[str],
    where: str,
    encoder: str,
) -> list[list[Row]]:
    found: list[list[Row]] = [[] for _ in vectors]
    own = f"({where}) AND encoder = '{encoder}'"
    for start in range(0, len(vectors), _AT_ONCE):
        rows = (
            table.search(list(vectors[start : start + _AT_ONCE]), vector_column_name="vector")
            .distance_type("cosine")
            .nprobes(_PROBES)
            .refine_factor(_REFINE)
            .where(own, prefilter=True)
            .limit(depth)
            .select([*columns, "_distance"])
            .to_list()
        )
        for row in rows:
            row["similarity"] = round(1.0 - float(row.pop("_distance")), 4)
            found[start + row.pop("query_index", 0)].append(row)
    for near in found:
        near.sort(key=lambda row: (-row["similarity"], row["key"]))
    return found


def _by_words(
    table: LanceTable,
    text: str,
    query: np.ndarray,
    depth: int,
    columns: Sequence[str],
    where: str,
    encoder: str,
    text_column: str,
) -> list[Row]:
    compare = ["encoder", "vector"] if len(query) else []
    words = " ".join(text.split())
    if not words:
        return []
    rows: list[Row] = (
        table.search(words_query(words, text_column), query_type="fts")
        .where(where, prefilter=True)
        .limit(depth)
        .select([*columns, *compare, "_score"])
        .to_list()
    )
    for row in rows:
        vector = row.pop("vector", None)
        comparable = vector is not None and row.pop("encoder", None) == encoder
        row["similarity"] = _cosine(np.asarray(vector), query) if comparable else None
    rows.sort(key=lambda row: (-round(row["_score"], 4), row["key"]))
    for row in rows:
        del row["_score"]
    return rows


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return round(float(left @ right) / norms, 4) if norms else 0.0


def _fuse(rankings: Sequence[Sequence[Row]], k: int) -> list[Row]:
    """Reciprocal rank fusion: a row's worth is the sum of 1 / (60 + rank) over the rankings."""
    worth: dict[str, float] = {}
    rows: dict[str, Row] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            key = row["key"]
            worth[key] = worth.get(key, 0.0) + 1.0 / (_RANK_OFFSET + rank)
            rows.setdefault(key, row)

    def order(key: str) -> tuple[float, float, str]:
        similarity = rows[key]["similarity"]
        return -round(worth[key], 9), 2.0 if similarity is None else -similarity, key

    return [rows[key] for key in sorted(rows, key=order)[:k]]
