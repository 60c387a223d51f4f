from __future__ import annotations

import random

from meld_duckdb.features.active import choose_rows, choose_uncertain, shape


def test_a_shape_keeps_signs_and_forgets_words_and_numbers() -> None:
    assert shape("12.50 oz") == "9.9 a"
    assert shape("Münster") == shape("berlin") == "a"
    assert shape(None) == ""
    assert len(shape("a1" * 10_000)) <= 50


def test_chosen_rows_show_every_frequent_kind_once() -> None:
    rows = [
        ["date 9/9/9", "oz"],
        ["date 9-9-9", "oz"],
        ["date 9/9/9", "blank"],
        ["date 9/9/9", "oz"],
    ]
    chosen = choose_rows(rows * 10, 3)
    kinds = {kind for i in chosen for kind in (rows * 10)[i]}
    assert kinds == {"date 9/9/9", "date 9-9-9", "oz", "blank"}
    assert len(set(chosen)) == 3


def test_choosing_more_than_there_is_gives_all_of_it() -> None:
    assert sorted(choose_rows([["a"], ["b"]], 9)) == [0, 1]
    assert choose_rows([], 3) == []
    assert choose_uncertain([], 0.5, [], 3) == []
    assert sorted(choose_uncertain([0.1, 0.9], 0.5, ["x", "x"], 9)) == [0, 1]


def test_greedy_choice_is_what_trying_every_row_would_choose() -> None:
    rng = random.Random(3)
    rows = [[rng.randrange(30) for _ in range(4)] for _ in range(60)]
    lazy = choose_rows(rows, 6)
    plain: list[int] = []
    for _ in range(6):
        left = [i for i in range(60) if i not in plain]
        plain.append(max(left, key=lambda i: (_gain(rows, plain, i), -i)))
    assert lazy == plain


def _gain(rows: list[list[int]], chosen: list[int], i: int) -> float:
    import math

    counts = {k: sum(k in row for row in rows) for row in rows for k in row}
    shown = {k for j in chosen for k in rows[j]}
    return round(sum(math.log(counts[k]) for k in set(rows[i]) - shown), 9)


def test_doubtful_items_come_with_a_spread_and_one_per_group() -> None:
    probabilities = [i / 100 for i in range(100)]
    chosen = choose_uncertain(probabilities, 0.3, list(range(100)), 10)
    near = [i for i in chosen if abs(probabilities[i] - 0.3) < 0.05]
    assert len(chosen) == 10 and len(near) >= 4
    assert max(probabilities[i] for i in chosen) > 0.8
    grouped = choose_uncertain(probabilities, 0.3, [i // 50 for i in range(100)], 2)
    assert {i // 50 for i in grouped} == {0, 1}
