from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.records import make_record
from meld_duckdb.retrieval.recall import estimate_recall, recapture
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.retrieval.union import Union, find_union


def caught(n: int, shares: tuple[float, float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(n) < shares[0], rng.random(n) < shares[1]


def test_independent_searches_tell_what_both_missed() -> None:
    first, second = caught(5000, (0.8, 0.6), 0)
    seen = first | second
    match, stratum = np.ones(seen.sum(), bool), np.zeros(seen.sum(), int)
    share = recapture(match, first[seen], second[seen], match, stratum)
    assert share == pytest.approx(seen.mean(), abs=0.01)
    kept = first[seen]  # the result may leave out what one search found
    share = recapture(match, first[seen], second[seen], kept, stratum)
    assert share == pytest.approx(first.mean(), abs=0.01)


def test_strata_mend_what_easy_and_hard_matches_have_in_common() -> None:
    easy, hard = caught(3000, (0.98, 0.95), 1), caught(3000, (0.4, 0.3), 2)
    first, second = (np.concatenate(pair) for pair in zip(easy, hard, strict=True))
    stratum, seen = np.repeat([0, 1], 3000), first | second
    match = np.ones(seen.sum(), bool)
    together = recapture(match, first[seen], second[seen], match, np.zeros(seen.sum(), int))
    apart = recapture(match, first[seen], second[seen], match, stratum[seen])
    assert apart == pytest.approx(seen.mean(), abs=0.02)
    assert together is not None and together > seen.mean() + 0.08


def test_too_little_to_tell_gives_none() -> None:
    ones, none, zero = np.ones(30, bool), np.zeros(30, bool), np.zeros(30, int)
    assert recapture(none, ones, ones, ones, zero) is None
    assert recapture(ones, ones, none, ones, zero) is None
    assert recapture(ones[:5], ones[:5], ones[:5], ones[:5], zero[:5]) is None
    nothing = np.zeros(0, int)
    empty = Union(nothing, nothing, nothing, nothing > 0, nothing > 0, nothing > 0)
    assert estimate_recall(TableRows([]), TableRows([]), empty) is None


def test_an_estimate_is_the_same_again_and_high_where_all_is_found() -> None:
    names = [
        f"{a} {b} {i * 37}" for i, (a, b) in enumerate((a, b) for a in "abcdefgh" for b in "uvwxyz")
    ]
    left = TableRows([make_record({"name": f"thing {n} made by someone"}) for n in names])
    right = TableRows([make_record({"name": f"thing {n} made by somebody"}) for n in names])
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(names), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found, union = find_union(left, right, (vectors, vectors.copy()), 3)
    assert np.array_equal(found.left[found.rank == 1], found.right[found.rank == 1])
    first = estimate_recall(left, right, union)
    assert first == estimate_recall(left, right, union)
    assert first is None or 0.5 < first <= 1.0
