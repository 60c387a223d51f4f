"""Pairs of columns as items."""

from __future__ import annotations

from meld_duckdb.features.extract_relation import relation_item
from meld_duckdb.features.fit_options import OptionModel
from tests.scripted import HashingEncoder


def test_a_pair_has_five_parts() -> None:
    item = relation_item(
        {
            "title": "films",
            "subject_header": "film",
            "object_header": "released",
            "subjects": '["Alien", null]',
            "objects": '["1979", "1986"]',
        }
    )
    assert dict(item.texts) == {
        "title": "films",
        "subject_header": "film",
        "object_header": "released",
        "subjects": "Alien",
        "objects": "1979, 1986",
    }
    assert item.values == ("1979", "1986")


def test_nothing_is_needed() -> None:
    item = relation_item({})
    assert set(item.texts.values()) == {""}
    assert item.values == ()


def test_the_object_decides_between_relations() -> None:
    rows = [("spieler", "verein", "plays_for"), ("spieler", "ort", "born_in")]
    items = [
        relation_item({"title": f"liste {i}", "subject_header": s, "object_header": o})
        for i in range(10)
        for s, o, _ in rows
    ]
    answers = [answer for _ in range(10) for _, _, answer in rows]
    model = OptionModel(items, answers, HashingEncoder().encode)
    asked = relation_item({"title": "neu", "subject_header": "spieler", "object_header": "ort"})
    [found] = model.score([asked], [("plays_for", "born_in", "x.y")])
    assert found.probabilities[1] > 0.6
