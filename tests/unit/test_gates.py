"""Gates: when tier 2 is used, and how its opinion is added."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, ArtefactMissing
from meld_duckdb.features.stack import Stack
from meld_duckdb.planner.ask_engine import added_up
from meld_duckdb.planner.gate import Gates, gate_json, gate_name, read_gate
from meld_duckdb.planner.session import Session
from meld_duckdb.records import make_record
from meld_duckdb.settings import resolve
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.train.gates import fit_gate, opinions_before
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.rows import TrainingRow

KEY = ("", "a", "b")


def _group(n: int, task: str = "match") -> LabelGroup:
    rows = tuple(
        TrainingRow(
            task,
            Query((make_record({"a": str(i)}), make_record({"b": str(i)})))
            if task == "match"
            else Query((make_record({"a": str(i)}),), "b"),
            ("match" if i % 3 == 0 else "mismatch") if task == "match" else f"v{i % 4}",
        )
        for i in range(n)
    )
    return LabelGroup(task, KEY, (), rows)


def _answers(group: LabelGroup, skill: float, seed: int) -> list[Answer]:
    """Opinions whose log-odds lie ``skill`` to the right side, with noise."""
    rng = np.random.default_rng(seed)
    found = []
    for row in group.dev:
        odds = (skill if row.answer == "match" else -skill) + rng.normal()
        p = float(1 / (1 + np.exp(-odds)))
        found.append(Answer("match" if p >= 0.5 else "mismatch", p, 2))
    return found


def test_a_second_opinion_that_knows_more_is_used() -> None:
    group = _group(90)
    gate = fit_gate(
        group, _answers(group, 0.5, 0), _answers(group, 3.0, 1), model_digest="m", experts="e"
    )
    assert gate.use
    assert gate.stack is not None and gate.stack.added > 0.5
    assert "tier 2 adds" in gate.reason
    assert gate.metrics["auc_tier2"] > gate.metrics["auc_tier0"]


def test_a_second_opinion_by_chance_is_not_used() -> None:
    group = _group(90)
    gate = fit_gate(
        group, _answers(group, 2.0, 0), _answers(group, 0.0, 1), model_digest="m", experts="e"
    )
    assert not gate.use
    assert not gate.escalates(0.5)


def test_few_labels_decide_nothing() -> None:
    group = _group(6)
    gate = fit_gate(
        group, _answers(group, 0, 0), _answers(group, 9, 1), model_digest="m", experts="e"
    )
    assert not gate.use
    assert "too few" in gate.reason


def test_an_open_task_is_judged_by_right_answers() -> None:
    group = _group(40, "impute")
    unsure = [Answer("v0", 0.4, 0)] * 40
    right = [Answer(row.answer, 0.9, 2) for row in group.dev]
    better = fit_gate(group, unsure, right, model_digest="m", experts="e")
    assert better.use and better.stack is None
    assert better.escalates(None) and better.escalates(0.5) and not better.escalates(0.95)
    worse = fit_gate(group, right, unsure, model_digest="m", experts="e")
    assert not worse.use


def test_sure_answers_are_not_replaced() -> None:
    group = _group(40, "impute")
    sure = [Answer(row.answer, 0.99, 0) for row in group.dev]
    wrong = [Answer("never", 1.0, 2)] * 40
    gate = fit_gate(group, sure, wrong, model_digest="m", experts="e")
    assert gate.metrics["accuracy_both"] == 1.0
    assert gate.metrics["asked_share"] == 0.0


def test_a_value_too_unlikely_to_be_said_is_not_right() -> None:
    group = _group(40, "impute")
    acceptable = [Answer(row.answer, 0.6, 0) for row in group.dev]
    unlikely = [Answer(row.answer, 0.3, 2) for row in group.dev]
    gate = fit_gate(group, acceptable, unlikely, model_digest="m", experts="e")
    assert not gate.use
    assert (gate.metrics["accuracy_before"], gate.metrics["accuracy_both"]) == (1.0, 0.0)


def test_a_cell_that_is_unlikely_to_be_wrong_is_kept() -> None:
    rows = tuple(
        TrainingRow("repair", Query((make_record({"a": str(i), "b": "x"}),), "b"), "x")
        for i in range(20)
    )
    group = LabelGroup("repair", KEY, (), rows)
    wrong, doubted = [Answer("y", 0.6, 0)] * 20, [Answer("z", 0.3, 2)] * 20
    gate = fit_gate(group, wrong, doubted, model_digest="m", experts="e")
    assert (gate.metrics["accuracy_before"], gate.metrics["accuracy_both"]) == (0.0, 1.0)


def test_where_the_language_model_fails_the_answer_before_stays() -> None:
    group = _group(40, "impute")
    acceptable = [Answer(row.answer, 0.6, 0) for row in group.dev]
    failed = [Answer(tier=2, error="unparsable: no value")] * 40
    gate = fit_gate(group, acceptable, failed, model_digest="m", experts="e")
    assert gate.metrics["accuracy_both"] == 1.0


def test_opinions_before_are_what_a_statement_says(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [
        TrainingRow(
            "impute", Query((make_record({"name": f"n{i}", "city": None}),), "city"), f"city {i}"
        )
        for i in range(30)
    ]
    con.execute(
        "SELECT meld_learn('impute', {'row': {'name': 'n' || i, 'city': NULL}, 'column': 'city'}, "
        "'city ' || i) FROM range(30) r(i)"
    ).fetchall()
    session = Session(resolve({"workspace": str(tmp_path / "workspace")})[0], print)
    group = LabelGroup("impute", KEY, tuple(rows[:20]), tuple(rows[20:]))
    for answer in opinions_before(session, group):
        assert answer is not None and answer.value is None
        assert (answer.error or "").startswith("low_confidence")
        assert 0 < (answer.probability or 0) < 0.5  # by which the gate tells that it is unsure


def test_opinions_are_added_up() -> None:
    stack = Stack(own=1.0, added=2.0, threshold=0.5)
    before, answer = Answer("mismatch", 0.4, 0), Answer("match", 0.9, 2)
    found = added_up(TASKS["match"], stack, before, answer)
    assert found.value == "match"
    assert 0.9 < (found.probability or 0) < 1.0
    assert found.tier == 2


def _write(folder: Path, model: str = "m") -> Path:
    group = _group(90)
    gate = fit_gate(
        group, _answers(group, 0.5, 0), _answers(group, 3.0, 1), model_digest=model, experts="e"
    )
    path = folder / gate_name(gate.task, gate.key)
    path.write_text(gate_json(gate))
    return path


def _gates(
    folder: Path, model: str = "m", experts: str = "e", tell: Callable[[str], None] = print
) -> Gates:
    return Gates(folder, lambda: model, lambda task: experts, tell)


def test_gates_are_read_as_written_and_found_by_key(tmp_path: Path) -> None:
    path = _write(tmp_path)
    gates = _gates(tmp_path)
    found = gates.find("match", KEY)
    assert found is not None and found.digest == read_gate(path).digest
    assert gates.of("match") and not gates.of("impute")
    assert gates.find("match", ("", "other")) is None


@pytest.mark.parametrize("other", [{"model": "another"}, {"experts": "another"}])
def test_a_gate_of_another_model_or_of_other_experts_is_not_used(
    tmp_path: Path, other: dict[str, str]
) -> None:
    _write(tmp_path)
    lines: list[str] = []
    gates = _gates(tmp_path, **other, tell=lines.append)
    assert gates.find("match", KEY) is None and gates.find("match", KEY) is None
    [line] = lines
    assert "meld train --stages experts" in line


def test_a_language_model_that_is_not_there_is_not_asked_for(tmp_path: Path) -> None:
    _write(tmp_path)
    models: list[str] = []

    def model() -> str:
        if not models:
            raise ArtefactMissing("no model")
        return models[0]

    gates = Gates(tmp_path, model, lambda task: "e", print)
    assert not gates.of("match")
    models.append("m")  # pulled meanwhile
    assert gates.of("match")


def test_no_directory_is_no_gate(tmp_path: Path) -> None:
    assert _gates(tmp_path / "none").find("match", KEY) is None


def test_damaged_gates_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": "meld-gate/7"}))
    with pytest.raises(ArtefactIncompatible, match="meld-gate/7"):
        read_gate(path)
    path.write_text(json.dumps({**content, "use": "yes"}))
    with pytest.raises(ArtefactCorrupt, match="no gate"):
        read_gate(path)
    path.write_text("{")
    with pytest.raises(ArtefactCorrupt, match="no gate"):
        read_gate(path)
