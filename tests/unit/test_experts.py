"""Tier 1 in the planner: whom an expert is asked about, what it changes, what a bad one does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meld_duckdb.engine.cross_encoder import FILES, weights_digest
from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactIncompatible,
    ConfigError,
)
from meld_duckdb.features.stack import Stack
from meld_duckdb.planner import plan
from meld_duckdb.planner.cascade import Policy
from meld_duckdb.planner.expert_card import CARD, ExpertCard, expert_key, read_card
from meld_duckdb.planner.experts import Expert, Experts, expert_loader, shortlisted
from meld_duckdb.planner.plan import Planner
from meld_duckdb.planner.save_expert import existing_expert, save_expert
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.tasks.pairs import TextPair
from tests.unit.test_plan import World, pair
from tests.unit.tiny_encoder import save_tiny_encoder

COLUMNS = expert_key("match", pair(0.5), ())


def card(**changes: object) -> ExpertCard:
    plain = ExpertCard(
        id="match-one",
        task="match",
        key=COLUMNS,
        use=True,
        reason="tier 1 adds",
        stack=Stack(own=1.0, added=1.0, threshold=0.5),
        low=0.1,
        high=0.9,
        shortlist=3,
        max_tokens=64,
        encoder="all-minilm-l6-v2",
        encoder_digest="the encoder",
        weights="weights",
        labels="",
        inputs="inputs",
        rows={"labelled": 100},
        settings={"rank": 4},
        metrics={"auc_both": 0.9},
        made=1.0,
        seconds=2.0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


class Opinion:
    """A cross-encoder that says one thing of every pair; keeps what it was asked."""

    def __init__(self, odds: float | Callable[[TextPair], float]) -> None:
        self.odds = odds
        self.asked: list[TextPair] = []
        self.loaded = 0

    def load(self, *ignored: object) -> Callable[[Sequence[TextPair]], np.ndarray]:
        self.loaded += 1
        return self

    def __call__(self, pairs: Sequence[TextPair]) -> np.ndarray:
        self.asked.extend(pairs)
        odds = self.odds
        return np.array([odds(p) if callable(odds) else odds for p in pairs], dtype=np.float32)


def workspace_of(folder: Path, *cards: ExpertCard) -> Path:
    experts = folder / "experts"
    experts.mkdir(parents=True, exist_ok=True)
    for one in cards:
        (experts / one.id).mkdir(parents=True)
        (experts / one.id / CARD).write_text(one.to_json(), "utf-8")
    return experts


def source(
    folder: Path,
    opinion: Opinion,
    notices: list[str] | None = None,
    labels: str = "",
) -> Experts:
    told = [] if notices is None else notices
    return Experts(
        folder,
        lambda: "the encoder",
        opinion.load,
        lambda task: labels,
        told.append,
    )


def with_experts(folder: Path, opinion: Opinion, *cards: ExpertCard) -> World:
    folder.mkdir(exist_ok=True)
    world = World(folder)
    experts = source(workspace_of(folder, *cards), opinion)
    world.resources = replace(world.resources, experts=experts)
    world.planner = Planner(world.resources)
    return world


def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(task: str, model: str, options: object, adapted: object) -> Policy:
        return Policy(False, 0.0, 1.0, "not asked")

    monkeypatch.setattr(plan, "choose_policy", choose)


def test_an_expert_settles_unsure_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    opinion = Opinion(2.0)
    world = with_experts(tmp_path, opinion, card())
    answers, outcome = world.ask(pair(0.95), pair(0.5, "a"), pair(0.05))
    assert [(a.value, a.tier) for a in answers] == [("match", 0), ("match", 1), ("mismatch", 0)]
    assert answers[1].probability == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-6)
    assert answers[1].experts == ("match-one",)
    assert [(e.kind, e.text, e.weight) for e in answers[1].evidence] == [
        ("tier 0 log-odds", "match", 0.0),
        ("tier 1 log-odds", "match", 2.0),
    ]
    assert len(opinion.asked) == 1 and opinion.loaded == 1
    assert list(outcome.tiers) == [0, 1, 0] and outcome.engine_prompts == 0
    again, outcome = world.ask(pair(0.95), pair(0.5, "a"), pair(0.05))
    assert again == answers and list(outcome.evaluated) == [] and len(opinion.asked) == 1


def test_tier_0_and_the_expert_are_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    stack = Stack(own=0.5, added=2.0, shift=-1.0, centre=1.0, scale=4.0, threshold=0.9)
    world = with_experts(tmp_path, Opinion(3.0), card(stack=stack))
    [answer], _ = world.ask(pair(0.8))
    odds = -1.0 + 0.5 * np.log(0.8 / 0.2) + 2.0 * (3.0 - 1.0) / 4.0
    assert answer.probability == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    assert answer.value == "mismatch"
    assert world.ask(pair(0.8), threshold=0.5)[0][0].value == "match"


def test_what_the_expert_leaves_unsure_goes_on_to_the_language_model(tmp_path: Path) -> None:
    world = with_experts(tmp_path, Opinion(lambda p: 6.0 if "sure" in p[0] + p[1] else 0.0), card())
    answers, outcome = world.ask(pair(0.6, "sure"), pair(0.6, "dunno"))
    assert [a.tier for a in answers] == [1, 2] and outcome.engine_prompts == 1
    assert answers[1].evidence[0].kind == "tier 1"


def test_an_expert_that_did_not_help_is_asked_by_name_only(tmp_path: Path) -> None:
    opinion = Opinion(2.0)
    world = with_experts(tmp_path, opinion, card(use=False))
    assert world.ask(pair(0.5))[0][0].tier == 2 and opinion.loaded == 0
    answers, outcome = world.ask(pair(0.5), pair(0.99), tier="t1")
    assert [a.tier for a in answers] == [1, 1] and outcome.engine_prompts == 0
    assert len(outcome.evaluated) == 2
    assert [a.tier for a in world.ask(pair(0.5), tier="t0")[0]] == [0]


def test_tier_1_by_name_needs_an_expert(tmp_path: Path) -> None:
    bare = World(tmp_path)
    with pytest.raises(ConfigError, match="'t1', but match has no expert"):
        bare.ask(pair(0.5), tier="t1")
    world = with_experts(tmp_path / "other", Opinion(1.0), card())
    other = Query((make_record({"p": 0.5, "year": "1"}), make_record({"name": "x"})))
    answers, _ = world.ask(pair(0.5), other, tier="t1")
    assert [a.error for a in answers] == [
        None,
        "no_expert: no expert was trained for records with these columns",
    ]
    elsewhere = with_experts(tmp_path / "third", Opinion(1.0), card(task="impute"))
    with pytest.raises(ConfigError, match="none was trained"):
        elsewhere.ask(pair(0.5), tier="t1")


def test_a_new_expert_never_reuses_old_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    world = with_experts(tmp_path, Opinion(2.0), card())
    first = world.ask(pair(0.5))[0][0]
    folder = tmp_path / "experts" / "match-one"
    for changes in ({"weights": "other"}, {"stack": Stack(own=2.0)}, {"high": 0.8}):
        (folder / CARD).write_text(card(**changes).to_json(), "utf-8")
        later = source(tmp_path / "experts", Opinion(-2.0))
        planner = Planner(replace(world.resources, experts=later))
        world.planner, before = planner, world.planner
        _, outcome = world.ask(pair(0.5))
        assert len(outcome.evaluated) == 1, changes
        world.planner = before
    assert world.ask(pair(0.5))[0][0] == first
    unused = source(workspace_of(tmp_path / "e", card(use=False)), Opinion(0.0))
    one = Planner(replace(world.resources, experts=unused))
    none = Planner(replace(world.resources, experts=None))
    world.planner = none
    world.ask(pair(0.5))
    world.planner = one
    assert list(world.ask(pair(0.5))[1].evaluated) == []


def test_an_expert_that_appears_while_the_session_is_open_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    world = with_experts(tmp_path, Opinion(2.0))
    assert world.ask(pair(0.5))[0][0].tier == 0
    workspace_of(tmp_path, card())
    answers, outcome = world.ask(pair(0.5))
    assert answers[0].tier == 1 and len(outcome.evaluated) == 1


def fail(*ignored: object) -> Any:
    raise AssertionError("nothing may be computed")


def test_no_directory_of_experts_costs_nothing(tmp_path: Path) -> None:
    experts = Experts(tmp_path / "none", fail, fail, fail, fail)
    assert experts.find("match", pair(0.5), ()) is None and experts.own() == []


def test_questions_of_other_tables_have_no_expert(tmp_path: Path) -> None:
    folder = workspace_of(tmp_path, card(key=("left", "right")))
    experts = source(folder, Opinion(1.0))
    assert experts.find("match", pair(0.5), ("right", "left")) is not None
    assert experts.find("match", pair(0.5), ("left", "other")) is None
    assert experts.find("match", pair(0.5), ()) is None
    assert experts.find("schema_match", pair(0.5), ("left", "right")) is None
    assert experts.of("match", ("left", "right"), "never") is None


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"format": "meld-expert/1"}', '["format"]', "{"],
)
def test_a_damaged_card_is_named(tmp_path: Path, text: str) -> None:
    folder = workspace_of(tmp_path, card())
    (folder / "match-one" / CARD).write_text(text)
    with pytest.raises(ArtefactCorrupt, match=r"card\.json.*train it again: meld train"):
        source(folder, Opinion(1.0)).find("match", pair(0.5), ())


@pytest.mark.parametrize(
    ("name", "value"),
    [("use", "yes"), ("low", None), ("stack", {"own": 1.0}), ("id", "other"), ("weights", "")],
)
def test_a_card_that_says_something_odd_is_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    folder = workspace_of(tmp_path, card())
    path = folder / "match-one" / CARD
    content = json.loads(path.read_text())
    assert read_card(path.parent) == card()
    path.write_text(json.dumps({**content, name: value}))
    with pytest.raises(ArtefactCorrupt):
        read_card(path.parent)


def test_a_card_of_another_version_is_incompatible(tmp_path: Path) -> None:
    folder = workspace_of(tmp_path, card()) / "match-one"
    text = (folder / CARD).read_text().replace("meld-expert/1", "meld-expert/9")
    (folder / CARD).write_text(text)
    with pytest.raises(ArtefactIncompatible, match="meld-expert/9"):
        read_card(folder)


def test_experts_of_another_encoder_are_left_out_with_one_notice(tmp_path: Path) -> None:
    notices: list[str] = []
    folder = workspace_of(tmp_path, card(encoder_digest="another"))
    experts = source(folder, Opinion(1.0), notices)
    assert experts.find("match", pair(0.5), ()) is None
    os.utime(folder, (1, 1))
    assert experts.find("match", pair(0.5), ()) is None
    assert len(notices) == 1 and "belongs to another encoder" in notices[0]
    assert notices[0].endswith("train it again: meld train --task match")
    assert "another encoder" in (experts.missing("match") or "")


def test_an_expert_serves_when_labels_were_added_since(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = workspace_of(tmp_path, card(labels="old"))
    experts = source(folder, Opinion(1.0), labels="new")
    assert experts.find("match", pair(0.5), ()) is not None
    assert "labels of match have changed" in caplog.text


def test_weights_that_do_not_belong_to_the_card_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meld_duckdb.engine.cross_encoder.model_digest", lambda path: "m")
    load = expert_loader(lambda: tmp_path, "cpu", lambda line: None)
    folder = workspace_of(tmp_path, card()) / "match-one"
    with pytest.raises(ArtefactCorrupt, match="incomplete"):
        load(card(), folder)
    for name in FILES:
        (folder / name).write_bytes(b"x")
    with pytest.raises(ArtefactCorrupt, match="not those its card was written for"):
        load(card(), folder)


def test_the_expert_chooses_among_the_options_tier_0_ranks_best() -> None:
    column = Query((make_record({"values": '["Ann"]'}),), None, ("city", "person", "x", "y"))
    ranking = (("city", 0.4), ("person", 0.3), ("x", 0.2), ("y", 0.1))
    said = Answer("city", 0.4, 0, ranking=ranking)
    opinion = Opinion(lambda p: 3.0 if p[1] == "person" else 0.0)
    expert = Expert(card(task="annotate_column"), Path("none"), opinion.load)
    [answer] = expert.answer([column], [said])
    assert answer is not None and answer.value == "person" and answer.tier == 1
    assert [p[1] for p in opinion.asked] == ["city", "person", "x"]
    weights = np.array([0.4, 0.3 * np.exp(3.0), 0.2])
    shares = 0.9 * weights / weights.sum()
    assert dict(answer.ranking) == pytest.approx(
        {"city": shares[0], "person": shares[1], "x": shares[2], "y": 0.1}, abs=1e-6
    )
    assert answer.evidence[1].text == "person"
    single = replace(column, domain=("city",))
    assert expert.answer([single], [Answer("city", 1.0, 0, ranking=(("city", 1.0),))]) == [None]


def test_candidates_go_with_their_options() -> None:
    records = tuple(make_record({"id": str(i), "name": f"n{i}"}) for i in range(3))
    query = Query((make_record({"mention": "m"}), *records), None, ("0", "1", "2"))
    short = shortlisted(query, ["2", "0", "1"], 2)
    assert short.domain == ("2", "0")
    assert [r.fields.get("name") for r in short.records[1:]] == ["n2", "n0"]
    assert shortlisted(replace(query, records=records[:1]), ["9"], 2).domain == ("0", "1")


def test_saving_replaces_the_expert_of_the_same_tables(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in FILES:
        (weights / name).write_text(name)
    experts = tmp_path / "experts"
    encoder = save_tiny_encoder(tmp_path / "encoder")
    own = weights_digest(encoder, weights)
    first = save_expert(experts, card(), weights)
    other = save_expert(experts, card(key=("left", "right")), weights)
    second = save_expert(experts, card(weights=own, made=2.0), weights)
    assert {f.name for f in experts.iterdir()} == {other.id, second.id}
    assert first.id != second.id and read_card(experts / second.id) == second
    assert existing_expert(experts, "match", COLUMNS, "inputs", encoder) == second
    assert existing_expert(experts, "match", COLUMNS, "changed", encoder) is None
    (experts / second.id / FILES[0]).write_text("damaged")
    assert existing_expert(experts, "match", COLUMNS, "inputs", encoder) is None
    third = save_expert(experts, card(weights=own, made=3.0), weights)
    assert third.id == second.id and existing_expert(experts, "match", COLUMNS, "inputs", encoder)
    (experts / second.id / FILES[0]).unlink()
    assert existing_expert(experts, "match", COLUMNS, "inputs", encoder) is None


def test_what_an_expert_is_called_does_not_depend_on_when_it_was_made(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in FILES:
        (weights / name).write_text(name)
    early, late, unlike = (
        save_expert(tmp_path / str(i), card(made=made, seconds=made, low=low), weights)
        for i, (made, low) in enumerate(((1.0, 0.1), (2.0, 0.1), (1.0, 0.2)))
    )
    assert early.id == late.id and early.digest == late.digest
    assert early.id != unlike.id
