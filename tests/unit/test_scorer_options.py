"""Tier 0 of column types, relations and entities through their scorers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.features.annotate_column import column_item
from meld_duckdb.features.extract_relation import relation_item
from meld_duckdb.planner.scorers.link_entity import LinkEntityScorer
from meld_duckdb.planner.scorers.options import OptionScorer
from meld_duckdb.planner.tables import Tables
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.tasks.base import Demonstration, Query
from tests.scripted import HashingEncoder

EMBED = HashingEncoder().encode
Known = list[Demonstration]


def scorer(task: str, folder: Path, labels: Known) -> Any:
    if task == "annotate_column":
        return OptionScorer("annotate_column", column_item, EMBED, lambda wanted: labels)
    if task == "extract_relation":
        return OptionScorer("extract_relation", relation_item, EMBED, lambda wanted: labels)
    tables = Tables(Catalogue(folder / "c.sqlite"), lambda digest: [])
    return LinkEntityScorer(tables, EMBED, lambda wanted: labels)


def column(header: str, *values: str | None) -> Query:
    return Query((make_record({"header": header, "values": list(values)}),), None, ("city", "year"))


def relation(header: str) -> Query:
    record = make_record({"subject_header": "player", "object_header": header})
    return Query((record,), None, ("plays for team", "born in city"))


def mention(text: str) -> Query:
    names = ("Paris", "Paris Hilton", "Rome")
    candidates = [
        make_record({"name": n, "types": ["person" if " " in n else "city"]}) for n in names
    ]
    return Query((make_record({"mention": text, "context": "city"}), *candidates), None, names)


ASKED = {
    "annotate_column": [column("town", "Paris"), column("x", "1999", None), column("city", "a")],
    "extract_relation": [relation("team"), relation("birth city"), relation("")],
    "link_entity": [mention("paris"), mention("Paris Hilton"), mention("Oslo")],
}
LABELS: dict[str, Known] = {
    "annotate_column": [
        Demonstration(Query(column(h, v).records), a)
        for i in range(6)
        for h, v, a in (("town", f"ville {i}", "city"), ("y", f"{1990 + i}", "year"))
    ],
    "extract_relation": [
        Demonstration(Query(relation(f"{h} {i}").records), a)
        for i in range(6)
        for h, a in (("team", "plays for team"), ("birth city", "born in city"))
    ],
    "link_entity": [
        Demonstration(Query(mention(m).records), a)
        for m, a in (("Paris", "Paris"), ("paris hilton", "Paris Hilton"), ("Bonn", "no_link")) * 3
    ],
}


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("task", list(ASKED))
def test_rankings_are_probabilities_best_first(
    task: str, with_labels: bool, tmp_path: Path
) -> None:
    found = scorer(task, tmp_path, LABELS[task] if with_labels else []).score(ASKED[task], ())
    for query, answer in zip(ASKED[task], found, strict=True):
        shares = [p for _, p in answer.ranking]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.0 + 1e-5
        assert {o for o, _ in answer.ranking} == set(query.domain or ())
        assert (answer.value, answer.probability) == answer.ranking[0]
        assert answer.tier == 0


@pytest.mark.parametrize("task", list(ASKED))
def test_an_answer_does_not_depend_on_its_batch(task: str, tmp_path: Path) -> None:
    one = scorer(task, tmp_path, LABELS[task])
    queries = ASKED[task]
    together = one.score(queries, ())
    assert together == [one.score([query], ())[0] for query in queries]
    assert together[::-1] == one.score(queries[::-1], ())


def test_right_answers_with_labels(tmp_path: Path) -> None:
    expected = {
        "annotate_column": ["city", "year", "city"],
        "extract_relation": ["plays for team", "born in city"],
        "link_entity": ["Paris", "Paris Hilton"],
    }
    for task, values in expected.items():
        found = scorer(task, tmp_path, LABELS[task]).score(ASKED[task], ())
        assert [a.value for a in found][: len(values)] == values


def test_a_mention_without_its_entity_is_unlikely(tmp_path: Path) -> None:
    one = scorer("link_entity", tmp_path, LABELS["link_entity"])
    [answer] = one.score([mention("Oslo")], ())
    assert answer.probability < one.least(mention("Oslo"), ())
    [sure] = one.score([mention("Paris")], ())
    assert sure.probability > 0.5


def test_a_new_label_changes_the_answer(tmp_path: Path) -> None:
    labels: Known = []
    one = scorer("annotate_column", tmp_path, labels)
    query = Query((make_record({"header": "wo", "values": ["x"]}),), None, ("alpha", "beta"))
    [before] = one.score([query], ())
    assert before.probability == pytest.approx(0.5, abs=0.3)
    for i in range(5):
        record = make_record({"header": "wo", "values": [f"x {i}"]})
        labels.append(Demonstration(Query((record,)), "beta"))
        record = make_record({"header": "wer", "values": [f"y {i}"]})
        labels.append(Demonstration(Query((record,)), "alpha"))
    [after] = one.score([query], ())
    assert after.value == "beta"
    assert after.probability > 0.5


@pytest.mark.parametrize("task", ["annotate_column", "extract_relation"])
def test_odd_questions_are_answered(task: str, tmp_path: Path) -> None:
    one = scorer(task, tmp_path, LABELS[task])
    records = [
        make_record({}),
        make_record({"values": json.dumps(["z" * 1_000_000])}),
        make_record({"header": "\ud800\u0000", "values": "not json", "other": "x"}),
    ]
    many = tuple(f"type.{i}" for i in range(500))
    queries = [Query((r,), None, d) for r in records for d in (("a",), many, ("a", "a", "b"))]
    found = one.score(queries, ())
    assert found[0].ranking == (("a", 1.0),)
    assert len(found[1].ranking) == 500
    assert [o for o, _ in found[2].ranking] in (["a", "b"], ["b", "a"])
    # Without a domain the labels name the options; without both nothing can be said.
    assert {o for o, _ in one.score([Query((records[0],))], ())[0].ranking} == {
        d.answer for d in LABELS[task]
    }
    assert scorer(task, tmp_path, []).score([Query((records[0],))], ()) == [None]


def test_a_mention_without_candidates_is_not_answered(tmp_path: Path) -> None:
    one = scorer("link_entity", tmp_path, [])
    assert one.score([Query((make_record({"mention": "x"}),))], ()) == [None]
    assert one.score([], ()) == []
