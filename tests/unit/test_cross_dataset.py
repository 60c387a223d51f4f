"""Rows of several data sets: what is learned from, and what is judged by instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld_duckdb.errors import TrainingError
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.letters import MOST_OPTIONS
from meld_duckdb.train import cross_dataset
from meld_duckdb.train.cross_dataset import DrawSettings, cross_dataset_rows, left_out_rows
from meld_duckdb.train.training_rows import Labelled

NOWHERE = Path("nowhere")


def cells(name: str, n: int, wrong: int) -> list[Labelled]:
    """Cells of a column; every so many of them is an error."""
    return [
        (Query((make_record({"v": f"{name} {i}"}),), "v"), "error" if i % wrong == 0 else "correct")
        for i in range(n)
    ]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "detect_error": [cells("a", 200, 20), cells("b", 40, 4), cells("c", 40, 4)],
        "extract_attribute": [
            [
                (Query((make_record({"text": f"t{i // 2}"}),), f"column {i % 2}"), str(i))
                for i in range(60)
            ]
        ],
        "annotate_column": [
            [
                (
                    Query(
                        (make_record({"v": str(i)}),),
                        None,
                        tuple(f"type {j:03}" for j in range(80)),
                    ),
                    f"type {i:03}",
                )
                for i in range(60)
            ]
        ],
    }
    monkeypatch.setattr(
        cross_dataset,
        "SOURCES",
        {task: lambda data, own=own: iter(own) for task, own in found.items()},
    )


def test_errors_are_drawn_up_to_the_share_aimed_at(sources: None) -> None:
    rows = cross_dataset_rows(NOWHERE, "detect_error", (), DrawSettings(quota=20, positive=0.4))
    per_set = {
        name: [r for r in rows if r.origin == f"data set:{name}"]
        for name in ("detect_error-0", "detect_error-1", "detect_error-2")
    }
    assert [len(own) for own in per_set.values()] == [20, 20, 20]
    assert [sum(r.answer == "error" for r in own) for own in per_set.values()] == [8, 8, 8]


def test_a_set_left_out_is_judged_by_and_not_learned_from(sources: None) -> None:
    drawn = DrawSettings(quota=20)
    rows = cross_dataset_rows(NOWHERE, "detect_error", ("detect_error-1",), drawn)
    judged = left_out_rows(NOWHERE, "detect_error", ("detect_error-1",), drawn, 30)
    assert {r.origin for r in judged} == {"data set:detect_error-1"} and len(judged) == 30
    assert {r.query.digest for r in rows}.isdisjoint(r.query.digest for r in judged)


def test_of_a_single_set_other_records_are_judged_by(sources: None) -> None:
    drawn = DrawSettings(quota=20)
    rows = cross_dataset_rows(NOWHERE, "extract_attribute", (), drawn)
    judged = left_out_rows(NOWHERE, "extract_attribute", (), drawn, 100)
    learned = {r.query.records[0].digest for r in rows}
    assert judged and learned.isdisjoint(r.query.records[0].digest for r in judged)


def test_the_right_option_is_among_the_few_that_are_shown(sources: None) -> None:
    rows = cross_dataset_rows(NOWHERE, "annotate_column", (), DrawSettings(quota=60))
    assert len(rows) == 60
    for row in rows:
        domain = row.query.domain or ()
        assert len(domain) == MOST_OPTIONS and row.answer in domain
        assert list(domain) == sorted(domain)  # in the order of the question
    judged = left_out_rows(NOWHERE, "annotate_column", (), DrawSettings(quota=40), 100)
    learned = cross_dataset_rows(NOWHERE, "annotate_column", (), DrawSettings(quota=40))
    assert len(judged) == 20
    assert {r.answer for r in judged}.isdisjoint(r.answer for r in learned)


def test_a_task_without_data_is_named(sources: None) -> None:
    with pytest.raises(TrainingError, match="no data to learn block"):
        cross_dataset_rows(NOWHERE, "block")
