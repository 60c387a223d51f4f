"""Attribute values: rules without labels, and what labels say about spans."""

from __future__ import annotations

import pytest

from meld_duckdb.features.attribute import FEATURES, Label, Memory, best_spans, span_features
from meld_duckdb.features.attribute_plain import (
    known_in_text,
    options_in_text,
    patterns_in_text,
    plain_answers,
)
from meld_duckdb.features.spans import read_text
from meld_duckdb.features.spans_tokens import TokenModel


def test_the_longest_option_in_the_text_is_meant() -> None:
    found = options_in_text(["A Dark Blue shirt"], ["blue", "dark blue", "red", "", "n/a"])
    assert [p.value for p in found] == ["dark blue"]
    assert options_in_text(["bluetooth"], ["blue"]) == []
    two = options_in_text(["red and green"], ["red", "green"])
    assert [p.value for p in two] == ["green", "red"]
    assert sum(p.probability for p in two) <= 1


def test_names_and_units_point_to_values() -> None:
    assert patterns_in_text(["Color: Navy Blue, size 7"], "color")[0].value == "Navy Blue"
    assert patterns_in_text(["tuna 12.5 oz can"], "net_weight")[0].value == "12.5 oz"
    assert patterns_in_text(["tuna can"], "net weight") == []
    assert patterns_in_text(["tuna"], "") == []


def test_known_values_are_given_as_they_stand() -> None:
    assert known_in_text(["by ACME Corp"], ["acme corp"])[0].value == "ACME Corp"
    nothing = plain_answers(["a shirt"], "Color", None, [])
    assert nothing[0].value == ""


@pytest.mark.parametrize("odd", ["", "\0", "(" * 1000, "x" * 1_000_000, "İ" * 20, "a.*+?["])
def test_odd_input_is_no_error(odd: str) -> None:
    assert plain_answers([odd], odd, None, [odd])
    assert plain_answers([odd], odd, [odd, "b"], [])


def test_counts_leave_the_own_text_out() -> None:
    texts = [read_text("red cup"), read_text("red mug"), read_text("blue cup")]
    labels = [Label(texts[0], "Color", "red"), Label(texts[2], "Color", "blue")]
    memory = Memory([*labels, Label(texts[1], "Color", "")])
    tokens = TokenModel(texts, [[1, 0], [0, 0], [1, 0]], 2)
    at = {name: i for i, name in enumerate(FEATURES)}
    for own, seen in ((Memory.of_text([]), 1), (Memory.of_text(labels[:1]), 0)):
        scores = tokens.left_out[0]
        places = best_spans(texts[0], "Color", scores, 1, memory, own)
        rows = span_features(texts[0], "Color", places, scores, 1, memory, own)
        line = rows[places.index((0, 0))]
        assert line[at["seen"]] == seen
    # of the two other texts that hold "red" one says it is no colour
    assert line[at["phrases"]] == 1
    assert line[at["precision"]] == 0
