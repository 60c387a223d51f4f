"""Candidates for a mention, and their features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from meld_duckdb.features.link_entity import (
    FEATURES,
    EntityCandidates,
    LinkMemory,
    LinkModel,
    LinkQuestion,
    link_features,
    read_entity,
    read_mention,
)
from tests.scripted import HashingEncoder

EMBED = HashingEncoder().encode


def test_equal_names_come_first_then_similar_ones() -> None:
    names = ["Paris Hilton", "paris", "Rome", "Paris", "Parma"]
    found = EntityCandidates(names).top(["PARIS", "paris hilton (star)", "zzz", ""], 3)
    assert found[0] == [1, 3, 0]
    assert found[1][0] == 0
    assert found[2] == []
    assert found[3] == []


def test_candidates_of_odd_catalogues() -> None:
    assert EntityCandidates([]).top(["x"], 5) == [[]]
    assert EntityCandidates(["a"]).top(["a"], 0) == [[]]
    assert EntityCandidates(["", "", "a"]).top(["a", "\ud800", "a" * 1_000_000], 5)[0] == [2]


def test_candidates_do_not_depend_on_the_batch_order() -> None:
    catalogue = EntityCandidates([f"name {i} {'abc'[i % 3]}" for i in range(50)])
    asked = ["name 7 b", "name a", "c 11"]
    assert catalogue.top(asked, 5) == catalogue.top(asked[::-1], 5)[::-1]


def test_records_are_read() -> None:
    entity = read_entity("Q1", {"id": "Q1", "Name": "Paris", "types": '["geo.city", null]'})
    assert (entity.name, entity.about, entity.described) == ("paris", "geo city", False)
    assert entity.types == ("geo.city",)
    text = read_entity("k", {"text": "St Antony&#39;s College is a college of Oxford."})
    assert (text.name, text.described) == ("st antony's college", True)
    assert read_entity("only key", {}).name == "only key"
    mention = read_mention({"mention": "A &amp; B", "context": '{"film":"Alien","year":null}'})
    assert (mention.text, mention.context) == ("a & b", "film alien")


@pytest.mark.parametrize("context", ["[" * 50_000, "{", "[1, null]", '"x"', "x" * 1_000_000, ""])
def test_odd_contexts_are_read(context: str) -> None:
    assert len(read_mention({"mention": "m", "context": context}).context) <= 600


def test_features_of_candidates() -> None:
    mention = read_mention({"mention": "Paris", "context": "city of France"})
    entities = [read_entity("a", {"name": "Paris"}), read_entity("b", {"name": "Paris Hilton"})]
    rows = link_features(mention, entities, [0.25, -1.0], None)
    at = FEATURES.index
    assert rows[0, at("equal name")] == 1.0
    assert rows[1, at("equal name")] == 0.0
    assert rows[1, at("name in the mention")] == 0.5
    assert rows[1, at("mention in the name")] == 1.0
    assert rows[:, at("meaning of the context")].tolist() == [0.25, 0.0]
    assert rows[1, at("rivals by name")] < rows[0, at("rivals by name")]


def test_labels_remember_entities_and_types() -> None:
    city = read_entity("city", {"name": "Paris", "types": '["geo.city"]'})
    person = read_entity("star", {"name": "Paris", "types": '["people.person"]'})
    mentions = [read_mention({"mention": "Paris", "context": c}) for c in ("town", "actress", "x")]
    memory = LinkMemory(mentions, [city, person, None])
    rows = link_features(mentions[0], [city, person], [0, 0], memory)
    types = FEATURES.index("types in such a context")
    assert rows[:, types].tolist() == pytest.approx([1.0, 0.0])
    # A label is no evidence for itself.
    alone = link_features(mentions[0], [city], [0], memory, 0, (mentions[0], city))
    assert alone[0, types] == 0.0
    assert alone[0, FEATURES.index("mention linked before")] == 0.0


def test_the_model_learns_which_types_stand_where() -> None:
    entities = (
        read_entity("city", {"name": "Paris", "types": '["geo.city"]'}),
        read_entity("star", {"name": "Paris", "types": '["people.person"]'}),
    )
    labels = [
        LinkQuestion(read_mention({"mention": "Paris", "context": context}), entities, right)
        for context, right in [("ort land", 0), ("frau film", 1)] * 8
    ]
    model = LinkModel(labels, EMBED)
    asked = [LinkQuestion(read_mention({"mention": "Paris", "context": "film"}), entities)]
    [(shares, _)] = model.score(asked)
    assert shares[1] > 0.6
    assert shares.sum() <= 1.0


def test_without_labels_a_name_is_enough_and_nonsense_is_not() -> None:
    model = LinkModel([], EMBED)
    one = read_entity("Q", {"name": "Marie Curie"})
    asked = [LinkQuestion(read_mention({"mention": m}), (one,)) for m in ("Marie Curie", "Table")]
    (same, _), (other, _) = model.score(asked)
    assert same[0] > 0.9
    assert other[0] < 0.1


def test_odd_questions() -> None:
    model = LinkModel([LinkQuestion(read_mention({}), (), None)], EMBED)
    huge = read_entity("k", {"description": "y" * 1_000_000, "types": json.dumps(["t"] * 1000)})
    found = model.score(
        [LinkQuestion(read_mention({"mention": None}), ()), LinkQuestion(read_mention({}), (huge,))]
    )
    assert found[0][0].shape == (0,)
    assert np.isfinite(found[1][0]).all()
