"""Programs learned from pairs of a wrong and a right value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.features.programs import dropped, learn, run, signature, tokens


@pytest.mark.parametrize(
    ("pairs", "new", "wanted"),
    [
        ([("12.0 oz", "12"), ("16.0 oz. Tall", "16")], "8.4 ounce", "8.4"),
        (
            [("3/1/14", "1/14/03"), ("12/1/08", "1/8/12"), ("4/2/01", "2/1/04")],
            "10/3/99",
            "3/99/10",
        ),
        ([("0.057999999999999996%", "0.058"), ("0.05%", "0.05")], "0.07%", "0.07"),
        ([("n/a", "")], "n/a", ""),
        ([("Ada Lovelace", "Lovelace, Ada")], "Alan Turing", "Turing, Alan"),
        ([("berlin", "BERLIN"), ("rome", "ROME")], "paris", "PARIS"),
    ],
)
def test_the_best_program_does_to_a_new_value_what_the_pairs_show(
    pairs: list[tuple[str, str]], new: str, wanted: str
) -> None:
    best = learn(pairs)[0]
    assert all(run(best, a) == b for a, b in pairs)
    assert run(best, new) == wanted


def test_programs_that_differ_on_other_values_are_all_kept() -> None:
    outputs = {run(p, "San Diego CA") for p in learn([("Denver CO", "Denver")], ["San Diego CA"])}
    assert {"San Diego", "San"} <= outputs


def test_a_program_says_nothing_of_a_value_that_lacks_its_parts() -> None:
    [best, *_] = learn([("3/1/14", "1/14/03"), ("4/2/01", "2/1/04")])
    assert run(best, "") is None
    assert run(best, "March 2014") is None


def test_what_a_program_drops() -> None:
    best = learn([("12 oz", "12"), ("16 oz", "16")])[0]
    assert dropped(best, "20 fl oz") == (" ", "a", " ", "a")
    assert signature("Denver CO 80201") == ("Aa", " ", "AA", " ", "9")


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_pair_is_reproduced_by_every_kept_program_and_no_value_breaks_one(
    wrong: str, right: str, other: str
) -> None:
    assert "".join(tokens(wrong)) == wrong
    for program in learn([(wrong, right)]):
        assert run(program, wrong) == right
        run(program, other)
        dropped(program, other)
