"""Columns as items, shapes of values, and the model that chooses among types."""

from __future__ import annotations

import json

import numpy as np
import pytest

from meld_duckdb.features import shapes
from meld_duckdb.features.annotate_column import column_item, read_values
from meld_duckdb.features.fit_options import Item, OptionModel
from tests.scripted import HashingEncoder

EMBED = HashingEncoder().encode


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, ()),
        ("", ()),
        ("[]", ()),
        ("null", ()),
        ('["a", null, "a", "N/A", "", "b"]', ("a", "b")),
        ("[1, 2.5, true, {}]", ("1", "2.5", "true", "{}")),
        ("plain text", ("plain text",)),
        ('["cut off", "in the mid', ("cut off",)),
        ("[" * 100_000, ("[" * 500,)),
    ],
)
def test_values_are_read_from_json(text: str | None, values: tuple[str, ...]) -> None:
    assert read_values(text) == values


def test_long_lists_are_cut() -> None:
    text = json.dumps([f"value {i}" for i in range(100_000)])
    assert read_values(text) == tuple(f"value {i}" for i in range(20))


def test_a_column_has_three_parts() -> None:
    item = column_item({"header": "city", "values": '["Paris", null, "Rome"]'})
    assert item == Item({"title": "", "header": "city", "values": "Paris, Rome"}, ("Paris", "Rome"))
    assert len(column_item({"values": json.dumps(["x" * 1_000_000])}).texts["values"]) == 60


@pytest.mark.parametrize(
    ("value", "shape", "kind"),
    [
        ("2011-05-03", "9999-99-99", "date"),
        ("May 3, 2011", "Aa 9, 9999", "date"),
        ("1999", "9999", "year"),
        ("12:30", "99:99", "time"),
        ("$1,200", "$9,999", "money"),
        ("45 %", "99 %", "percent"),
        ("3.14", "9.99", "number"),
        ("a@b.org", "a@a.a", "email"),
        ("Ann Lee", "Aa Aa", None),
        ("", "", None),
    ],
)
def test_values_have_shapes_and_kinds(value: str, shape: str, kind: str | None) -> None:
    assert shapes.value_shape(value) == shape
    assert shapes.value_kind(value) == kind


def test_the_kind_of_a_column_is_that_of_most_values() -> None:
    assert shapes.column_kind(["1999", "2001", "2003", "x"]) == "year"
    assert shapes.column_kind(["1999", "x", "y"]) is None
    assert shapes.column_kind(["", "n/a"]) is None
    assert shapes.agrees("year", "start year") == 1.0
    assert shapes.agrees(None, "start year") == 0.0


def test_without_labels_the_name_decides() -> None:
    model = OptionModel([], [], EMBED)
    [found] = model.score(
        [column_item({"header": "birth city", "values": '["x"]'})], [("person", "city", "film")]
    )
    assert int(np.argmax(found.probabilities)) == 1
    assert found.probabilities.sum() == pytest.approx(1.0)
    [dated] = model.score(
        [column_item({"values": '["2001-01-02", "2003-04-05"]'})], [("a", "date")]
    )
    assert dated.probabilities[1] > 0.8


def labelled() -> tuple[list[Item], list[str]]:
    items, answers = [], []
    for i in range(12):
        items.append(column_item({"header": "wo", "values": json.dumps([f"ort {i}", f"dorf {i}"])}))
        answers.append("place")
        items.append(
            column_item({"header": "wer", "values": json.dumps([f"frau {i}", f"herr {i}"])})
        )
        answers.append("person")
    return items, answers


def test_labels_teach_what_names_do_not_say() -> None:
    items, answers = labelled()
    model = OptionModel(items, answers, EMBED)
    asked = [column_item({"header": "wer", "values": '["frau 99", "kind 7"]'})]
    [found] = model.score(asked, [("place", "person", "film")])
    assert found.probabilities[1] > 0.6
    assert found.evidence
    [unseen] = model.score(
        [column_item({"header": "film", "values": '["film"]'})], [("place", "film")]
    )
    assert unseen.probabilities[1] > 0.5  # no label of it was ever seen


def test_odd_labels_do_no_harm() -> None:
    item = column_item({"values": "[]"})
    for items, answers in (
        ([item], ["a"]),
        ([item, item], ["a", "a"]),
        ([item] * 3, ["a", "b", ""]),
        ([column_item({"values": "\ud800"})] * 12, list("abcabcabcabc")),
    ):
        [found] = OptionModel(items, answers, EMBED).score([item], [("a", "z")])
        assert found.probabilities.sum() == pytest.approx(1.0)
        assert np.isfinite(found.probabilities).all()


def test_no_items_no_scores() -> None:
    assert OptionModel([], [], EMBED).score([], []) == []


def test_a_short_list_of_many_options_is_taken_for_rivals() -> None:
    items, answers = labelled()
    rng = np.random.default_rng(1)
    for i in range(16):  # more options, two of them alike and told apart by chance only
        for _ in range(3):
            header = f"kopf{i}" if i > 1 else "kopf"
            values = json.dumps([f"wert{rng.integers(99)}"])
            items.append(column_item({"header": header, "values": values}))
            answers.append(f"sorte{i}")
    model = OptionModel(items, answers, EMBED)
    asked = [column_item({"header": "kopf", "values": '["wert5"]'})] * 2
    alone = sorted({a for a in answers if a != "person"})
    found = model.score(asked, [("sorte0", "sorte1"), alone])
    share = found[1].probabilities[[alone.index("sorte0"), alone.index("sorte1")]]
    assert abs(found[0].probabilities[0] - 0.5) <= abs(share[0] / share.sum() - 0.5) + 1e-9
