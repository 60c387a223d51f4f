from __future__ import annotations

import random

import pytest

from meld_duckdb.planner.questions import SHAPES, build_query
from meld_duckdb.records import make_record
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.rows import LABELLED, TrainingRow
from meld_duckdb.train.transform import TRANSFORMS, reads_back, transform

Fields = dict[str, object]


def ask(task: str, *arguments: object, **extras: object) -> Query:
    query = build_query(task, arguments, extras)
    assert isinstance(query, Query)
    return query


def row(task: str, answer: str, *arguments: object, **extras: object) -> TrainingRow:
    return TrainingRow(task, ask(task, *arguments, **extras), answer)


LAMPS: list[Fields] = [
    {"id": i, "title": f"{b} desk lamp {i} black edition", "brand": b, "price": f"{i}9.5"}
    for i, b in enumerate(("Acme", "Best", "Acme", "Best"))
]
OFFERS: list[Fields] = [
    {"id": i, "name": f"the desk lamp number {i}", "maker": b, "colour": "black"}
    for i, b in enumerate(("acme", "best", "acme", "best"))
]
CITIES: list[Fields] = [
    {"name": f"place {i}", "city": c, "zip": z}
    for i, (c, z) in enumerate((("Rome", "00100"), ("Oslo", "0150"), ("Rome", "00118")))
]
DIRTY: list[Fields] = [{**CITIES[0], "city": "Rxme"}, CITIES[1], {**CITIES[2], "city": None}]
CANDIDATES: list[Fields] = [
    {"id": "q1", "name": "Paris", "types": ["city"]},
    {"id": "q2", "name": "Paris", "types": ["person", "artist"]},
    {"id": "q3", "name": "Oslo", "types": ["city"]},
]
ROWS: dict[str, list[TrainingRow]] = {
    "match": [
        *(row("match", "match", a, b) for a, b in zip(LAMPS, OFFERS, strict=True)),
        row("match", "mismatch", LAMPS[0], OFFERS[1]),
    ],
    "impute": [
        row("impute", str(c["city"]), {**c, "city": None}, "city") for c in CITIES
    ],
    "repair": [
        row("repair", str(c["city"]), d, "city") for c, d in zip(CITIES, DIRTY, strict=True)
    ],
    "detect_error": [
        row("detect_error", "correct" if d is c else "error", d, "city")
        for c, d in zip(CITIES, DIRTY, strict=True)
    ],
    "annotate_column": [
        row("annotate_column", kind, values, ["film", "person", "date"], header=header, title=title)
        for title, header, kind, values in (
            ("work", "movie", "film", ["Heat", "Duplex"]),
            ("work", "director", "person", ["Mann", "DeVito"]),
            ("work", "year", "date", ["1995", "2003", "2004"]),
            ("other", "film", "film", ["Ran"]),
        )
    ],
    "link_entity": [
        row("link_entity", "q1", "Paris", {"header": "town", "page_title": "mayors"}, CANDIDATES),
        row("link_entity", "q3", "Oslo", {"header": "town", "page_title": "mayors"}, CANDIDATES),
        row("link_entity", "q2", "Paris", "a painter", CANDIDATES),
    ],
    "schema_match": [
        row("schema_match", "match", {"column": "dob", "table": "person"}, {"column": "birth date"}),
        row("schema_match", "mismatch", {"column": "dob", "table": "person"}, {"column": "city"}),
    ],
    "extract_attribute": [
        row("extract_attribute", "Ellie Shoes", "Ellie Shoes Red Patent, 14 M US", "Brand"),
        row("extract_attribute", "", "Ellie Shoes Red Patent, 14 M US", "Material"),
    ],
}  # fmt: skip
ALL = [one for rows in ROWS.values() for one in rows]
SEEDS = range(12)


def made(source: str, target: str, seed: int = 0) -> list[TrainingRow]:
    return transform(ROWS[source], target, random.Random(seed), source=source)


@pytest.mark.parametrize(("source", "target"), sorted(TRANSFORMS))
@pytest.mark.parametrize("seed", SEEDS)
def test_every_way_gives_questions_that_can_be_asked_and_answers_that_read_back(
    source: str, target: str, seed: int
) -> None:
    rows = made(source, target, seed)
    sources = {r.digest for r in ROWS[source]}
    assert rows
    assert {r.task for r in rows} == {target}
    assert {r.origin for r in rows} == {f"transformed:{source}"}
    assert all(reads_back(r) for r in rows)
    assert rows == made(source, target, seed)
    if (source, target) not in {
        ("annotate_column", "extract_relation"),
        ("link_entity", "annotate_column"),
    }:
        assert {r.source for r in rows} <= sources
    for one in rows if target in TASKS else ():
        assert rebuilt(one) == one.query
        if one.query.domain is not None:
            assert one.answer in one.query.domain


def rebuilt(one: TrainingRow) -> object:
    """The question as SQL would build it from its own records."""
    fields = [dict(r.fields) for r in one.query.records]
    if len(SHAPES[one.task].arguments) == 2 and one.task not in ("annotate_column",):
        second = fields[1] if len(fields) == 2 else one.query.target
        return build_query(one.task, (fields[0], second))
    named = {k: fields[0].get(k) for k in SHAPES[one.task].extras}
    parts = ["values"] if one.task == "annotate_column" else ["subjects", "objects"]
    lists = [fields[0].get(part) or [] for part in parts]
    return build_query(one.task, (*lists, list(one.query.domain or ())), named)


def test_a_masked_value_is_not_in_the_question_and_could_be_guessed() -> None:
    seen: set[tuple[str, str]] = set()
    for seed in SEEDS:
        for one in made("match", "impute", seed):
            [record] = one.query.records
            assert one.query.target is not None and record.fields[one.query.target] is None
            seen.add((one.query.target, one.answer.lower()))
    # A price stands nowhere else; a title is its own.
    assert seen == {
        ("brand", "acme"),
        ("brand", "best"),
        ("maker", "acme"),
        ("maker", "best"),
        ("colour", "black"),
    }


def test_titles_are_asked_for_values_of_either_record_as_they_state_them() -> None:
    rows = made("match", "extract_attribute")
    asked = {(r.query.records[0].text, r.query.target): r.answer for r in rows}
    assert asked["Acme desk lamp 0 black edition", "brand"] == "Acme"
    assert asked["Acme desk lamp 0 black edition", "maker"] == "Acme"  # said "acme" by the offer
    assert asked["Best desk lamp 1 black edition", "colour"] == "black"
    assert ("the desk lamp number 0", "maker") not in asked
    assert {target for _, target in asked} == {"brand", "maker", "colour"}


def test_matches_become_neighbours_with_the_answers_of_the_pairs() -> None:
    rows = made("match", "block")
    assert [(r.query, r.answer) for r in rows] == [(r.query, r.answer) for r in ROWS["match"]]


def test_an_error_differs_from_the_right_value_and_comes_from_the_column() -> None:
    for seed in SEEDS:
        rows = made("impute", "detect_error", seed)
        assert len(rows) == 6
        by_name = {(r.query.records[0].fields["name"], r.answer): r.query for r in rows}
        for city in CITIES:
            right = by_name[city["name"], "correct"].records[0].fields["city"]
            wrong = by_name[city["name"], "error"].records[0].fields["city"]
            assert right == city["city"] and {right, wrong} == {"Rome", "Oslo"}


def test_repairs_become_checks_and_masked_cells() -> None:
    checks = {
        (r.query.records[0].fields["name"], r.query.records[0].fields["city"]): r.answer
        for r in made("repair", "detect_error")
    }
    assert checks == {
        ("place 0", "Rxme"): "error",
        ("place 0", "Rome"): "correct",
        ("place 1", "Oslo"): "correct",
        ("place 2", None): "error",
        ("place 2", "Rome"): "correct",
    }
    masked = made("repair", "impute")
    assert [(r.query.records[0].fields["name"], r.answer) for r in masked] == [
        ("place 0", "Rome"),
        ("place 2", "Rome"),
    ]
    assert all(r.query.records[0].fields["city"] is None for r in masked)


def test_errors_put_in_are_to_be_taken_out() -> None:
    table = [make_record(c) for c in CITIES]
    for seed in SEEDS:
        rows = transform(ROWS["detect_error"], "repair", random.Random(seed), tables=[table])
        kept, broken = rows
        assert (kept.query.records[0].fields["city"], kept.answer) == ("Oslo", "Oslo")
        assert broken.query.records[0].fields["city"] != "Oslo" and broken.answer == "Oslo"
        others = {k: v for k, v in broken.query.records[0].fields.items() if k != "city"}
        assert others == {"name": "place 1", "zip": "0150"}


def test_columns_of_one_table_have_the_relation_of_their_types() -> None:
    first, second = made("annotate_column", "extract_relation")
    assert (first.answer, second.answer) == ("film to person", "person to date")
    assert first.query.records[0].fields == {
        "title": "work",
        "subject_header": "movie",
        "object_header": "director",
        "subjects": '["Heat","Duplex"]',
        "objects": '["Mann","DeVito"]',
    }
    assert "subjects" not in second.query.records[0].fields  # two cells against three
    assert set(first.query.domain or ()) == {"film to person", "person to date"}


def test_mentions_of_one_column_give_its_type() -> None:
    town, painter = made("link_entity", "annotate_column")
    assert town.answer == "city"
    assert town.query.records[0].fields == {
        "title": "mayors",
        "header": "town",
        "values": '["Paris","Oslo"]',
    }
    assert set(town.query.domain or ()) == {"city", "person", "artist"}
    assert painter.answer == "person" and set(painter.query.domain or ()) == {"person", "city"}


def test_a_column_description_is_matched_like_any_record() -> None:
    rows = made("schema_match", "match")
    assert [r.answer for r in rows] == ["match", "mismatch"]
    assert rows[0].query.records == tuple(
        sorted(ROWS["schema_match"][0].query.records, key=lambda r: r.digest)
    )


def test_an_attribute_stated_by_a_text_can_be_imputed() -> None:
    [one] = made("extract_attribute", "impute")
    assert one.query.records[0].fields == {
        "text": "Ellie Shoes Red Patent, 14 M US",
        "Brand": None,
    }
    assert (one.query.target, one.answer) == ("Brand", "Ellie Shoes")


@pytest.mark.parametrize("target", sorted({target for _, target in TRANSFORMS}))
def test_nothing_held_out_is_a_source_or_asked_about(target: str) -> None:
    for kept_out in ALL:
        held = hold_out([kept_out.query])
        rows = transform(ALL, target, random.Random(1), held_out=held)
        assert kept_out.digest not in {r.source for r in rows}
        assert not any(held.covers(r.query) for r in rows)


def test_no_row_asks_about_a_record_held_out_whatever_its_number() -> None:
    city = {**CITIES[0], "city": None, "id": "99"}
    held = hold_out(records=[make_record(city)])
    rows = transform(ROWS["repair"], "impute", random.Random(0), held_out=held)
    assert [r.query.records[0].fields["name"] for r in rows] == ["place 2"]


def test_values_of_held_out_rows_are_no_errors_either() -> None:
    table = [make_record({"name": "x", "city": "Bergen", "zip": "5003"})]
    cities = {
        r.query.records[0].fields["city"]
        for seed in SEEDS
        for r in transform(ROWS["impute"], "detect_error", random.Random(seed), tables=[table])
    }
    assert "Bergen" in cities
    held = hold_out(records=table)
    for seed in SEEDS:
        rows = transform(
            ROWS["impute"], "detect_error", random.Random(seed), tables=[table], held_out=held
        )
        assert "Bergen" not in {r.query.records[0].fields["city"] for r in rows}


def test_what_was_transformed_is_not_transformed_again() -> None:
    once = made("match", "impute")
    assert transform(once, "detect_error", random.Random(0)) == []
    again = [TrainingRow(r.task, r.query, r.answer, LABELLED) for r in once]
    assert transform(again, "detect_error", random.Random(0)) != []


def test_weights_are_passed_on_and_rows_are_drawn() -> None:
    rows = [TrainingRow(r.task, r.query, r.answer, weight=0.25) for r in ROWS["match"]]
    few = transform(rows, "block", random.Random(3), most=2)
    assert len(few) == 2 and {r.weight for r in few} == {0.25}
    assert few == transform(rows, "block", random.Random(3), most=2)


@pytest.mark.parametrize("answer", ["blank", "two\nlines", "x" * 300, "n/a"])
def test_an_answer_no_model_could_give_is_no_row(answer: str) -> None:
    assert not reads_back(row("repair", answer, CITIES[0], "city"))
    assert reads_back(row("repair", "", CITIES[0], "city"))
    assert not reads_back(row("extract_attribute", "blue", "a red lamp", "colour"))
