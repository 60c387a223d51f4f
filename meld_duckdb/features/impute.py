"""Candidates for a missing value, and features that say which of them is right.

Candidates are the options of the user, else the values of similar rows, values that go with a word
of the row (an area code with a city, a model prefix with a brand), and spans of the row's own text
that occur as a value of the column, or stand where its values usually stand.

Two variants. ``context`` has an indexed table (`ImputeIndex`). ``record`` has none, so it can only
weigh options against the row's text; without options there is no candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from meld_duckdb.features.impute_index import (
    TEXT_LIMIT,
    FloatArray,
    ImputeIndex,
    IntArray,
    Row,
    Scores,
    find_phrase,
    read_row,
    spans,
)
from meld_duckdb.features.text import fold, words
from meld_duckdb.records import Record, is_missing

__all__ = ["FEATURES", "Candidates", "ImputeIndex", "Imputed", "impute_features", "rank"]

Matrix = NDArray[np.float32]

NEIGHBOURS = 16
MAX_CANDIDATES = 24
_BATCH = 64
_MIN_EXTRACTIVE = 0.3

RECORD_FEATURES: tuple[str, ...] = tuple(
    "in_text at_start position value_words longest_in_text fuzzy_in_text n_candidates".split()
)
TABLE_FEATURES: tuple[str, ...] = tuple(
    (
        "vote_share vote_gap best_similarity top_similarity confidence confidence_second "
        "confidence_support confidence_gap bayes bayes_gap log_count share is_new column_values "
        "column_extractive column_at_start"
    ).split()
)
FEATURES: dict[str, tuple[str, ...]] = {
    "record": RECORD_FEATURES,
    "context": RECORD_FEATURES + TABLE_FEATURES,
}
"""Feature names of each variant, in the order of the matrix columns."""


@dataclass(frozen=True)
class Candidates:
    """What could be said for one cell.

    Attributes:
        values: Candidate values, each once.
        features: float32 [n, d], same order as ``values``.
        neighbours: Text and similarity of the nearest row that holds each value, or None.
    """

    values: tuple[str, ...]
    features: Matrix
    neighbours: tuple[tuple[str, float] | None, ...]


@dataclass(frozen=True)
class Imputed:
    """One ranked value: its probability in [0, 1], and why (feature or neighbour, weight)."""

    value: str
    probability: float
    evidence: tuple[tuple[str, float], ...]


def impute_features(
    index: ImputeIndex | None,
    records: Sequence[Record],
    column: str,
    options: Sequence[Sequence[str] | None] | None = None,
) -> list[Candidates]:
    """Collect and describe the candidates of cells of one column.

    Args:
        index: The indexed table, None for the ``record`` variant. A row asked about that holds
            its value in it is left out of it: it does not answer for itself.
        records: One record per cell; a value in ``column`` is ignored.
        column: The column to impute.
        options: Values allowed for each cell, same order; None where any value may be answered.

    Returns:
        One `Candidates` per record, same order; empty where nothing could be said. Features are
        those of ``context`` with an index that has rows, else those of ``record``.
    """
    allowed = options if options is not None else [None] * len(records)
    rows = [read_row(r, column) for r in records]
    if index is None or not index.records:
        return [_alone(row, given) for row, given in zip(rows, allowed, strict=True)]
    result = []
    for start in range(0, len(rows), _BATCH):
        near = index.similarities(rows[start : start + _BATCH])
        for i, line in enumerate(near, start):
            own = index.row_of.get(records[i].digest)
            result.append(_with_table(index, rows[i], line, allowed[i], own))
    return result


def _alone(row: Row, given: Sequence[str] | None) -> Candidates:
    values = _distinct(given or ())
    return Candidates(values, _text_features(row, values), (None,) * len(values))


def _distinct(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v.strip() for v in given if not is_missing(v)))


def _text_features(row: Row, values: Sequence[str]) -> Matrix:
    result = np.full((len(values), len(RECORD_FEATURES)), np.nan, dtype=np.float32)
    keys = [tuple(words(fold(v, TEXT_LIMIT))) for v in values]
    for i, key in enumerate(keys):
        at = [p for p in (find_phrase(field, key) for field in row.fields) if p >= 0]
        result[i, 0] = float(bool(at))
        result[i, 1] = float(bool(at) and min(at) == 0)
        result[i, 2] = min(at) if at else math.nan
        result[i, 3] = len(key)
        joined = " ".join(key)
        result[i, 5] = fuzz.partial_ratio(joined, row.text) / 100 if joined and row.text else 0.0
    inside = result[:, 0] > 0
    result[:, 4] = inside & (result[:, 3] == result[inside, 3].max(initial=0))
    result[:, 6] = len(values)
    return result


def _with_table(
    index: ImputeIndex, row: Row, near: FloatArray, given: Sequence[str] | None, own: int | None
) -> Candidates:
    counts = index.counts
    if own is not None:
        near = near.copy()
        near[own] = 0.0
        counts = counts.copy()
        counts[index.value_of[own]] -= 1
    k = min(NEIGHBOURS, len(near))
    top = np.argpartition(-near, k - 1)[:k]
    top = top[np.lexsort((top, -near[top]))]
    top = top[near[top] > 0]
    votes = np.bincount(index.value_of[top], near[top], len(index.values)).astype(np.float64)
    scores = (votes, *index.associations(row, counts))
    values = _collect(index, row, scores, counts) if given is None else _distinct(given)
    text = _text_features(row, values)
    table = _table_features(index, values, top, near, scores, counts)
    nearest: dict[int, int] = {}
    for at in top.tolist():
        nearest.setdefault(int(index.value_of[at]), at)
    seen = [nearest.get(index.code_of.get(v, -1)) for v in values]
    texts = {at: index.records[at].text[:TEXT_LIMIT] for at in nearest.values()}
    neighbours = tuple(None if at is None else (texts[at], float(near[at])) for at in seen)
    return Candidates(values, np.concatenate([text, table], axis=1), neighbours)


def _collect(index: ImputeIndex, row: Row, scores: Scores, counts: IntArray) -> tuple[str, ...]:
    """Spans of the text first, then the best by each score, then words where values stand."""
    codes: dict[int, None] = {}
    for span in spans(row):
        codes.update(dict.fromkeys(index.phrases.get(span, ())))
    found = list(codes)[: MAX_CANDIDATES // 2]
    votes, confidence, _, _, bayes = scores
    for score in (votes, confidence, bayes):
        best = np.argsort(-score, kind="stable")[:8].tolist()
        found.extend(c for c in best if score is bayes or score[c] > 0)
    found = [c for c in dict.fromkeys(found) if counts[c] > 0]
    kept = dict.fromkeys(index.values[c] for c in found[:MAX_CANDIDATES])
    if index.extractive >= _MIN_EXTRACTIVE and index.start_field < len(row.fields):
        lead = row.fields[index.start_field]
        kept.update({" ".join(lead[:n]): None for n in (1, 2) if len(lead) >= n})
    return tuple(kept)


def _table_features(
    index: ImputeIndex,
    values: Sequence[str],
    top: IntArray,
    near: FloatArray,
    scores: Scores,
    counts: IntArray,
) -> Matrix:
    votes, best, second, support, bayes = scores
    codes = np.array([index.code_of.get(v, -1) for v in values], dtype=np.int64)
    codes = np.where((codes >= 0) & (counts[np.maximum(codes, 0)] > 0), codes, -1)
    known, safe = codes >= 0, np.maximum(codes, 0)
    likely = np.exp(bayes - bayes.max())
    likely = likely / likely.sum()
    share = votes / max(float(votes.sum()), 1e-9)
    similar = np.zeros(len(index.values))
    np.maximum.at(similar, index.value_of[top], near[top])
    shares = counts / len(index.records)
    by_value = np.stack([share, similar, best, second, likely, np.log1p(counts), shares])
    result = np.full((len(values), len(TABLE_FEATURES)), np.nan, dtype=np.float32)
    result[:, [0, 2, 4, 5, 8, 10, 11]] = np.where(known, by_value[:, safe], 0.0).T
    result[:, 1], result[:, 7], result[:, 9] = (_gap(x, codes) for x in (share, best, likely))
    result[:, 3] = near[top[0]] if len(top) else 0.0
    result[:, 6] = np.where(known, support[safe], np.nan)
    result[:, 12] = ~known
    result[:, 13:] = math.log(len(index.values)), index.extractive, index.at_start
    return result


def _gap(scores: FloatArray, codes: IntArray) -> FloatArray:
    """A candidate's score less the best score of any other value."""
    order = np.argsort(-scores, kind="stable")[:2]
    first = float(scores[order[0]])
    runner = float(scores[order[1]]) if len(order) > 1 else 0.0
    own = np.where(codes >= 0, scores[np.maximum(codes, 0)], 0.0)
    return np.asarray(own - np.where(codes == order[0], runner, first), dtype=np.float64)


def rank(candidates: Candidates, probabilities: Sequence[float]) -> list[Imputed]:
    """Order candidates by probability, the sum brought down to 1 where it is above.

    Args:
        candidates: From `impute_features`.
        probabilities: The calibrated score of each candidate, same order.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    scores = scores / max(1.0, float(scores.sum()))
    order = np.argsort(-scores, kind="stable").tolist()
    values = candidates.values
    return [Imputed(values[i], float(scores[i]), _evidence(candidates, i)) for i in order]


def _evidence(candidates: Candidates, at: int) -> tuple[tuple[str, float], ...]:
    near = candidates.neighbours[at]
    found = [] if near is None else [(f"neighbour: {near[0]}", near[1])]
    names = FEATURES["context"][: candidates.features.shape[1]]
    shown = {"in_text", "vote_share", "confidence", "bayes"}
    line = candidates.features[at].tolist()
    found += [(n, float(x)) for n, x in zip(names, line, strict=True) if n in shown and x > 0]
    return tuple(found)
