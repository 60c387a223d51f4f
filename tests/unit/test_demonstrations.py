from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.planner import cascade
from meld_duckdb.planner.cascade import demonstrations_across_tables
from meld_duckdb.planner.demonstrations import (
    MOST_SETS,
    Demonstrator,
    in_shared_order,
    query_text,
    spread,
)
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.store import Label, Store
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration, Query
from tests.scripted import HashingEncoder

MATCH, IMPUTE = TASKS["match"], TASKS["impute"]
KINDS = ("lamp", "chair", "phone", "camera", "printer", "guitar", "drill", "watch", "tent", "oven")


def pair(kind: str, number: int, table: str = "one") -> Query:
    sides = [
        {"title": f"{kind} {kind} model {number}", "side": side, "table": table} for side in "ab"
    ]
    query = build_query("match", sides)
    assert isinstance(query, Query)
    return query


class World:
    def __init__(self, folder: Path, model: str = "tiny-135m", shown: int = 8) -> None:
        self.catalogue = Catalogue(folder / "catalogue.sqlite")
        self.store = Store(folder / "lance", HashingEncoder.dimension)
        self.open(model, shown)

    def open(self, model: str, shown: int = 8) -> Demonstrator:
        settings = AnswerSettings(model=model, demonstrations=shown)
        self.chooser = Demonstrator(settings, self.catalogue, lambda: self.store, HashingEncoder)
        return self.chooser

    def learn(self, labels: list[tuple[Query, str]], task: str = "match") -> None:
        self.store.add_labels([Label(task, query, answer) for query, answer in labels])
        self.catalogue.set_labels(task, {query.digest: answer for query, answer in labels})

    def index(self, name: str, records: list[Record]) -> None:
        self.catalogue.add_table(name, f"digest of {name}", records, embedded=False)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def labels(n_each: int = 6, table: str = "one") -> list[tuple[Query, str]]:
    """Matches and mismatches of every kind."""
    return [
        (pair(kind, number, table), "match" if number % 2 else "mismatch")
        for kind in KINDS
        for number in range(n_each)
    ]


def keys(shown: list[tuple[Demonstration, ...]]) -> list[tuple[str, ...]]:
    return [tuple(d.query.digest for d in one) for one in shown]


def test_a_batch_needs_few_sets_and_each_is_balanced(world: World) -> None:
    world.learn(labels())
    queries = [pair(kind, number) for kind in KINDS for number in range(100, 120)]
    shown = world.chooser.demonstrations(MATCH, queries)
    assert len(set(keys(shown))) == 8 == min(MOST_SETS, 60 // 8 + 1)
    for one in shown:
        assert [d.answer for d in one].count("match") == 4
        assert [d.answer for d in one].count("mismatch") == 4
    own = [
        sum(kind in d.query.records[0].text for d in one)
        for one, kind in zip(shown[::20], KINDS, strict=True)
    ]
    assert sum(n == 6 for n in own) >= 7  # all six labels of the kind asked about, but for two


def test_what_another_process_learns_in_between_is_not_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.learn(labels(1))
    read = world.chooser.labels

    def read_then_learn(task: str) -> dict[str, str]:
        known = read(task)
        monkeypatch.undo()
        world.learn([(pair("lamp", 50), "match")])
        return known

    monkeypatch.setattr(world.chooser, "labels", read_then_learn)
    assert len(world.chooser.labelled("match")) == len(KINDS)
    assert len(world.chooser.labelled("match")) == len(KINDS) + 1


def test_the_most_similar_demonstration_comes_last(world: World) -> None:
    world.learn(labels())
    query = pair("lamp", 3)
    [one] = world.chooser.demonstrations(MATCH, [query])
    encoder = HashingEncoder()
    last = encoder.encode([query_text(one[-1].query, 2000)])
    similar = encoder.encode([query_text(d.query, 2000) for d in one]) @ last[0]
    assert (np.diff(similar.round(4)) >= 0).all() and similar[-1] == pytest.approx(1.0)


def test_what_is_shown_depends_on_nothing_else_in_the_batch(world: World, tmp_path: Path) -> None:
    world.learn(labels())
    queries = [pair(kind, number) for kind in KINDS for number in range(100, 105)]
    together = keys(world.chooser.demonstrations(MATCH, queries))
    assert [keys(world.chooser.demonstrations(MATCH, [q]))[0] for q in queries] == together
    mixed = random.Random(0).sample(range(len(queries)), len(queries))
    shuffled = keys(world.chooser.demonstrations(MATCH, [queries[i] for i in mixed]))
    assert shuffled == [together[i] for i in mixed]
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    other.learn(labels()[::-1])  # learned in another order, in another process
    assert keys(other.chooser.demonstrations(MATCH, queries)) == together


def test_labels_too_few_for_two_sets_are_shown_to_all(world: World) -> None:
    world.learn(labels()[:8])
    shown = world.chooser.demonstrations(MATCH, [pair(kind, 7) for kind in KINDS])
    assert len(set(keys(shown))) == 1 and len(shown[0]) == 8


def test_a_missing_answer_is_not_made_up_for_by_the_other(world: World) -> None:
    world.learn([(pair("lamp", n), "match") for n in range(9)] + [(pair("lamp", 9), "mismatch")])
    [one] = world.chooser.demonstrations(MATCH, [pair("lamp", 20)])
    assert sorted(d.answer for d in one) == ["match"] * 4 + ["mismatch"]


def test_open_tasks_show_the_nearest_labels(world: World) -> None:
    made = [
        (
            build_query("impute", ({"title": f"{kind} {kind} {kind} {n}", "brand": None}, "brand")),
            kind,
        )
        for kind in ("lamp", "tent")
        for n in range(8)
    ]
    world.learn([(q, a) for q, a in made if isinstance(q, Query)], "impute")
    asked = build_query("impute", ({"title": "tent tent tent 77", "brand": None}, "brand"))
    assert isinstance(asked, Query)
    [one] = world.chooser.demonstrations(IMPUTE, [asked])
    assert [d.answer for d in one] == ["tent"] * 8


def test_nothing_is_shown_without_labels_or_where_none_is_wanted(world: World) -> None:
    assert world.chooser.demonstrations(MATCH, [pair("lamp", 1)]) == [()]
    world.learn(labels())
    assert world.open("tiny-135m", 0).demonstrations(MATCH, [pair("lamp", 1)]) == [()]
    assert world.chooser.demonstrations(MATCH, []) == []


def indexed(world: World) -> tuple[list[Query], list[Query]]:
    """Two tables, and labels of both that cannot be told apart by what they say."""
    one, two = labels(4, "one"), labels(4, "two")
    world.learn([*one, *two])
    for name, those in (("one", one), ("two", two)):
        world.index(name, [r for query, _ in those for r in query.records])
    return [q for q, _ in one], [q for q, _ in two]


def tables_of(shown: list[tuple[Demonstration, ...]]) -> set[str | None]:
    return {d.query.records[0].fields["table"] for one in shown for d in one}


def test_a_small_model_is_not_shown_labels_of_other_tables(world: World) -> None:
    one, two = indexed(world)
    assert tables_of(world.chooser.demonstrations(MATCH, one[:9])) == {"one"}
    assert tables_of(world.chooser.demonstrations(MATCH, two[:9])) == {"two"}
    both = world.chooser.demonstrations(MATCH, [one[0], two[0]])
    assert [tables_of([shown]) for shown in both] == [{"one"}, {"two"}]
    assert [len(shown) for shown in both] == [8, 8]


def test_a_large_model_is_shown_labels_of_all_tables(world: World) -> None:
    one, _ = indexed(world)
    chooser = world.open("mistral-7b-instruct")
    assert tables_of(chooser.demonstrations(MATCH, one)) == {"one", "two"}


def test_a_query_without_a_known_table_is_shown_labels_of_all(world: World) -> None:
    indexed(world)
    fresh = [pair(kind, 50, "three") for kind in KINDS]
    assert tables_of(world.chooser.demonstrations(MATCH, fresh)) == {"one", "two"}
    lent = [("digest of two", "digest of two")] * len(fresh)
    assert tables_of(world.chooser.demonstrations(MATCH, fresh, lent)) == {"two"}


def test_labels_without_a_known_table_are_shown_to_all(world: World) -> None:
    one, _ = indexed(world)
    world.learn([(q, a) for q, a in labels(2, "nowhere")])
    shown = tables_of(world.chooser.demonstrations(MATCH, one))
    assert "nowhere" in shown and "two" not in shown


def test_a_new_row_belongs_to_the_newest_table_with_its_columns(world: World) -> None:
    rows = [make_record({"title": f"lamp {n}", "brand": None}) for n in range(3)]
    others = [make_record({"title": f"lamp 8{n}", "maker": None}) for n in range(3)]
    world.index("brands", rows)
    world.index("makers", others)
    world.learn([(Query((r,), "brand"), "acme") for r in rows], "impute")
    world.learn([(Query((r,), "maker"), "best") for r in others], "impute")
    new = Query((make_record({"title": "lamp 9", "brand": None}),), "brand")
    [one] = world.chooser.demonstrations(IMPUTE, [new])
    assert [d.answer for d in one] == ["acme"] * 3


def test_where_labels_of_other_tables_help_is_said_by_size_or_calibration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = {"match": {"tiny": {"demonstrations_across_tables": True}, "m-7b": {"use": True}}}
    entries["match"]["big-70b"] = {"demonstrations_across_tables": False}
    monkeypatch.setattr(cascade, "_measured", lambda: entries)
    across = {
        "tiny": True,
        "m-7b": True,
        "big-70b": False,
        "org/Mistral-7B-Instruct-v0.2": True,
        "smollm2-135m-instruct": False,
        "qwen2.5-0.5b": False,
        "llama-3.2-3b": True,
        "an-unknown-model": False,
        "models/7b/finetuned": False,
        "/models/smollm2-1.7B": False,
    }
    assert {m: demonstrations_across_tables("match", m) for m in across} == across
    assert not demonstrations_across_tables("impute", "tiny")


def test_spread_rows_are_nearest_to_all_rows_together() -> None:
    centres = np.eye(3, dtype=np.float32)
    rows = np.repeat(centres, (5, 3, 2), axis=0)
    assert spread(rows, 2) == [0, 5]
    assert spread(rows, 9) == [0, 5, 8]  # equal rows are not chosen twice
    assert spread(np.zeros((0, 3), np.float32), 4) == []


def test_prompts_with_the_same_demonstrations_are_sent_together() -> None:
    a, b = (Demonstration(pair("lamp", n), "match") for n in range(2))
    shown = [(a,), (b,), (a, b), (a,), (), (b,)]
    assert in_shared_order(shown) == [0, 3, 1, 5, 2, 4]


def test_no_label_is_looked_for_among_labels_of_a_task_that_has_none(world: World) -> None:
    world.learn(labels())
    assert world.chooser.demonstrations(IMPUTE, [Query((make_record({"a": "1"}),), "a")]) == [()]


def test_answers_are_not_reused_with_other_labels_or_another_way_to_choose(world: World) -> None:
    assert world.chooser.digest("match") == ""
    world.learn(labels(1))
    small = world.chooser.digest("match")
    assert small not in ("", world.open("mistral-7b").digest("match"))
    assert world.open("other-135m").digest("match") == small
    world.learn([(pair("lamp", 77), "match")])
    assert world.open("tiny-135m").digest("match") != small
