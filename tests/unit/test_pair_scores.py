from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.records import make_record
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.pair_scores import candidate_scores, match_probabilities
from meld_duckdb.train.self_annotate import Scored, annotate_pairs, mutual_nearest
from tests.scripted import HashingEncoder

NAMES = ("sony alpha camera", "bosch drill hammer", "oak dining table", "garmin sport watch")
LEFT = [make_record({"id": i, "title": f"{n} black {i}7"}) for i, n in enumerate(NAMES)]
RIGHT = [make_record({"id": 9 - i, "name": f"{n} in black {i}7"}) for i, n in enumerate(NAMES)]
RIGHT.append(make_record({"id": 1, "name": None}))


def by_pair(scored: Scored) -> dict[tuple[int, int], float]:
    rows = zip(scored.left.tolist(), scored.right.tolist(), scored.score.tolist(), strict=True)
    return {(a, b): s for a, b, s in rows}


def test_both_directions_score_a_pair_alike_and_name_the_sides_alike() -> None:
    forward, backward = candidate_scores(LEFT, RIGHT, k=2)
    there, back = by_pair(forward), by_pair(backward)
    assert set(np.bincount(forward.left)) == {2} and max(np.bincount(backward.right)) == 2
    assert {(a, b) for a, b in there if a == b} == {(i, i) for i in range(4)}
    shared = there.keys() & back.keys()
    assert len(shared) >= 4
    assert [there[p] for p in shared] == pytest.approx([back[p] for p in shared], abs=1e-5)


def test_with_vectors_the_score_is_the_cosine() -> None:
    sides = [HashingEncoder().encode([embedding_text(r) for r in s]) for s in (LEFT, RIGHT[:4])]
    forward, _ = candidate_scores(LEFT, RIGHT[:4], k=2, vectors=(sides[0], sides[1]))
    for (a, b), score in by_pair(forward).items():
        assert score == pytest.approx(float(sides[0][a] @ sides[1][b]), abs=1e-6)


def test_tier_0_tells_the_matches_of_two_tables_without_labels() -> None:
    directions = match_probabilities(LEFT, RIGHT, candidate_scores(LEFT, RIGHT))
    scores = by_pair(directions[0])
    assert directions[0] is directions[1]
    assert min(scores[i, i] for i in range(4)) > max(s for (a, b), s in scores.items() if a != b)
    rows = annotate_pairs(LEFT, RIGHT, *directions, threshold=0.5, negatives=0)
    assert {frozenset(r.digest for r in row.query.records) for row in rows} == {
        frozenset((LEFT[i].digest, RIGHT[i].digest)) for i in range(4)
    }


def test_within_one_table_a_pair_is_scored_once_and_known_from_both_ends() -> None:
    table = [*LEFT, make_record({"id": 7, "title": "sony alpha camera in black 07"})]
    directions = match_probabilities(
        table, table, candidate_scores(table, table, same=True), same=True
    )
    scores = by_pair(directions[0])
    assert all(a != b and scores[b, a] == s for (a, b), s in scores.items())
    found = mutual_nearest(*directions, 0.3, 0.05, same=True)
    assert [(one.left, one.right) for one in found] == [(0, 4)]


def test_a_record_without_a_word_matches_nothing() -> None:
    pairs = Scored(np.array([0, 1]), np.array([4, 1]), np.array([0.9, 0.9]))
    scores = by_pair(match_probabilities(LEFT, RIGHT, (pairs, pairs))[0])
    assert scores[0, 4] == 0.0 and scores[1, 1] > 0.0
