"""The router: what it chooses untrained and trained, and how it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, TrainingError
from meld_duckdb.planner.router import Router, choose, read_router, unit, write_router
from meld_duckdb.train.router import RouterSettings, train_router

NAMES = ("films", "wines", "tools", "books")


def _vectors(n: int, d: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return unit(found)


def test_untrained_router_takes_the_nearest_descriptions() -> None:
    experts = _vectors(4, 16, 0)
    relevance = Router().relevance(experts[[2]], experts, NAMES)
    [choice] = choose(relevance, NAMES, 2, "equal")
    assert choice.experts[0] == "tools"
    assert choice.weights == (0.5, 0.5)
    assert choice.relevance[0] == pytest.approx(1.0, abs=1e-3)


def test_ties_go_by_name_and_k_may_exceed_the_experts() -> None:
    relevance = np.full((1, 4), 0.25, dtype=np.float32)
    [choice] = choose(relevance, NAMES, 9, "router")
    assert choice.experts == ("books", "films", "tools", "wines")
    assert sum(choice.weights) == pytest.approx(1.0)


def test_who_may_not_answer_is_not_chosen() -> None:
    relevance = np.array([[0.9, -np.inf, 0.8, -np.inf]], dtype=np.float32)
    [choice] = choose(relevance, NAMES, 3, "router")
    assert choice.experts == ("films", "tools")
    assert sum(choice.weights) == pytest.approx(1.0)


def test_many_questions_share_few_weightings() -> None:
    relevance = np.random.default_rng(0).normal(0, 0.1, (500, 3)).astype(np.float32)
    choices = choose(relevance, NAMES[:3], 3, "router")
    assert len({(c.experts, c.weights) for c in choices}) < 80  # each is a merged adapter
    for choice in choices:
        assert sum(choice.weights) == pytest.approx(1.0) and min(choice.weights) >= 0.1


def test_an_expert_without_a_tenth_is_left_out() -> None:
    [choice] = choose(np.array([[0.9, -0.9, -0.9, -0.9]], dtype=np.float32), NAMES, 3, "router")
    assert choice.experts == ("films",) and choice.weights == (1.0,)


def test_only_those_who_may_answer_teach() -> None:
    questions, experts, outcomes = _lesson()
    half = np.zeros_like(outcomes)
    half[:, :2] = True
    router, report = train_router(
        questions, experts, NAMES, outcomes, RouterSettings(k=1), "encoder", half
    )
    # Of the first two experts one is right where the lesson names them, else none.
    assert report.used
    assert report.metrics["telling"] == outcomes[:, :2].sum()
    assert report.metrics["hits_trained"] > 0.9
    relevance = np.where(half, router.relevance(questions, experts, NAMES), -np.inf)
    taught = outcomes[:, :2].any(axis=1)
    assert outcomes[taught, relevance.argmax(axis=1)[taught]].mean() > 0.9


def test_router_weights_follow_relevance() -> None:
    relevance = np.array([[0.9, 0.8, 0.1, 0.0]], dtype=np.float32)
    [choice] = choose(relevance, NAMES, 2, "router")
    assert choice.experts == ("films", "wines")
    assert choice.weights[0] > choice.weights[1] > 0


def test_diversity_takes_another_kind_of_expert() -> None:
    relevance = np.array([[0.9, 0.88, 0.5, 0.1]], dtype=np.float32)
    likeness = np.eye(4)
    likeness[0, 1] = likeness[1, 0] = 0.95
    [plain] = choose(relevance, NAMES, 2, "equal")
    [diverse] = choose(relevance, NAMES, 2, "equal", likeness=likeness, diversity=0.6)
    assert plain.experts == ("films", "wines")
    assert diverse.experts == ("films", "tools")


def _lesson(n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Questions whose right expert is the one their description does not point at."""
    rng = np.random.default_rng(1)
    experts = _vectors(4, 32, 2)
    own = rng.integers(0, 4, n)
    noise = rng.normal(size=(n, 32)).astype(np.float32) * 0.15
    questions = unit(experts[own] + noise)
    outcomes = np.zeros((n, 4), dtype=bool)
    outcomes[np.arange(n), (own + 1) % 4] = True
    return questions, experts, outcomes


def test_training_finds_who_is_right() -> None:
    questions, experts, outcomes = _lesson()
    router, report = train_router(
        questions, experts, NAMES, outcomes, RouterSettings(k=1), "encoder"
    )
    assert report.used
    assert report.metrics["hits_trained"] > 0.9
    assert report.metrics["hits_untrained"] < 0.2
    relevance = router.relevance(questions, experts, NAMES)
    assert (outcomes[np.arange(len(questions)), relevance.argmax(axis=1)]).mean() > 0.9


def test_training_twice_gives_the_same_router(tmp_path: Path) -> None:
    questions, experts, outcomes = _lesson(40)
    found = [
        train_router(questions, experts, NAMES, outcomes, RouterSettings(k=1, steps=30), "e")[0]
        for _ in range(2)
    ]
    assert found[0].digest == found[1].digest != ""


def test_an_expert_younger_than_the_router_goes_by_its_description() -> None:
    questions, experts, outcomes = _lesson()
    router, _ = train_router(questions, experts, NAMES, outcomes, RouterSettings(k=1), "e")
    young = _vectors(1, 32, 9)
    more = np.concatenate([experts, young])
    relevance = router.relevance(young, more, (*NAMES, "young"))
    assert relevance[0].argmax() == 4


def test_experts_that_agree_teach_nothing() -> None:
    questions, experts, _ = _lesson(20)
    router, report = train_router(
        questions, experts, NAMES, np.ones((20, 4), dtype=bool), RouterSettings(), "e"
    )
    assert not report.used and router.digest == ""
    assert "0 questions" in report.reason


def test_random_outcomes_are_not_kept() -> None:
    questions, experts, _ = _lesson(60)
    outcomes = np.random.default_rng(3).random((60, 4)) < 0.5
    _, report = train_router(questions, experts, NAMES, outcomes, RouterSettings(k=1), "e")
    # Chance may favour the trained one, but by little.
    assert report.metrics["hits_trained"] < report.metrics["hits_untrained"] + 0.15


def test_a_router_that_only_weighs_is_judged_by_its_weights() -> None:
    questions, experts, outcomes = _lesson()
    equal, weighed = (
        train_router(
            questions, experts, NAMES, outcomes, RouterSettings(k=4, weighting=how), "encoder"
        )[1]
        for how in ("equal", "router")
    )
    assert not equal.used, "all four are chosen, whatever the router says"
    assert weighed.used
    assert weighed.metrics["hits_trained"] > weighed.metrics["hits_untrained"] + 0.2


def test_routers_are_compared_with_diversity() -> None:
    questions, experts, outcomes = _lesson()
    twins = np.concatenate([experts, experts])  # without diversity both of a pair are chosen
    doubled, names = np.tile(outcomes, 2), [f"{n} {i}" for i in range(2) for n in NAMES]
    hits = [
        train_router(
            questions, twins, names, doubled, RouterSettings(k=2, diversity=weight), "encoder"
        )[1].metrics["hits_trained"]
        for weight in (0.0, 1.0)
    ]
    assert hits[0] > 0.8 and hits[1] < 0.6


def test_diversity_term_spreads_the_choice() -> None:
    questions, experts, outcomes = _lesson()
    outcomes |= np.roll(outcomes, 1, axis=1)
    likeness = unit(experts) @ unit(experts).T - np.eye(4, dtype=np.float32)
    found = []
    for weight in (0.0, 3.0):
        settings = RouterSettings(k=1, diversity=weight, steps=60)
        router, _ = train_router(questions, experts, NAMES, outcomes, settings, "e")
        odds = np.exp(router.relevance(questions, experts, NAMES) / settings.temperature)
        share = odds / odds.sum(axis=1, keepdims=True)
        found.append(float(((share @ likeness) * share).sum(axis=1).mean()))
    assert found[1] < found[0]


def test_shapes_are_checked() -> None:
    questions, experts, outcomes = _lesson(10)
    with pytest.raises(TrainingError, match="expected"):
        train_router(questions, experts, NAMES, outcomes[:, :3], RouterSettings(), "e")


def test_router_is_read_as_written(tmp_path: Path) -> None:
    questions, experts, outcomes = _lesson(40)
    router, report = train_router(
        questions, experts, NAMES, outcomes, RouterSettings(k=1, steps=20), "e"
    )
    write_router(router, tmp_path, report.metrics)
    again = read_router(tmp_path)
    assert again.digest == router.digest
    assert np.array_equal(
        again.relevance(questions, experts, NAMES), router.relevance(questions, experts, NAMES)
    )


def test_no_router_is_an_untrained_one(tmp_path: Path) -> None:
    assert read_router(tmp_path / "none").digest == ""


def test_damaged_and_foreign_routers_are_refused(tmp_path: Path) -> None:
    write_router(Router(encoder_digest="e", shifts={"a": np.ones(3, np.float32)}), tmp_path, {})
    meta = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**meta, "format": "meld-router/9"}))
    with pytest.raises(ArtefactIncompatible, match="meld-router/9"):
        read_router(tmp_path)
    (tmp_path / "router.json").write_text(json.dumps(meta))
    (tmp_path / "router.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtefactCorrupt, match="no router"):
        read_router(tmp_path)
