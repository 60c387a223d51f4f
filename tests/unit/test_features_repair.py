"""What should stand in a cell, with and without labels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meld_duckdb.features.columns import TableProfile
from meld_duckdb.features.repair import OTHER
from meld_duckdb.features.repair_fit import FittedRepairs
from meld_duckdb.features.repair_labels import CellLabel, ColumnLabels
from meld_duckdb.records import Record, make_record

ROWS = [
    {
        "zip": str(10000 + i % 5),
        "city": ("Berlin", "Hamburg", "Munich", "Bremen", "Cologne")[i % 5],
        "size": f"{i % 7 + 10}.0 oz" if i % 2 else str(i % 7 + 10),
        "state": "",
    }
    for i in range(80)
]
ROWS[7] = {**ROWS[7], "city": "Municx"}
ROWS[12] = {**ROWS[12], "city": "Hamburg"}
RECORDS = [make_record({"key": str(i), **row}) for i, row in enumerate(ROWS)]


def never_odd(records: Sequence[Record], columns: Sequence[str]) -> Sequence[float]:
    return [-3.0] * len(records)


def label(row: int, column: str, right: str | None, *, wrong: bool = True) -> CellLabel:
    text = RECORDS[row].fields[column] or ""
    return CellLabel(RECORDS[row], text, text if not wrong else right, wrong)


def test_without_labels_a_dependency_and_spelling_repair() -> None:
    fitted = FittedRepairs(TableProfile(RECORDS), {}, never_odd)
    right, misspelt, misplaced = fitted.verdicts([RECORDS[i] for i in (0, 7, 12)], ["city"] * 3)
    assert right.ranking[0][0] == "Berlin" and right.wrong < 0.3
    assert misspelt.ranking[0][0] == "Munich" and misspelt.wrong > 0.5
    assert misplaced.ranking[0][0] == "Munich"
    assert all(OTHER not in dict(v.ranking) for v in (right, misspelt, misplaced))


def test_a_format_that_labels_show_is_repaired_everywhere_and_the_right_one_left() -> None:
    labels = [label(i, "size", str(i % 7 + 10)) for i in (1, 3, 5, 9)]
    labels += [label(i, "size", None, wrong=False) for i in (2, 4, 6, 8)]
    fitted = FittedRepairs(TableProfile(RECORDS), {"size": labels}, never_odd)
    wrong, right = fitted.verdicts([RECORDS[21], RECORDS[22]], ["size"] * 2)
    assert wrong.ranking[0] == (str(21 % 7 + 10), pytest.approx(1.0, abs=0.1))
    assert wrong.reason == "as in labels"
    assert right.ranking[0][0] == RECORDS[22].fields["size"] and right.wrong < 0.2


def test_a_row_is_no_evidence_for_itself() -> None:
    labels = ColumnLabels("size", [label(1, "size", "11")])
    record, text = RECORDS[1], RECORDS[1].fields["size"] or ""
    assert "11" in labels.rewritten(record, text, None)
    assert labels.rewritten(record, text, record.digest) == {}
    assert labels.kept(text, None)[0].total == 1
    assert labels.kept(text, record.digest)[0].total == 0


def test_a_blank_is_filled_from_another_column_where_labels_do_so() -> None:
    rows = [make_record({"city": f"{c} {s}", "state": ""}) for c, s in
            [("Denver", "CO"), ("Austin", "TX"), ("San Diego", "CA")]]  # fmt: skip
    given = [CellLabel(rows[0], "", "CO", True), CellLabel(rows[1], "", "TX", True)]
    found = ColumnLabels("state", given, lambda column: ["San Diego CA"]).rewritten(
        rows[2], "", None
    )
    assert found["CA"][-1].agree == 2


def test_a_rule_holds_within_the_range_of_numbers_that_labels_show() -> None:
    rows = [
        make_record({"date": f"{i % 9 + 1}/1/{y:02d}"}) for i in range(3) for y in range(0, 99, 7)
    ]
    given = []
    for row in rows[:28]:
        text = row.fields["date"] or ""
        month, day, year = text.split("/")
        turned = f"{day}/{int(year)}/{int(month):02d}"
        wrong = int(year) < 40
        given.append(CellLabel(row, text, turned if wrong else text, wrong))
    labels = ColumnLabels("date", given)
    in_range = max(labels.rewritten(rows[0], "5/1/12", None).values(), key=lambda e: e[3].agree)[3]
    outside = max(labels.rewritten(rows[0], "5/1/80", None).values(), key=lambda e: e[3].total)[3]
    assert in_range.agree == in_range.total > 5
    assert outside.agree == 0 < outside.total


def test_letters_that_stood_for_others_are_known() -> None:
    rows = [make_record({"c": t}) for t in ("hosxital", "clixic", "good")]
    labels = ColumnLabels(
        "c",
        [
            CellLabel(rows[0], "hosxital", "hospital", True),
            CellLabel(rows[1], "clixic", "clinic", True),
            CellLabel(rows[2], "good", "good", False),
        ],
    )
    assert labels.wrong_letters == frozenset("x")


def test_flags_alone_teach_what_is_wrong() -> None:
    labels = [label(i, "size", None) for i in (1, 3, 5, 9, 11, 13)]
    labels += [label(i, "size", None, wrong=False) for i in (2, 4, 6, 8, 10, 12)]
    fitted = FittedRepairs(TableProfile(RECORDS), {"size": labels}, never_odd)
    wrong, right = fitted.verdicts([RECORDS[21], RECORDS[22]], ["size"] * 2)
    assert wrong.wrong > 0.5 > right.wrong


def test_no_table_no_label_and_no_value_still_get_a_verdict() -> None:
    fitted = FittedRepairs(None, {}, never_odd)
    blank, long = fitted.verdicts(
        [make_record({"a": None}), make_record({"a": "word " * 500})], ["a", "a"]
    )
    assert blank.ranking[0][0] == "" and long.ranking[0][0] == "word " * 500
    assert 0 <= blank.wrong <= 1
