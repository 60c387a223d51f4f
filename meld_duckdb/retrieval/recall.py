"""How many matches blocking found, without labels: capture and recapture.

Two searches are two catches of the same matches. If they are independent, the share of the second
catch that the first had caught before is the share of all matches that the first caught; Chapman's
estimator of the number of all is ``(n1 + 1)(n2 + 1) / (both + 1) - 1``. A left row's likeliest
candidate by the shipped match model counts as its match, if a match is likelier than not. Only one
does: variants of a thing look like matches to the model, and are many where tables are large.

Searches are not independent: both find what is nearly equal and miss what is not. That makes an
estimate too high. Pairs are therefore counted apart by score, in fifths of the best scores of the
rows: among pairs about equally similar little dependence is left.
"""

from __future__ import annotations

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.features.context import TableIndex
from meld_duckdb.features.load import load_calibration
from meld_duckdb.features.match import PairTables, Preparer, pair_features, select_features
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.retrieval.union import Union

SAMPLE = 500
"""Left rows looked at."""

LEAST = 20
"""Likely matches below which nothing is estimated."""

LIKELY = 0.5
"""Probability from which the likeliest pair of a left row counts as a match."""

STRATA = 5

LEAST_RECAUGHT = 10
"""Matches found twice that a stratum needs; one with fewer is counted with the next higher."""

_PART = 4096


def estimate_recall(left: TableRows, right: TableRows, found: Union) -> float | None:
    """Estimate the share of all matches that are among the kept pairs.

    Args:
        left: Left table.
        right: Right table.
        found: All pairs that two searches of them found.

    Returns:
        A number in [0, 1], the same for the same input; None if there are too few likely matches in
        a sample to tell.
    """
    rows = np.unique(found.left)
    if not len(rows):
        return None
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))
    at = np.flatnonzero(np.isin(found.left, rows))
    probability = _match_probability(left, right, found.left[at], found.right[at])
    likely = _likeliest(found.left[at], probability, found.score[at]) & (probability > LIKELY)
    best = np.zeros(len(left), dtype=found.score.dtype)
    np.maximum.at(best, found.left[at], found.score[at])
    bounds = np.quantile(best[rows], np.arange(1, STRATA) / STRATA)
    stratum = np.digitize(found.score[at], bounds)
    return recapture(likely, found.lexical[at], found.dense[at], found.kept[at], stratum)


def _likeliest(left: np.ndarray, probability: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which pair is the likeliest of its left row, the more similar one of equals: bool [n]."""
    order = np.lexsort((-score, -probability, left))
    first = np.concatenate(([True], left[order][1:] != left[order][:-1]))
    chosen = np.zeros(len(left), dtype=bool)
    chosen[order[first]] = True
    return chosen


def recapture(
    match: np.ndarray, first: np.ndarray, second: np.ndarray, kept: np.ndarray, stratum: np.ndarray
) -> float | None:
    """Share of all matches, seen or not, that are kept.

    Args:
        match: Whether a pair counts as a match, bool [n].
        first: Whether the first search found it.
        second: Whether the second did.
        kept: Whether it is in the result.
        stratum: Group within which the searches are taken for independent, int [n].

    Returns:
        The share; None for fewer than `LEAST` matches, or where the lists have none in common.
    """
    if match.sum() < LEAST or not (match & first & second).any():
        return None
    total = sum(
        max((n1 + 1) * (n2 + 1) / (both + 1) - 1, seen)
        for n1, n2, both, seen in _counts(match, first, second, stratum)
    )
    return float(min(1.0, (match & kept).sum() / total))


def _counts(
    match: np.ndarray, first: np.ndarray, second: np.ndarray, stratum: np.ndarray
) -> list[list[int]]:
    """Matches of each stratum: found by the first, by the second, by both, by any."""
    counts: list[list[int]] = []
    waiting = np.zeros(4, dtype=np.int64)
    for group in np.unique(stratum):
        here = match & (stratum == group)
        waiting += [np.sum(here & x) for x in (first, second, first & second, first | second)]
        if waiting[2] >= LEAST_RECAUGHT:
            counts.append(waiting.tolist())
            waiting[:] = 0
    if counts:
        waiting += np.array(counts.pop())
    return [*counts, waiting.tolist()]


def _match_probability(
    left: TableRows, right: TableRows, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """Probability of pairs to match by the shipped model; their own rows are the context."""
    model = load_calibration("match").variant("context").model
    rows_a, at_a = np.unique(a, return_inverse=True)
    rows_b, at_b = np.unique(b, return_inverse=True)
    first, second = left.records_at(rows_a), right.records_at(rows_b)
    tables = PairTables(TableIndex(first), TableIndex(second))
    prepare = Preparer(tables.weights)
    pairs = np.column_stack([at_a, at_b])
    context = tables.context_features(pairs)
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), _PART):
        interrupt.check()
        cut = slice(start, start + _PART)
        part = [(first[i], second[j]) for i, j in pairs[cut].tolist()]
        alone = pair_features(part, None, tables.weights, prepare)
        found[cut] = model.predict(select_features(model.features, alone, context[cut]))
    return found
