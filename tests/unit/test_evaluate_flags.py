"""Flags of ``meld eval`` about training and the mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from meld_duckdb.cli.evaluate import evaluate
from meld_duckdb.errors import InputError
from meld_duckdb.evaluate import run, training
from meld_duckdb.evaluate.ablation import kcmf_options
from meld_duckdb.evaluate.flags import Flags
from meld_duckdb.evaluate.labels import Request
from meld_duckdb.evaluate.training import Training
from meld_duckdb.planner.session import Session
from meld_duckdb.train.pipeline import TrainSettings
from tests.scripted import ScriptedBackend
from tests.unit import eval_data


class _Pipeline:
    """Trains nothing, and remembers with what it should."""

    trained: list[tuple[Session, TrainSettings]]

    def __init__(self, session: Session, settings: TrainSettings, notice: object) -> None:
        self.trained.append((session, settings))

    def run(self, tasks: Sequence[str], stages: Sequence[str]) -> list[Any]:
        return []


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Session, TrainSettings]]:
    """What `run_training` would have trained."""
    _Pipeline.trained = []
    monkeypatch.setattr(training, "Pipeline", _Pipeline)
    return _Pipeline.trained


def meld_eval(folder: Path, *flags: str) -> Result:
    """Run ``meld eval`` for match, without the baselines that need the encoder."""
    given = ["--task", "match", "--data", str(folder), "--no-encoder", *flags]
    return CliRunner().invoke(evaluate, given)


@pytest.mark.parametrize("together", [False, True])
def test_training_has_the_settings_that_answers_are_asked_with(
    backend: ScriptedBackend,
    trained: list[tuple[Session, TrainSettings]],
    tmp_path: Path,
    together: bool,
) -> None:
    eval_data.em(tmp_path / "toy", False)
    asked = {"experts": 1, "expert_weights": "router", "starter": "built-in"}
    results = list(
        run.evaluate(
            "match",
            tmp_path,
            Request(),
            tier="t0",
            encode=None,
            notice=lambda line: None,
            training=Training(),
            asked=asked,
            together=together,
        )
    )
    assert [result.error for result in results] == [None]
    [(session, _)] = trained
    assert (session.mixture.settings.k, session.mixture.settings.weighting) == (1, "router")
    assert session.settings.starter == "none"  # that of the training


def seeds(settings: Any) -> dict[str, int]:
    """Every seed among settings, by where it stands."""
    found: dict[str, int] = {}
    for part in fields(settings):
        value = getattr(settings, part.name)
        if part.name == "seed":
            found["seed"] = value
        elif is_dataclass(value):
            found |= {f"{part.name}.{name}": seed for name, seed in seeds(value).items()}
    return found


def test_all_draws_of_a_training_begin_with_the_seed(
    backend: ScriptedBackend, trained: list[tuple[Session, TrainSettings]], tmp_path: Path
) -> None:
    eval_data.em(tmp_path / "toy", False)
    assert meld_eval(tmp_path, "--train", "--seed", "7").exit_code == 0
    [(_, settings)] = trained
    found = seeds(settings)
    assert {"seed", "encoder.seed", "mixture.lora.seed", "mixture.router.seed"} <= set(found)
    assert set(found.values()) == {7}


def flags(**given: Any) -> Flags:
    none = {f.name: None for f in fields(Flags)}
    return Flags(**{**none, "tier": "t2", "seed": 42, "without": (), "starter": "none", **given})


def test_labels_are_shown_in_training_and_in_asking(
    backend: ScriptedBackend, trained: list[tuple[Session, TrainSettings]], tmp_path: Path
) -> None:
    eval_data.em(tmp_path / "toy", False)
    with_labels = ("--train", "experts", "--tier", "t2", "--demonstrations", "2")
    assert meld_eval(tmp_path, *with_labels).exit_code == 0
    [(session, settings)] = trained
    assert settings.mixture.demonstrations == session.settings.answer.demonstrations == 2
    assert {len(prompt.turns) for prompt in backend.asked} == {2}


def test_experts_are_weighed_as_wanted(
    backend: ScriptedBackend, trained: list[tuple[Session, TrainSettings]], tmp_path: Path
) -> None:
    eval_data.em(tmp_path / "toy", False)
    by_router = ("--train", "experts", "--tier", "auto", "--expert-weights", "router")
    assert meld_eval(tmp_path, *by_router).exit_code == 0
    [(session, _)] = trained
    assert session.mixture.settings.weighting == "router"
    assert "expert_weights" not in flags().plan()[1]


def test_no_labels_are_shown_by_default_and_without_rag() -> None:
    plain, asked = flags(trained="experts").plan()
    assert plain is not None and plain.settings.mixture.demonstrations == 0
    assert "demonstrations" not in asked
    for given in ({}, {"demonstrations": 0}):
        bare, asked = flags(trained="experts", without=("rag",), **given).plan()
        assert bare == plain
        assert asked["demonstrations"] == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"without": ("rag",), "demonstrations": 2}, "--demonstrations is 2"),
        ({"without": ("adapters",), "experts": 3}, "--without adapters stands for --experts 0"),
        ({"without": ("experts",), "experts": 3}, "--without experts stands for --experts 1"),
    ],
)
def test_flags_that_contradict_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        flags(**given).plan()
    assert refused.value.hint == "give one of them"


def test_kcmf_shows_as_many_labels_as_wanted() -> None:
    def options(*without: str) -> dict[str, str]:
        task = "kcmf_entity_match"
        return kcmf_options(task, without, mode="choose", has_bases=False, demonstrations=3)

    assert options()["demonstrations"] == "3"
    with pytest.raises(InputError, match="--without demonstrations"):
        options("demonstrations")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"trained": "experts", "tier": "t0"}, "--train experts: about tier 2, which --tier t0"),
        ({"trained": "experts", "tier": "t1"}, "--train experts: about tier 2, which --tier t1"),
        ({"experts": 1, "tier": "t0"}, "--experts: about tier 2"),
        ({"expert_weights": "router", "tier": "t0"}, "--expert-weights: about tier 2"),
        ({"demonstrations": 2, "tier": "t0"}, "--demonstrations: about tier 2"),
        ({"without": ("rag",), "tier": "t0"}, "--without rag: about tier 2"),
        *(
            ({"without": (part,), "trained": trained}, f"--without {part}: about the training")
            for part in ("path", "router", "refinement", "pretraining")
            for trained in (None, "retrieval")
        ),
    ],
)
def test_flags_that_change_nothing_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        flags(**given).plan()
    assert (refused.value.hint or "").startswith("add --t")


def test_experts_that_are_trained_beside_what_counts_are_warned_of(
    backend: ScriptedBackend, trained: list[tuple[Session, TrainSettings]], tmp_path: Path
) -> None:
    eval_data.em(tmp_path / "toy", False)
    done = meld_eval(tmp_path, "--train", "all")
    assert done.exit_code == 0 and len(trained) == 1
    assert "warning: --train all trains experts too, which --tier t0 does not ask" in done.stderr
    assert "warning" not in meld_eval(tmp_path, "--train", "all", "--tier", "auto").stderr
    assert "warning" not in meld_eval(tmp_path, "--train").stderr
