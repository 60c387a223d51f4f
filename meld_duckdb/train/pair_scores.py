"""Scores of candidate pairs in both directions, for self-annotation: lexical, cosine, tier 0.

All of them need no label of the tables they score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features.context import comparable_text
from meld_duckdb.features.load import load_calibration
from meld_duckdb.features.match import PairTables, TableIndex, pair_features, select_features
from meld_duckdb.features.text import words
from meld_duckdb.records import Record
from meld_duckdb.retrieval.blocking import Candidates, find_candidates
from meld_duckdb.train.self_annotate import Scored

_BULK = 4096

Directions = tuple[Scored, Scored]
"""Best right rows of the left rows, and best left rows of the right rows."""


def candidate_scores(
    left: Sequence[Record],
    right: Sequence[Record],
    k: int = 5,
    *,
    vectors: tuple[np.ndarray, np.ndarray] | None = None,
    same: bool = False,
) -> Directions:
    """Score the ``k`` best partners of every row by words and 3-grams, or by the encoder.

    Args:
        left: Left table.
        right: Right table.
        k: Partners of each row; at least two, or there is no margin.
        vectors: Embeddings of both tables (float32 [n, d], L2-normalised): the score is their
            cosine. None for the lexical score.
        same: Both are one table.
    """
    lexical = vectors is None
    found = find_candidates(left, right, k, vectors=vectors, lexical=lexical, same=same)
    forward = _scored(found)
    if same:
        return forward, forward.turned
    turned = None if vectors is None else (vectors[1], vectors[0])
    back = find_candidates(right, left, k, vectors=turned, lexical=lexical, same=False)
    return forward, _scored(back).turned


def match_probabilities(
    left: Sequence[Record],
    right: Sequence[Record],
    directions: Directions,
    *,
    same: bool = False,
) -> Directions:
    """Score candidate pairs by the shipped tier 0, which knows both tables and no label of them.

    The best score to annotate pairs by: with the threshold and margin of `annotate_pairs` and
    ``ceiling`` 0.3; see ``docs/design/013-pseudo-labels.md``. A record without a word matches
    nothing.

    Args:
        left: Left table.
        right: Right table.
        directions: The pairs to score, such as those of `candidate_scores`; each direction gets
            the pairs of both.
        same: Both are one table.
    """
    model = load_calibration("match").variant("context").model
    index = TableIndex(left)
    tables = PairTables(index, index if same else TableIndex(right))
    both = np.concatenate([np.column_stack([d.left, d.right]) for d in directions])
    if same:
        both = np.sort(both, axis=1)
    pairs = np.unique(both.reshape(-1, 2), axis=0)
    found = np.zeros(len(pairs))
    context = tables.context_features(pairs)
    for start in range(0, len(pairs), _BULK):
        interrupt.check()
        cut = slice(start, start + _BULK)
        part = [(left[i], right[j]) for i, j in pairs[cut].tolist()]
        alone = pair_features(part, None, tables.weights)
        found[cut] = model.predict(select_features(model.features, alone, context[cut]))
    worded = [np.array([bool(words(comparable_text(r))) for r in side]) for side in (left, right)]
    found[~(worded[0][pairs[:, 0]] & worded[1][pairs[:, 1]])] = 0.0
    scored = Scored(pairs[:, 0], pairs[:, 1], found)
    if same:
        scored = Scored(*(np.concatenate(sides) for sides in zip(*_both_ways(scored), strict=True)))
        return scored, scored.turned
    return scored, scored


def _both_ways(scored: Scored) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    turned = scored.turned
    return [(s.left, s.right, s.score) for s in (scored, turned)]


def _scored(found: Candidates) -> Scored:
    return Scored(found.left, found.right, found.score)
