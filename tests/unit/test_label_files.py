"""Files of labels: how they are laid out, what is left out, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from meld_duckdb.errors import InputError, TrainingError
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.given_labels import held_out_by, review
from meld_duckdb.train.held_out import NOTHING, hold_out
from meld_duckdb.train.label_files import (
    Checked,
    KeyedTable,
    LabelFile,
    assign_tables,
    check_labels,
)
from meld_duckdb.train.label_layouts import detect_layout


def file(task: str, *rows: dict[str, object], **given: Any) -> LabelFile:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    whole = [{name: row.get(name) for name in columns} for row in rows]
    return LabelFile(task, given.pop("source", "labels.csv"), columns, whole, **given)


def checked(task: str, *rows: dict[str, object], **given: Any) -> Checked:
    [found] = check_labels([file(task, *rows, **given)])
    return found


def pair(a: object, b: object) -> Query:
    query = build_query("match", (a, b))
    assert isinstance(query, Query)
    return query


def pairs(n: int, answer: object = 1, **more: object) -> list[dict[str, object]]:
    return [{"a": f"thing {i}", "b": f"other {i}", "label": answer, **more} for i in range(n)]


def test_one_column_per_argument_of_the_function() -> None:
    found = checked(
        "match",
        {"A": {"title": "x"}, "b": '{"title": "y"}', "answer": True},
        {"A": {"title": "x"}, "b": "plain text", "answer": "Mismatch"},
    )
    assert found.learn == [
        (pair({"title": "x"}, {"title": "y"}), "match"),
        (pair({"title": "x"}, "plain text"), "mismatch"),
    ]
    cell = checked("impute", {"row": {"name": "n", "city": None}, "col": "city", "label": "Rome"})
    assert cell.learn == [(Query((make_record({"name": "n", "city": None}),), "city"), "Rome")]


@pytest.mark.parametrize(("left", "right"), [("left_", "right_"), ("ltable_", "rtable_")])
def test_flat_pairs(left: str, right: str) -> None:
    row = {"_id": 7, left + "id": 1, left + "title": "x", right + "id": 2, right + "title": "y"}
    found = checked("match", {**row, "label": 0})
    assert found.learn == [(pair({"id": 1, "title": "x"}, {"id": 2, "title": "y"}), "mismatch")]
    assert found.lines == [
        "labels.csv: match, flat pairs, 1 rows: 1 train",
        "labels.csv: not read: _id",
    ]


def test_columns_of_schemas() -> None:
    """Fields in the order in which the functions are called, whatever the order of the file."""
    row = {
        "source_table": "person", "source_column": "dob", "source_table_description": "people",
        "source_description": "date of birth", "target_table": "patients",
        "target_column": "birth_date", "target_description": "", "label": 1, "split": "train",
    }  # fmt: skip
    [(query, answer)] = checked("schema_match", row).learn
    a = {"table": "person", "column": "dob", "description": "date of birth"} | {
        "table_description": "people"
    }
    b = {"table": "patients", "column": "birth_date", "description": ""}
    assert query == build_query("schema_match", (a, b)) and answer == "match"
    assert list(query.records[0].fields)[:3] == ["table", "column", "description"]


def tables() -> tuple[KeyedTable, KeyedTable]:
    left = [make_record({"id": i, "title": f"thing {i}"}) for i in range(3)]
    right = [make_record({"sku": f"s{i}", "name": f"thing {i}"}) for i in range(3)]
    return KeyedTable("l", "l.csv", "id", left), KeyedTable("r", "r.csv", "sku", right)


def ids(*rows: tuple[object, object, object]) -> LabelFile:
    named = ({"ltable_id": a, "rtable_id": b, "label": y} for a, b, y in rows)
    return file("match", *named, keys=("id", "sku"))


def test_ids_are_the_rows_of_two_tables() -> None:
    given = ids((0, "s1", 0), (1, "s1", 1), (9, "s1", 1), (1, "x", 0), (8, "y", 0), (7, "s0", 0))
    [found] = check_labels(assign_tables([given], [tables()]))
    left, right = (table.records for table in tables())
    assert [{r.digest for r in q.records} for q, _ in found.learn] == [
        {left[i].digest, right[1].digest} for i in (0, 1)
    ]
    assert found.warnings == [
        "labels.csv: 4 rows left out: their ids are not in the tables, such as ltable_id '9'; "
        "rtable_id 'x'; ltable_id '8' and rtable_id 'y'"
    ]
    with pytest.raises(TrainingError, match=r"of 1, their ids are not in the tables, such as ltab"):
        check_labels(assign_tables([ids((9, "s1", 1))], [tables()]))


@pytest.mark.parametrize(
    ("files", "n_tables", "message"),
    [
        ([ids((0, "s0", 1))], 0, "tables were not given. Hint: give them: --left FILE"),
        ([file("match", *pairs(1))], 1, "no file of labels names records by id"),
        ([ids((0, "s0", 1))], 2, "1 files of labels name records by id, and 2 pairs"),
    ],
)
def test_tables_and_files_go_together(
    files: Sequence[LabelFile], n_tables: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        assign_tables(files, [tables()] * n_tables)


def test_every_file_may_have_tables_of_its_own() -> None:
    first, second = tables(), tables()
    other = file("match", *pairs(1))
    given = [ids((0, "s0", 1)), other, ids((0, "s0", 1))]
    found = assign_tables(given, [first, second])
    assert [f.tables is first or f.tables is second for f in found] == [True, False, True]
    assert found[2].tables is second
    assert [f.tables for f in assign_tables(given, [first])] == [first, None, first]
    tests = [replace(f, split="test") for f in given]
    found = assign_tables([*given, *tests], [first, second])
    assert [f.tables for f in found] == [first, None, second] * 2


def test_a_key_must_be_one() -> None:
    left, right = tables()
    again = KeyedTable("l", "l.csv", "title", [*left.records, left.records[0]])
    with pytest.raises(InputError, match=r"'title' of l.csv is no key: 1 of its values occur more"):
        again.by_key()
    with pytest.raises(InputError, match=r"unknown column 'id'.*--left-key"):
        KeyedTable("r", "r.csv", "id", right.records).by_key()


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (
            "match",
            ["x", "y", "label"],
            "lacks the question; it has the columns x, y, label; labels of",
        ),
        ("match", ["a", "b", "gold"], "lacks the answer: a column answer or label; it has the col"),
        ("match", [], r"lacks the answer.* and the question; it has the columns \(none\)"),
        ("impute", ["left_a", "right_a", "label"], r"answer \(or label\), beside row \+ column"),
        ("mach", ["a", "b", "label"], "unknown task 'mach'. Hint: did you mean 'match'"),
    ],
)
def test_missing_columns_are_named(task: str, columns: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        detect_layout(task, columns, "labels.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            pairs(2, "maybe"),
            r"2 rows of labels.csv have answers in the column 'label' that are none",
        ),
        (pairs(2, None), "of 2, the answer or a part of the question is NULL"),
        (pairs(2, 1, split="holdout"), "has the value 'holdout', expected train, valid or test"),
        ([{"a": None, "b": "x", "label": 1}], "a part of the question is NULL"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused(rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises((InputError, TrainingError), match=message):
        checked("match", *rows)


def test_a_file_without_rows_is_refused() -> None:
    with pytest.raises(TrainingError, match="it has no rows"):
        check_labels([LabelFile("match", "labels.csv", ["a", "b", "label"], [])])


def test_rows_that_cannot_be_read_are_left_out_and_told() -> None:
    wrong = {"values": "no list", "types": None, "label": "city"}
    right = {"values": '["Rome"]', "types": None, "label": "city"}
    found = checked("annotate_column", wrong, right, {**right, "label": None})
    assert len(found.learn) == 1
    assert found.warnings == [
        "labels.csv: 1 rows left out: the answer or a part of the question is NULL",
        "labels.csv: 1 rows left out: the question cannot be read, such as row 1: argument 'values' "
        "is not a list",
    ]


def test_a_blank_answer_is_one_where_there_may_be_nothing() -> None:
    [(_, answer)] = checked("repair", {"row": {"a": "x"}, "column": "a", "answer": None}).learn
    assert answer == ""


def test_one_label_per_question_and_none_where_answers_differ() -> None:
    rows = [*pairs(3), *pairs(2), {"a": "other 0", "b": "thing 0", "label": 0}]
    found = checked("match", *rows)
    assert [q.records for q, _ in found.learn] == [
        pair(f"thing {i}", f"other {i}").records for i in (1, 2)
    ]
    assert found.lines[-1] == "match: 1 rows repeat another with the same answer"
    [warning] = found.warnings
    assert warning.startswith(
        "match: 3 rows left out: they contradict one another (questions: 1), such"
    )
    assert "thing 0" in warning
    with pytest.raises(TrainingError, match="its rows contradict one another"):
        checked("match", *pairs(2, 1), *pairs(2, 0))


def test_test_and_validation_rows_are_not_learned() -> None:
    rows = [
        *pairs(12, 1, split="train"),
        {"a": "t 1", "b": "t 2", "label": 0, "split": "Test"},
        {"a": "v 1", "b": "v 2", "label": 0, "split": "validation"},
        {"a": "n 1", "b": "n 2", "label": 0, "split": None},
        {"a": "other 3", "b": "thing 3", "label": 1, "split": "test"},  # thing 3, other 3 again
    ]
    found = checked("match", *rows)
    assert (len(found.learn), len(found.test), len(found.valid)) == (12, 2, 1)
    assert found.warnings == ["match: 1 train rows left out: they are valid or test rows too"]
    held = held_out_by([found], 2_000)
    assert held.covers(pair("t 2", "t 1")) and held.covers(pair("v 1", "v 2"))
    assert not held.records and not any(held.covers(q) for q, _ in found.learn)
    whole = checked("match", *rows, split="test")
    assert not whole.learn and len(whole.test) == 15


def test_a_test_cell_holds_its_row_out() -> None:
    row = {"name": "n", "city": "Rome"}
    found = checked("impute", {"row": row, "column": "city", "label": "Rome", "split": "test"})
    held = held_out_by([found], 2_000)
    assert held.covers_record(make_record(row))
    assert held.covers_record(make_record({**row, "city": None}))


def test_labels_of_several_files_are_one(tmp_path: object) -> None:
    first, second = file("match", *pairs(3)), file("match", *pairs(4), source="more.csv")
    cells = file("impute", {"row": {"x": "y"}, "column": "x", "label": "y"})
    matches, imputed = check_labels([first, second, cells])
    assert len(matches.learn) == 4 and len(imputed.learn) == 1
    assert [line.partition(":")[0] for line in matches.lines] == ["labels.csv", "more.csv", "match"]


def test_too_few_labels_are_refused_unless_the_workspace_has_more() -> None:
    found = checked("match", *pairs(2), *pairs(1, 0, b="z"))
    with pytest.raises(TrainingError, match=r"3 labels of match to learn from, at least 10 are"):
        review(found, {}, NOTHING)
    review(found, {str(i): "mismatch" for i in range(7)}, NOTHING)


def test_labels_of_one_kind() -> None:
    with pytest.raises(TrainingError, match="all 12 labels of match say 'mismatch', none 'match'"):
        review(checked("match", *pairs(12, 0)), {}, NOTHING)
    found = checked("match", *pairs(12, 1))
    review(found, {}, NOTHING)
    assert found.warnings == [
        "match: all 12 labels say 'match', none 'mismatch': the expert, which needs both, is left out"
    ]


def test_what_the_workspace_knows_is_compared() -> None:
    found = checked("match", *pairs(12, 1), *pairs(2, 0, b="z"))
    first, second, *_ = (query.digest for query, _ in found.learn)
    review(found, {first: "match", second: "mismatch"}, NOTHING)
    assert found.lines[-1] == "match: 1 labels are in the workspace already"
    assert found.warnings == ["match: 1 labels replace another answer"]


def test_what_an_earlier_run_held_out_is_not_learned() -> None:
    found = checked("match", *pairs(12, 1), *pairs(2, 0, b="z"))
    before = [query for query, _ in found.learn]
    review(found, {}, hold_out(before[:1]))
    assert [q for q, _ in found.learn] == before[1:]
    assert "1 rows left out: an earlier run held them out" in found.warnings[0]


def test_test_rows_that_were_learned_before_are_told() -> None:
    found = checked("match", *pairs(12, 1), *pairs(2, 0, b="z", split="test"))
    known = {found.test[0][0].digest: "match"}
    review(found, known, NOTHING)
    assert any("1 valid or test rows were learned before" in text for text in found.warnings)
