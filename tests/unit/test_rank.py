from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.match import PairTables
from meld_duckdb.features.rank import RANK_FEATURES, Ranker, TableIndex, rank_features
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.blocking import find_candidates
from meld_duckdb.retrieval.ranking import order_candidates, shipped_ranker
from tests.unit.shipped import shipped

LEFT = [
    make_record({"title": "hoyle casino 2007", "price": "19.95"}),
    make_record({"title": "hoyle card games", "price": "9.95"}),
    make_record({"title": None, "price": None}),
]
RIGHT = [
    make_record({"title": "hoyle casino", "price": "9.99"}),
    make_record({"title": "encore software 10673 hoyle casino 2007 win xp", "price": "18.97"}),
    make_record({"title": "hoyle card games 2007", "price": "19.99"}),
]


def test_features_know_a_direction_and_hold_no_nan() -> None:
    tables = PairTables(TableIndex(LEFT), TableIndex(RIGHT))
    found = rank_features(tables, np.array([0, 0, 2]), np.array([0, 1, 0]), np.array([0.8, 0.5, 0]))
    assert found.shape == (3, len(RANK_FEATURES)) and np.isfinite(found).all()
    covered = found[:, RANK_FEATURES.index("title_covered")]
    assert covered[1] == 1.0 > covered[0]
    assert rank_features(tables, *(np.empty(0, int),) * 3).shape == (0, len(RANK_FEATURES))


def test_order_is_by_the_ranker_then_by_similarity() -> None:
    found = find_candidates(LEFT, RIGHT, 3, vectors=None, lexical=True, same=False)
    nothing = Ranker(np.zeros(len(RANK_FEATURES)))
    same = order_candidates(LEFT, RIGHT, found, 3, same=False, ranker=nothing)
    for name in ("left", "right", "rank", "score"):
        assert np.array_equal(getattr(same, name), getattr(found, name))
    weights = np.zeros(len(RANK_FEATURES))
    weights[RANK_FEATURES.index("title_covered")] = 1.0
    best = order_candidates(LEFT, RIGHT, found, 1, same=False, ranker=Ranker(weights))
    assert (best.left.tolist(), best.rank.tolist()) == ([0, 1], [1, 1])
    assert best.right.tolist() == [1, 2]


def test_the_shipped_order_is_small_and_says_what_it_has_not_seen() -> None:
    content = shipped("block")
    assert "amazon_google" in content["held_out"]
    assert not set(content["held_out"]) & set(content["trained_on"])
    assert shipped_ranker().to_dict() == content["weights"]


@pytest.mark.parametrize("data", [None, {}, {"covered": 1.0}, dict.fromkeys(RANK_FEATURES, "x")])
def test_a_bad_order_is_refused(data: object) -> None:
    with pytest.raises(ArtefactCorrupt):
        Ranker.from_dict(data)
