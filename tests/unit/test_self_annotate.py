from __future__ import annotations

import math

import numpy as np
import pytest

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow
from meld_duckdb.train.self_annotate import (
    MINED,
    Scored,
    annotate_choices,
    annotate_pairs,
    estimate_noise,
    mutual_nearest,
    vote_values,
    wilson_interval,
)

LEFT = [make_record({"id": i, "title": f"left {i}"}) for i in range(4)]
RIGHT = [make_record({"id": i, "title": f"right {i}"}) for i in range(4)]


def both_ways(scores: list[list[float]]) -> tuple[Scored, Scored]:
    """All pairs of a score matrix, in either direction."""
    matrix = np.array(scores)
    left, right = (index.reshape(-1) for index in np.indices(matrix.shape))
    shuffled = np.random.default_rng(0).permutation(len(left))
    forward = Scored(left, right, matrix.reshape(-1))
    return forward, Scored(left[shuffled], right[shuffled], matrix.reshape(-1)[shuffled])


MATRIX = [
    [0.95, 0.30, 0.20, 0.10],  # clear
    [0.10, 0.90, 0.88, 0.10],  # two right records are near
    [0.20, 0.10, 0.86, 0.93],  # right 3 prefers it, clearly
    [0.94, 0.10, 0.10, 0.10],  # its nearest prefers another
]


def found(matrix: list[list[float]], **more: float) -> list[tuple[int, int]]:
    return [(one.left, one.right) for one in mutual_nearest(*both_ways(matrix), **more)]  # type: ignore[arg-type]


def test_only_mutual_nearest_with_a_margin_on_both_sides() -> None:
    assert found(MATRIX) == [(2, 3)]  # left 3 is 0.01 behind left 0 for right 0
    assert found(MATRIX, margin=0.01) == [(0, 0), (1, 1), (2, 3)]
    assert found(MATRIX, margin=0.015) == [(1, 1), (2, 3)]
    assert found(MATRIX, margin=0.0, threshold=0.94) == [(0, 0)]


def test_score_and_margin_are_the_smaller_ones_of_both_directions() -> None:
    forward = Scored(np.array([0, 0]), np.array([0, 1]), np.array([0.95, 0.75]))
    backward = Scored(np.array([0, 1]), np.array([0, 0]), np.array([0.9, 0.8]))
    [one] = mutual_nearest(forward, backward)
    assert (one.left, one.right, one.score) == (0, 0, 0.9)
    assert one.margin == pytest.approx(0.1)


def test_a_single_candidate_has_its_score_as_margin() -> None:
    only = Scored(np.array([0]), np.array([0]), np.array([0.9]))
    assert mutual_nearest(only, only)[0].margin == 0.9


def test_equal_scores_leave_no_margin() -> None:
    matrix = [[0.9, 0.9], [0.1, 0.1]]
    assert found(matrix, margin=0.0) == [(0, 0)]
    assert found(matrix, margin=1e-9) == []


def test_within_one_table_no_row_is_its_own_partner() -> None:
    matrix = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]
    pairs = mutual_nearest(*both_ways(matrix), same=True)
    assert [(one.left, one.right, one.score) for one in pairs] == [(0, 1, 0.9)]


def test_thresholds_below_zero_are_refused() -> None:
    with pytest.raises(TrainingError, match="negative"):
        found(MATRIX, margin=-0.1)


def ids(row: TrainingRow) -> set[str]:
    return {f"{r.fields['title']}" for r in row.query.records}


def test_a_match_is_followed_by_the_nearest_other_pairs_as_mismatches() -> None:
    rows = annotate_pairs(LEFT, RIGHT, *both_ways(MATRIX), negatives=2)
    match, first, second = rows
    assert (match.answer, match.origin, match.weight) == ("match", SELF_ANNOTATED, 0.93)
    assert ids(match) == {"left 2", "right 3"} and match.source == match.digest
    assert ids(first) == {"left 2", "right 2"}
    assert ids(second) == {"left 2", "right 0"}
    assert {(r.answer, r.origin, r.source, r.weight) for r in (first, second)} == {
        ("mismatch", MINED, match.digest, 0.93)
    }


def test_rivals_that_are_too_good_give_no_mismatch() -> None:
    rows = annotate_pairs(LEFT, RIGHT, *both_ways(MATRIX), negatives=2, ceiling=0.5)
    assert [sorted(ids(r)) for r in rows] == [
        ["left 2", "right 3"],
        ["left 2", "right 0"],
        ["left 0", "right 3"],
    ]


def test_a_pair_chosen_as_match_is_never_mined() -> None:
    matrix = [[0.95, 0.6], [0.7, 0.9]]
    rows = annotate_pairs(LEFT[:2], RIGHT[:2], *both_ways(matrix), negatives=9)
    assert [(sorted(ids(r)), r.answer) for r in rows] == [
        (["left 0", "right 0"], "match"),
        (["left 1", "right 0"], "mismatch"),
        (["left 0", "right 1"], "mismatch"),
        (["left 1", "right 1"], "match"),
    ]


def test_held_out_pairs_are_neither_labelled_nor_replaced_by_the_next_best() -> None:
    query = build_query("match", (dict(RIGHT[3].fields), dict(LEFT[2].fields)))
    assert isinstance(query, Query)
    assert annotate_pairs(LEFT, RIGHT, *both_ways(MATRIX), held_out=hold_out([query])) == []
    rival = build_query("match", (dict(LEFT[2].fields), dict(RIGHT[2].fields)))
    assert isinstance(rival, Query)
    rows = annotate_pairs(
        LEFT, RIGHT, *both_ways(MATRIX), negatives=1, weight=0.5, held_out=hold_out([rival])
    )
    assert [(ids(r), r.weight) for r in rows] == [
        ({"left 2", "right 3"}, 0.5),
        ({"left 2", "right 0"}, 0.5),
    ]


def choice(values: list[str], types: list[str]) -> Query:
    query = build_query("annotate_column", (values, types))
    assert isinstance(query, Query)
    return query


def test_the_best_option_is_taken_where_it_is_clearly_ahead() -> None:
    queries = [choice([v], ["city", "person", "film"]) for v in ("a", "b", "c", "d", "e")]
    scores = [
        {"city": 0.8, "person": 0.2},
        {"city": 0.5, "person": 0.45},
        {"city": 0.3, "person": 0.1},
        {"town": 0.9, "film": 0.7},  # town is no option
        {},
    ]
    rows = annotate_choices("annotate_column", queries, scores, 0.4, 0.1)
    assert [(r.query, r.answer, r.weight) for r in rows] == [
        (queries[0], "city", 0.8),
        (queries[3], "film", 0.7),
    ]
    assert {(r.task, r.origin) for r in rows} == {("annotate_column", SELF_ANNOTATED)}
    held = hold_out([queries[0]])
    again = annotate_choices("annotate_column", queries, scores, 0.4, 0.1, held_out=held)
    assert [r.answer for r in again] == ["film"]


def test_missing_values_get_the_vote_of_the_nearest_rows() -> None:
    votes = vote_values([[("Rome", 0.9), (None, 0.9), ("Oslo", 0.6), ("Rome", 0.5), ("N/A", 1.0)]])
    assert votes == [[("Rome", pytest.approx(0.7)), ("Oslo", pytest.approx(0.3))]]
    assert vote_values([[("x", -0.5)], []]) == [[], []]
    query = build_query("impute", ({"a": "1", "city": None}, "city"))
    assert isinstance(query, Query)
    [row] = annotate_choices("impute", [query], votes, 0.6, 0.3, weight=1.0)
    assert (row.answer, row.weight, row.query.domain) == ("Rome", 1.0, None)


def row(a: int, b: int, answer: str, **more: str) -> TrainingRow:
    query = build_query("match", (dict(LEFT[a].fields), dict(RIGHT[b].fields)))
    assert isinstance(query, Query)
    return TrainingRow("match", query, answer, **more)


def test_noise_counts_wrong_answers_of_labelled_pairs_and_contradictions_apart() -> None:
    pseudo = [row(i, i, "match", origin=SELF_ANNOTATED) for i in range(4)]
    pseudo.append(row(0, 1, "mismatch", origin=MINED))
    labelled = [
        row(0, 0, "match"),
        row(1, 1, "mismatch"),
        row(2, 3, "match"),  # contradicts (2, 2) and (3, 3)
        row(0, 1, "match"),
    ]
    noise = estimate_noise(pseudo, labelled)
    assert (noise.n_rows, noise.n_checked, noise.n_wrong, noise.n_contradicted) == (4, 2, 1, 2)
    assert noise.rate == 0.5 and noise.one_to_one == 0.75
    assert (noise.low, noise.high) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    mined = estimate_noise(pseudo, labelled, MINED)
    assert (mined.n_rows, mined.n_checked, mined.n_wrong) == (1, 1, 1)


def test_noise_of_nothing_checked_is_unknown() -> None:
    noise = estimate_noise([row(0, 0, "match", origin=SELF_ANNOTATED)], [])
    assert math.isnan(noise.rate) and math.isnan(noise.one_to_one)
    assert (noise.low, noise.high) == (0.0, 1.0)


def test_wilson_interval() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
