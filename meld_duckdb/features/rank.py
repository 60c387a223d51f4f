"""Order the candidates of one record: by the pair, its tables, and who covers whom.

Unlike the features of a match these know a direction: how much of the record asked about the
candidate covers, whatever else the candidate adds. The order is linear in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features import text as tx
from meld_duckdb.features.context import TableIndex, comparable
from meld_duckdb.features.match import PairTables, pair_features, select_features
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.records import Record

__all__ = ["RANK_FEATURES", "Ranker", "TableIndex", "rank_features"]

_DECIMALS = 5  # the sum of a product depends on its order in the last bits
_DIRECTED = (
    "covered",
    "rarest_uncovered",
    "added",
    "title_covered",
    "title_rarest_uncovered",
    "title_added",
)
_PAIR = (
    "number_gap_min",
    "number_gap_max",
    "text_gram_dice",
    "text_gram_of_smaller",
    "title_gram_dice",
    "title_gram_of_smaller",
    "text_token_set",
    "text_token_sort",
    "title_token_sort",
    "title_token_set",
    "text_shared_of_union",
    "title_shared_of_union",
    "title_jaccard",
    "title_digit_share",
    "title_digit_conflict",
    "text_digit_share",
    "title_model_share",
    "text_model_share",
    "text_model_conflict",
    "title_number_share",
    "title_number_conflict",
    "table_word_rank_max",
    "table_gram_rank_max",
    "table_word_share_of_best_min",
    "table_gram_share_of_best_min",
    "table_gram_margin_min",
    "table_word_margin_min",
)
RANK_FEATURES: tuple[str, ...] = (*_PAIR, *_DIRECTED, "blocking_score")
"""Names of the columns of `rank_features`."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranker:
    """A fitted order: the weighted sum of features, the largest first."""

    weights: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Score candidates, float64 [n], rounded; ``features`` as `rank_features` gives them."""
        return np.asarray(np.round(features.astype(np.float64) @ self.weights, _DECIMALS))

    def to_dict(self) -> dict[str, float]:
        """Return a form for JSON: feature to weight, six digits."""
        values = self.weights.tolist()
        return {n: float(f"{w:.6g}") for n, w in zip(RANK_FEATURES, values, strict=True)}

    @staticmethod
    def from_dict(data: object) -> Ranker:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactCorrupt: If the features are others, or a weight is not a finite number.
        """
        if not isinstance(data, Mapping) or set(data) != set(RANK_FEATURES):
            raise ArtefactCorrupt("the ranker does not weigh the features of this version")
        values = [data[name] for name in RANK_FEATURES]
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ArtefactCorrupt("a weight of the ranker is not a finite number")
        return Ranker(np.asarray(values, dtype=np.float64))


def rank_features(
    tables: PairTables, left: np.ndarray, right: np.ndarray, score: np.ndarray
) -> np.ndarray:
    """Compute the features of candidate pairs.

    Args:
        tables: Both tables.
        left: Positions of the records asked about, [n].
        right: Positions of their candidates, [n].
        score: Blocking scores, [n].

    Returns:
        float32 [n, len(RANK_FEATURES)], 0 where a feature is undefined.
    """
    if not len(left):
        return np.empty((0, len(RANK_FEATURES)), dtype=np.float32)
    a, b = tables.left.records, tables.right.records
    pairs = [(a[i], b[j]) for i, j in zip(left.tolist(), right.tolist(), strict=True)]
    context = tables.context_features(np.column_stack([left, right]))
    alone = pair_features(pairs, None, tables.weights)
    base = select_features(_PAIR, alone, context)
    directed = _directed(pairs, tables.weights)
    return np.nan_to_num(np.column_stack([base, directed, score]).astype(np.float32), nan=0.0)


class _Preparer:
    """Words of records and of their titles, each record prepared once."""

    def __init__(self, weights: IdfWeights) -> None:
        self._weights = weights
        self._known: dict[str, tuple[_Words, _Words]] = {}

    def of(self, record: Record) -> tuple[_Words, _Words]:
        known = self._known.get(record.digest)
        if known is None:
            values = list(comparable(record).values())
            whole = " ".join(values)[: tx.TEXT_LIMIT]
            title = next((v for v in values if len(tx.words(v)) > 1), whole)
            known = (_Words(whole, self._weights), _Words(title, self._weights))
            self._known[record.digest] = known
        return known


class _Words:
    __slots__ = ("mass", "squashed", "weight")

    def __init__(self, folded: str, weights: IdfWeights) -> None:
        self.weight = {word: weights.weight(word) for word in sorted(set(tx.words(folded)))}
        self.squashed = tx.squash(folded)
        self.mass = math.fsum(self.weight.values())


def _directed(pairs: Sequence[tuple[Record, Record]], weights: IdfWeights) -> np.ndarray:
    side = _Preparer(weights)
    rows = np.empty((len(pairs), len(_DIRECTED)), dtype=np.float32)
    for row, (a, b) in enumerate(pairs):
        (whole, title), (other, other_title) = side.of(a), side.of(b)
        rows[row] = (*_cover(whole, other), *_cover(title, other_title))
    return rows


def _cover(a: _Words, b: _Words) -> tuple[float, float, float]:
    """How much of ``a`` is in ``b``, the rarest word that is not, and what ``b`` adds."""
    if not a.mass or not b.mass:
        return math.nan, math.nan, math.nan
    missing = _missing(a, b)
    return (
        1.0 - math.fsum(missing) / a.mass,
        max(missing, default=0.0),
        math.fsum(_missing(b, a)) / b.mass,
    )


def _missing(a: _Words, b: _Words) -> list[float]:
    return [
        weight
        for word, weight in a.weight.items()
        if word not in b.weight and not (len(word) >= 4 and word in b.squashed)
    ]
