"""Conditional logit over options."""

from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.features.choose import fit_weights, option_words, probabilities


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("dbo:BirthPlace", "dbo birth place"),
        ("people.person.place_of_birth", "people person place of birth"),
        ("film.film", "film"),
        ("HTTPServer2", "http server 2"),
        ("", ""),
        ("***", ""),
        ("Größe", "größe"),
    ],
)
def test_names_become_words(option: str, words: str) -> None:
    assert option_words(option) == words


def test_long_names_keep_their_end_and_cost_little() -> None:
    assert option_words(".".join(f"part{'abcdefghijklmnopqrst'[i]}" for i in range(20))).endswith(
        "t"
    )
    assert len(option_words("x_" * 1_000_000)) < 1_000


def test_probabilities_are_a_softmax() -> None:
    found = probabilities(np.array([[1.0], [0.0]]), np.array([np.log(3.0)]))
    assert found == pytest.approx([0.75, 0.25])
    assert probabilities(np.zeros((0, 1)), np.ones(1)).shape == (0,)
    assert probabilities(np.array([[1e6], [0.0]]), np.ones(1)) == pytest.approx([1.0, 0.0])


def test_weights_follow_the_labels_and_stay_in_bounds() -> None:
    # The first feature marks the right option in three of four questions, the second never.
    one = np.array([[1.0, 0.0], [0.0, 1.0]])
    prior = np.zeros(2)
    found = fit_weights([one] * 400, [0, 0, 0, 1] * 100, prior, np.zeros(2))
    assert found[0] > 0.5
    assert found[1] == 0.0
    assert probabilities(one, found)[0] == pytest.approx(0.75, abs=0.03)


def test_without_questions_the_prior_stands() -> None:
    prior = np.array([1.0, 2.0])
    assert fit_weights([], [], prior) is prior


def test_a_question_with_one_option_moves_nothing() -> None:
    found = fit_weights([np.array([[3.0]])], [0], np.array([1.5]))
    assert found == pytest.approx([1.5])
