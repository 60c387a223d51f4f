"""What experts answered is kept: nothing is asked twice, whatever happens between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.planner.adapter_card import AdapterCard
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.outcomes import expert_outcomes
from meld_duckdb.train.rows import TrainingRow

RIGHT = {"a": {"one": True, "two": False}, "b": {"one": True, "two": True}}


def rows(name: str, n: int) -> tuple[TrainingRow, ...]:
    queries = [Query((make_record({"name": name, "n": str(i)}),) * 2) for i in range(n)]
    return tuple(TrainingRow("match", query, "match") for query in queries)


GROUPS = {
    "one-1": LabelGroup("match", ("one",), (), rows("one", 2)),
    "two-1": LabelGroup("match", ("two",), (), rows("two", 3)),
}


def card(name: str, weights: str = "w") -> AdapterCard:
    return AdapterCard(
        id=name,
        task="match",
        key=("one",),
        description="",
        model="m",
        model_digest="d",
        weights=f"{name}-{weights}",
    )


class Asked:
    """Answers by `RIGHT`, and what was asked."""

    def __init__(self, least: int = 99) -> None:
        self.calls: list[tuple[str, str]] = []
        self.least = least

    def __call__(self, expert: AdapterCard, group: LabelGroup) -> list[Answer]:
        if len(self.calls) == self.least:
            raise KeyboardInterrupt
        self.calls.append((expert.id, group.key[0]))
        right = RIGHT[expert.id][group.key[0]]
        return [Answer("match" if right else "mismatch")] * len(group.dev)


def test_questions_are_rows_and_experts_columns(tmp_path: Path) -> None:
    lines: list[str] = []
    found, eligible = expert_outcomes(
        [card("a"), card("b")], GROUPS, Asked(), tmp_path / "kept.json", lines.append
    )
    expected = [[True, True]] * 2 + [[False, True]] * 3
    assert np.array_equal(found, expected)
    assert eligible.all()
    assert lines == [f"expert {n} of 2: asked about 2 groups of labels" for n in (1, 2)]


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    experts = [card("a"), card("b")]
    first, _ = expert_outcomes(experts, GROUPS, Asked(), kept, print)
    again = Asked()
    assert np.array_equal(expert_outcomes(experts, GROUPS, again, kept, print)[0], first)
    assert again.calls == []


def test_a_killed_run_goes_on_at_its_expert(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    experts = [card("a"), card("b")]
    with pytest.raises(KeyboardInterrupt):
        expert_outcomes(experts, GROUPS, Asked(least=3), kept, print)
    again = Asked()
    expert_outcomes(experts, GROUPS, again, kept, print)
    assert again.calls == [("b", "one"), ("b", "two")]


def test_new_weights_and_new_labels_are_asked(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    expert_outcomes([card("a"), card("b")], GROUPS, Asked(), kept, print)
    again = Asked()
    expert_outcomes([card("a", "new"), card("b")], GROUPS, again, kept, print)
    assert again.calls == [("a", "one"), ("a", "two")]
    changed = {"one-1": GROUPS["one-1"], "two-2": GROUPS["two-1"]}
    again = Asked()
    expert_outcomes([card("a", "new"), card("b")], changed, again, kept, print)
    assert again.calls == [("a", "two"), ("b", "two")]


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "\x00", "{"])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(text)
    asked = Asked()
    expert_outcomes([card("a")], GROUPS, asked, kept, print)
    assert len(asked.calls) == 2


def test_without_experts_there_are_no_columns(tmp_path: Path) -> None:
    found, _ = expert_outcomes([], GROUPS, Asked(), tmp_path / "kept.json", print)
    assert found.shape == (5, 0)


def test_an_expert_is_asked_about_its_own_task(tmp_path: Path) -> None:
    experts = [card("a"), replace(card("b"), task="impute")]
    asked = Asked()
    found, eligible = expert_outcomes(experts, GROUPS, asked, tmp_path / "kept.json", print)
    assert asked.calls == [("a", "one"), ("a", "two")]
    assert eligible.tolist() == [[True, False]] * 5
    assert not found[:, 1].any()
    asked = Asked()
    _, eligible = expert_outcomes(
        experts, GROUPS, asked, tmp_path / "kept.json", print, tasks="all"
    )
    assert asked.calls == [("b", "one"), ("b", "two")]
    assert eligible.all()
