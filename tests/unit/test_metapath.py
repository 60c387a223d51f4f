"""Meta-paths: what they fill, and how they are searched for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.metapath import Path, augment
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.train.metapath import search_path

LEFT = make_record({"title": "canon eos 5d black", "brand": None})
RIGHT = make_record({"title": "eos 5d camera", "brand": "canon", "colour": "black"})


def _knows(task: str, queries: Sequence[Query]) -> list[Answer | None]:
    """Answers of a tier 0 that knows brands for sure and colours hardly."""
    found: list[Answer | None] = []
    for query in queries:
        if query.target == "brand" and task == "impute":
            found.append(Answer("canon", 0.95))
        elif query.target == "colour":
            found.append(Answer("black", 0.9 if task == "extract_attribute" else 0.3))
        else:
            found.append(None)
    return found


def test_missing_fields_are_filled() -> None:
    [query] = augment([Query((LEFT, RIGHT))], ("impute",), _knows)
    assert query.records[0].fields["brand"] == "canon"
    assert query.records[1] == RIGHT


def test_fields_of_the_other_record_are_sought_in_the_text() -> None:
    [query] = augment([Query((LEFT, RIGHT))], ("extract_attribute",), _knows)
    assert query.records[0].fields == {
        "title": "canon eos 5d black",
        "brand": None,
        "colour": "black",
    }


def test_a_path_never_changes_a_value_and_ends_where_nothing_is_added() -> None:
    path = ("impute", "extract_attribute", "impute", "extract_attribute")
    [once] = augment([Query((LEFT, RIGHT))], path[:2], _knows)
    [twice] = augment([once], path, _knows)
    assert once == twice
    for before, after in zip((LEFT, RIGHT), twice.records, strict=True):
        for name, value in before.present.items():
            assert after.fields[name] == value


def test_what_is_asked_about_is_not_filled() -> None:
    [query] = augment([Query((LEFT,), "brand")], ("impute",), _knows)
    assert query.records[0] == LEFT


def test_unsure_values_are_left_out() -> None:
    unsure = make_record({"title": "eos", "colour": None})
    [query] = augment([Query((unsure,))], ("impute",), _knows)
    assert query.records[0] == unsure


def test_search_takes_what_helps_and_logs_it() -> None:
    worth: dict[Path, float] = {(): 0.5, ("impute",): 0.6, ("extract_attribute",): 0.55}
    path, log = search_path(lambda p: worth.get(p, 0.601))
    assert path == ("impute",)  # the longer one brings 0.001
    assert [(t.round, t.path, t.accepted) for t in log] == [
        (0, (), True),
        (1, ("extract_attribute",), False),
        (1, ("impute",), True),
        (2, ("impute", "extract_attribute"), False),
    ]


def test_search_breaks_ties_by_length_then_name() -> None:
    path, _ = search_path(lambda p: 0.9 if p else 0.1, sub_paths=[("impute", "extract_attribute")])
    assert path == ("extract_attribute",)


def test_a_proposed_path_is_one_unit() -> None:
    pair: Path = ("impute", "extract_attribute")
    path, _ = search_path(lambda p: 1.0 if p == pair else 0.2, sub_paths=[pair])
    assert path == pair


def test_search_ends_without_a_gain() -> None:
    path, log = search_path(lambda p: 0.4)
    assert path == () and len(log) == 3


def test_unknown_steps_are_named() -> None:
    with pytest.raises(TrainingError, match="'guess'"):
        search_path(lambda p: 0.0, sub_paths=[("guess",)])
