"""The starter's experts: for whom they answer, and when a new expert begins with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, ConfigError
from meld_duckdb.planner.expert_card import ANY, CARD
from meld_duckdb.planner.starter_experts import StarterExperts
from meld_duckdb.starter import starter_experts
from tests.unit.test_experts import Opinion, card, fail, source, workspace_of
from tests.unit.test_plan import pair


def test_the_starter_answers_where_nothing_is_labelled(tmp_path: Path) -> None:
    starter = workspace_of(tmp_path / "starter", card(id="match-any", key=ANY))
    own = workspace_of(tmp_path / "own", card(key=("left", "right")))
    experts = source(own, Opinion(1.0), starter=starter)
    found = experts.find("match", pair(0.5), ())
    assert found is not None and found.card.id == "match-any"
    assert found.folder == starter / "match-any"
    named = experts.find("match", pair(0.5), ("left", "right"))
    assert named is not None and named.card.id == "match-one"
    assert experts.find("schema_match", pair(0.5), ()) is None


def test_labels_know_better_than_the_starter(tmp_path: Path) -> None:
    starter = workspace_of(tmp_path / "starter", card(id="match-any", key=ANY))
    experts = source(tmp_path / "none", Opinion(1.0), labels="some", starter=starter)
    assert experts.find("match", pair(0.5), ()) is None
    assert experts.of("match", ("left", "right")) is None
    assert experts.missing("match") is not None
    begin = experts.starter.start("match")
    assert begin is not None and begin.folder == starter / "match-any"


def test_a_starter_of_another_encoder_is_not_missed(tmp_path: Path) -> None:
    other = card(id="match-any", key=ANY, encoder_digest="another")
    starter = workspace_of(tmp_path / "starter", other)
    notices: list[str] = []
    experts = source(tmp_path / "none", Opinion(1.0), notices, starter=starter)
    assert experts.find("match", pair(0.5), ()) is None and notices == []

    known = ["no encoder yet"]

    def pulled() -> str:
        if known:
            raise ArtefactMissing("no encoder", hint="pull one")
        return "another"

    found = StarterExperts(starter, pulled, fail, lambda task: False)
    assert found.find("match") is None
    known.clear()
    assert found.find("match") is not None


def test_a_damaged_expert_does_not_hide_where_a_new_one_begins(tmp_path: Path) -> None:
    starter = workspace_of(tmp_path / "starter", card(id="match-any", key=ANY))
    own = workspace_of(tmp_path / "own", card())
    (own / "match-one" / CARD).write_text("{")
    experts = source(own, Opinion(1.0), starter=starter)
    with pytest.raises(ArtefactCorrupt):
        experts.find("match", pair(0.5), ())
    assert experts.starter.start("match") is not None


def test_the_setting_names_a_place(tmp_path: Path) -> None:
    assert starter_experts("none") is None
    assert starter_experts(str(tmp_path)) == tmp_path / "experts"
    built_in = starter_experts("built-in")
    assert built_in is not None and built_in.parent.is_dir()
    with pytest.raises(ConfigError, match="expected 'built-in', 'none' or a directory"):
        starter_experts(str(tmp_path / "gone"))
