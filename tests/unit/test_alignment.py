from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.alignment import (
    Aligned,
    align,
    align_table,
    key_attributes,
    mine_negatives,
)
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow
from tests.scripted import HashingEncoder


def item(name: str, **more: object) -> dict[str, object]:
    return {"id": name[-1], "title": name, **more}


def text(row: dict[str, object]) -> str:
    return embedding_text(make_record(row))


def ask(task: str, *arguments: object, **extras: object) -> Query:
    query = build_query(task, arguments, extras)
    assert isinstance(query, Query)
    return query


def pair(a: dict[str, object], b: dict[str, object], answer: str, **more: str) -> TrainingRow:
    return TrainingRow("match", ask("match", a, b), answer, **more)


A1, A2, A3 = item("lamp a1"), item("lamp a2"), item("chair a3")
B1, B2, B3 = item("lamp b1"), item("lamp b2"), item("chair b3")


def test_a_match_is_aligned_in_both_directions_with_labelled_mismatches_first() -> None:
    rows = [
        pair(A1, B3, "mismatch", origin="mined"),
        pair(A1, B2, "mismatch"),
        pair(A1, B1, "match"),
    ]
    there, back = sorted(align(rows), key=lambda one: one.anchor)
    assert (there.anchor, there.positive) == (text(A1), text(B1))
    assert there.negatives == (text(B2), text(B3))
    assert (back.anchor, back.positive, back.negatives) == (text(B1), text(A1), ())
    assert there.group == back.group and there.task == "match"


def test_a_group_is_everything_that_labels_connect_and_holds_no_negatives() -> None:
    rows = [
        pair(A1, B1, "match"),
        pair(A2, B1, "match"),
        pair(A3, B3, "match"),
        pair(A1, A2, "mismatch"),  # contradicts what the two matches say together
        pair(A1, A3, "mismatch"),
    ]
    found = align(rows)
    groups = {one.anchor: one.group for one in found}
    assert groups[text(A1)] == groups[text(A2)] == groups[text(B1)] != groups[text(A3)]
    negatives = {one.anchor: one.negatives for one in found}
    assert negatives[text(A1)] == (text(A3),)


def test_held_out_pairs_are_not_aligned() -> None:
    rows = [pair(A1, B1, "match"), pair(A2, B2, "match")]
    held = hold_out([ask("match", B1, A1)])
    assert {one.anchor for one in align(rows, held_out=held)} == {text(A2), text(B2)}


def test_columns_are_aligned_with_their_type_and_with_columns_of_the_same_type() -> None:
    types = ["film.film", "people.person"]
    first = ask("annotate_column", ["Rushmore", "Duplex"], types, header="movie", title="roles")
    second = ask("annotate_column", ["Heat"], types, header="film", title="work")
    rows = [TrainingRow("annotate_column", q, "film.film") for q in (first, second)]
    found = align(rows)
    named = [one for one in found if one.positive == "film"]
    assert [one.negatives for one in named] == [("people person",)] * 4
    assert 'COL values VAL ["Rushmore"]' in {one.anchor[-27:] for one in named}
    whole = [embedding_text(q.records[0]) for q in (first, second)]
    ring = [one for one in found if one.positive in whole]
    assert [(one.anchor, one.positive) for one in ring] == [
        (whole[0], whole[1]),
        (whole[1], whole[0]),
    ]
    assert {one.group for one in found} == {"annotate_column/film.film"}


def test_header_pairs_are_aligned_with_their_relation() -> None:
    query = ask(
        "extract_relation",
        [],
        [],
        ["people.person.place_of_birth", "film.film.genre"],
        title="mayors",
        subject_header="name",
        object_header="born in",
    )
    [one] = align([TrainingRow("extract_relation", query, "people.person.place_of_birth")])
    assert (
        one.anchor
        == "COL title VAL mayors COL subject_header VAL name COL object_header VAL born in"
    )
    assert one.positive == "people person place of birth"
    assert one.negatives == ("film genre",)


def test_a_mention_is_aligned_with_its_entity_and_not_with_the_other_candidates() -> None:
    candidates = [
        {"id": "1", "name": "Paris", "types": ["city"]},
        {"id": "2", "name": "Paris", "types": ["person"]},
    ]
    query = ask("link_entity", "Paris", {"header": "town"}, candidates)
    rows = [TrainingRow("link_entity", query, "1"), TrainingRow("link_entity", query, "none")]
    [one] = align(rows)
    assert one.anchor == 'COL mention VAL Paris COL context VAL {"header":"town"}'
    assert one.positive == 'COL name VAL Paris COL types VAL ["city"]'
    assert one.negatives == ('COL name VAL Paris COL types VAL ["person"]',)
    assert one.group == "link_entity/1"


def test_schema_columns_use_the_text_that_tier_0_embeds() -> None:
    a = {"table": "person", "column": "birthDate", "description": "day of birth"}
    b = {"table": "patient", "column": "dob", "description": "date born"}
    found = align([TrainingRow("schema_match", ask("schema_match", a, b), "match")])
    texts = ("person birth date: day of birth", "patient birth date: date born")
    assert {(one.anchor, one.positive) for one in found} == {texts, texts[::-1]}


def test_records_with_the_same_missing_value_are_aligned_whatever_its_case() -> None:
    rows = [
        TrainingRow("impute", ask("impute", {"title": t, "brand": None}, "brand"), brand)
        for t, brand in (("lamp", "Acme"), ("desk", "ACME"), ("sofa", "Best"))
    ]
    assert [(one.anchor, one.positive) for one in align(rows)] == [
        ("COL title VAL lamp | COL brand", "COL title VAL desk | COL brand"),
        ("COL title VAL desk | COL brand", "COL title VAL lamp | COL brand"),
    ]


def test_a_value_known_to_be_wrong_makes_no_rows_alike() -> None:
    table = [
        {"n": str(i), "city": c, "zip": z}
        for i, (c, z) in enumerate([("Rome", "1"), ("Rome", "1"), ("Oslo", "2"), ("Oslo", "2")])
    ]
    table[1]["city"], table[3]["city"] = "Oslo", "Rome"  # both wrong
    right = ["Rome", "Rome", "Oslo", "Oslo"]
    repairs = [
        TrainingRow("repair", ask("repair", row, "city"), value)
        for row, value in zip(table, right, strict=True)
    ]
    expected = {frozenset({0, 1}), frozenset({2, 3})}

    def joined(found: list[Aligned]) -> set[frozenset[int]]:
        return {
            frozenset(int(t.split("COL n VAL ")[1][0]) for t in (one.anchor, one.positive))
            for one in found
        }

    assert joined(align(repairs)) == expected
    checks = [
        TrainingRow("detect_error", ask("detect_error", row, "city"), answer)
        for row, answer in zip(table, ("correct", "error", "correct", "error"), strict=True)
    ]
    assert joined(align(checks)) == expected  # by zip alone: the wrong cities say nothing
    assert joined(align([TrainingRow(c.task, c.query, "correct") for c in checks])) == set()


KINDS = "acme lamp, acme lamp, acme desk, best desk, best desk, Best DESK, best"
TABLE = [
    make_record({"id": i, "brand": b, "category": c, "title": f"{b} thing {i}", "note": None})
    for i, (b, c) in enumerate((*kind.split(), None)[:2] for kind in KINDS.split(", "))
]


def test_key_attributes_repeat_and_are_no_numbers_of_rows() -> None:
    assert key_attributes(TABLE) == ("brand", "category")
    assert key_attributes([make_record({"id": i, "title": f"t{i}"}) for i in range(9)]) == ()


def test_rows_that_share_key_attributes_are_aligned_in_a_ring() -> None:
    at = {embedding_text(r): i for i, r in enumerate(TABLE)}
    found = align_table(TABLE)
    assert [(at[one.anchor], at[one.positive]) for one in found] == [
        (0, 1),
        (1, 0),
        (3, 4),
        (4, 5),
        (5, 3),
    ]
    assert len({one.group for one in found}) == 2
    held = hold_out(records=[make_record({"id": "x", **dict(list(TABLE[4].fields.items())[1:])})])
    left = align_table(TABLE, held_out=held)
    assert [(at[one.anchor], at[one.positive]) for one in left] == [(0, 1), (1, 0), (3, 5), (5, 3)]
    assert align([], [TABLE]) == found


CORPUS = ["a red lamp", "a red lamp new", "a red lamp old", "a blue lamp", "a blue chair", "zebra"]
VECTORS = HashingEncoder().encode(CORPUS)


def mined(aligned: list[Aligned], k: int, **more: object) -> list[tuple[str, ...]]:
    return [one.negatives for one in mine_negatives(aligned, CORPUS, VECTORS, k, **more)]  # type: ignore[arg-type]


def test_the_nearest_unaligned_texts_fill_the_negatives_up() -> None:
    one = Aligned("a red lamp", "a red lamp new", (), "match/1", "match")
    assert mined([one], 2) == [("a red lamp old", "a blue lamp")]
    assert mined([one], 2, skip_first=1) == [("a blue lamp", "a blue chair")]
    labelled = Aligned("a red lamp", "a red lamp new", ("zebra",), "match/1", "match")
    assert mined([labelled], 2) == [("zebra", "a red lamp old")]
    assert mined([one], 99) == [("a red lamp old", "a blue lamp", "a blue chair", "zebra")]


def test_texts_of_the_same_group_are_never_negatives() -> None:
    one = Aligned("a red lamp", "a red lamp new", (), "match/1", "match")
    other = Aligned("a red lamp old", "a blue lamp", (), "match/1", "match")
    assert mined([one, other], 9) == [("a blue chair", "zebra"), ("a blue chair", "zebra")]
    apart = Aligned("a red lamp old", "a blue lamp", (), "match/2", "match")
    assert mined([one, apart], 1)[0] == ("a red lamp old",)


def test_held_out_pairs_are_never_negatives() -> None:
    texts = [{"t": "red lamp"}, {"t": "red lamp new"}, {"t": "red chair"}]
    corpus = [text(t) for t in texts]
    vectors = HashingEncoder().encode(corpus)
    one = Aligned(corpus[0], "elsewhere", (), "match/1", "match")
    held = hold_out([ask("match", texts[1], texts[0])])
    assert mine_negatives([one], corpus, vectors, 1)[0].negatives == (corpus[1],)
    assert mine_negatives([one], corpus, vectors, 1, held_out=held)[0].negatives == (corpus[2],)


def test_anchors_outside_the_corpus_need_their_vectors() -> None:
    one = Aligned("a blue sofa", "a blue lamp", (), "match/1", "match")
    with pytest.raises(TrainingError, match="a blue sofa"):
        mined([one], 1)
    anchors = HashingEncoder().encode(["a blue sofa"])
    assert mined([one], 1, anchors=anchors) == [("a blue chair",)]


def test_ties_go_to_the_earlier_text_however_many_there_are() -> None:
    corpus = [f"n{i}" for i in range(300)]
    vectors = np.ones((300, 2), np.float32) / np.sqrt(2)
    one = Aligned("n7", "n0", (), "match/1", "match")
    [found] = mine_negatives([one], corpus, vectors, 3)
    assert found.negatives == ("n1", "n2", "n3")


def test_a_pseudo_label_joins_groups_like_a_label() -> None:
    rows = [pair(A1, B1, "match"), pair(A2, B1, "match", origin=SELF_ANNOTATED)]
    assert len({one.group for one in align(rows)}) == 1
