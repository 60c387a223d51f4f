"""Groups of labels: what their questions are like, and which of them can be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.planner import loaded
from meld_duckdb.planner.session import Session
from meld_duckdb.records import make_record
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Demonstration, Query
from meld_duckdb.tasks.letters import MOST_OPTIONS
from meld_duckdb.train import expert
from meld_duckdb.train.aside import note_aside, parted_as_trained
from meld_duckdb.train.gates import opinions_before
from meld_duckdb.train.label_groups import LabelGroup, label_groups, label_identity
from meld_duckdb.train.offered import offered
from meld_duckdb.train.rows import TrainingRow
from tests.scripted import HashingEncoder


@pytest.fixture
def con(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> duckdb.DuckDBPyConnection:
    """A workspace with an encoder that hashes words."""
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": HashingEncoder.dimension}))
    monkeypatch.setenv("MELD_ENCODER", str(tmp_path))
    monkeypatch.setattr(loaded, "Encoder", lambda *given, **options: HashingEncoder())
    monkeypatch.setattr(loaded, "encoder_digest", lambda *given: "hashing")
    return meld_duckdb.connect()


def open_session() -> Session:
    settings, _ = resolve({"progress": False})
    return LocalService(settings).session


def grouped(session: Session, *tasks: str, notices: list[str] | None = None) -> list[LabelGroup]:
    labels = {
        task: [TrainingRow(task, d.query, d.answer) for d in session.demonstrator.labelled(task)]
        for task in tasks
    }
    said = [] if notices is None else notices
    return label_groups(session, labels, notice=said.append)


def rows_of(group: LabelGroup) -> list[TrainingRow]:
    return [*group.learn, *group.dev]


def learn_mentions(con: duckdb.DuckDBPyConnection, candidates: int = 3) -> None:
    con.execute(
        """SELECT meld_learn('link_entity', {'mention': 'town ' || i, 'candidates':
            [{'id': 'q' || (i * 100 + j), 'name': 'town ' || (i + j)} for j in range($n)]},
            'q' || (i * 100)) FROM range(24) r(i)""",
        {"n": candidates},
    ).fetchall()


def learn_types(con: duckdb.DuckDBPyConnection, types: int, labels: int) -> None:
    con.execute(
        """SELECT meld_learn('annotate_column', {'values': ['value ' || i, 'kind ' || (i % $n)]},
            'type ' || (i % $n)) FROM range($labels) r(i)""",
        {"n": types, "labels": labels},
    ).fetchall()


def test_mentions_are_asked_with_their_candidates(con: duckdb.DuckDBPyConnection) -> None:
    learn_mentions(con)
    [group] = grouped(open_session(), "link_entity")
    rows = rows_of(group)
    assert len(rows) == 24
    for row in rows:
        ids = tuple(record.fields["id"] for record in row.query.records[1:])
        assert row.query.domain == ids and row.answer in ids
        prompt = TASKS["link_entity"].prompt(row.query, (), 2_000)
        assert prompt.choices == ("A", "B", "C")


def test_columns_are_asked_with_all_types_in_no_fixed_order(
    con: duckdb.DuckDBPyConnection,
) -> None:
    learn_types(con, types=4, labels=24)
    [group] = grouped(open_session(), "annotate_column")
    domains = [row.query.domain or () for row in rows_of(group)]
    assert {tuple(sorted(domain)) for domain in domains} == {tuple(f"type {i}" for i in range(4))}
    places = {(row.query.domain or ()).index(row.answer) for row in rows_of(group)}
    assert places == {0, 1, 2, 3}
    assert grouped(open_session(), "annotate_column")[0].digest == group.digest


def test_of_many_types_those_that_can_be_listed_are_offered(
    con: duckdb.DuckDBPyConnection,
) -> None:
    learn_types(con, types=40, labels=80)
    [group] = grouped(open_session(), "annotate_column")
    assert all(len(row.query.domain or ()) == MOST_OPTIONS for row in rows_of(group))
    assert all(row.answer in (row.query.domain or ()) for row in group.learn)
    first = sum((row.query.domain or ())[0] == row.answer for row in rows_of(group))
    assert first < 20  # they are not listed best first


def test_of_many_candidates_records_go_with_their_options(con: duckdb.DuckDBPyConnection) -> None:
    learn_mentions(con, candidates=30)
    [group] = grouped(open_session(), "link_entity")
    for row in rows_of(group):
        ids = [str(record.fields["id"]) for record in row.query.records[1:]]
        assert len(ids) == MOST_OPTIONS and (row.answer in ids or row in group.dev)
        assert row.query.domain == tuple(ids) and ids == sorted(ids, key=lambda q: int(q[1:]))


def test_the_right_option_is_given_to_those_who_learn_not_to_those_who_are_judged() -> None:
    options = tuple(f"type {i}" for i in range(40))
    query = Query((make_record({"values": "x"}),), domain=options)
    said = Answer("type 0", 0.9, 0, ranking=tuple((option, 0.1) for option in options))
    label = Demonstration(query, "type 39")
    for learned in (True, False):
        short = offered("annotate_column", label, said, MOST_OPTIONS, with_answer=learned)
        assert len(short.domain or ()) == MOST_OPTIONS
        assert ("type 39" in (short.domain or ())) == learned


def test_labels_stay_aside_when_another_option_is_learned(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    learn_types(con, types=4, labels=24)
    [group] = grouped(open_session(), "annotate_column")
    note_aside(tmp_path, group)
    con.execute("SELECT meld_learn('annotate_column', {'values': ['new']}, 'new type')").fetchall()
    [more] = grouped(open_session(), "annotate_column")
    kept = parted_as_trained(tmp_path, more)
    assert {label_identity(r) for r in kept.dev} == {label_identity(r) for r in group.dev}
    assert len(kept.dev) == 8 and len(kept.learn) == 17


def test_no_label_is_judged_by_itself(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_types(con, types=4, labels=24)
    session = open_session()
    [group] = grouped(session, "annotate_column")
    told: set[str] = set()
    real = expert.make_scorers

    def watched(tables: Any, embed: Any, labels: Any) -> Any:
        known = labels("annotate_column")
        told.update(record.digest for d in known for record in d.query.records)
        return real(tables, embed, labels)

    monkeypatch.setattr(expert, "make_scorers", watched)
    assert all(opinion is not None for opinion in opinions_before(session, group))
    judged = {record.digest for row in group.dev for record in row.query.records}
    assert told and not told & judged


def learn_pairs(con: duckdb.DuckDBPyConnection, column: str, matches: str) -> None:
    con.execute(
        f"""SELECT meld_learn('match', {{'a': {{'{column}': 'camera ' || i}},
            'b': {{'{column}': 'camera ' || i || ' x'}}}}, {matches}) FROM range(12) r(i)"""
    ).fetchall()


def test_labels_of_one_record_are_no_group(con: duckdb.DuckDBPyConnection) -> None:
    learn_pairs(con, "title", "i % 2 = 0")
    row = ", ".join(f"'c{i}': 'value {i}'" for i in range(12))
    con.execute(f"SELECT meld_learn('repair', {{'row': {{{row}}}}}, {{{row}}})").fetchall()
    said: list[str] = []
    [group] = grouped(open_session(), "match", "repair", notices=said)
    assert group.task == "match"
    [line] = said
    assert line.startswith("repair-") and "its 12 labels are of one record" in line


def test_labels_with_one_answer_are_no_group(con: duckdb.DuckDBPyConnection) -> None:
    learn_pairs(con, "title", "i % 2 = 0")
    learn_pairs(con, "label", "true")
    learn_pairs(con, "name", "i = 3")  # the one match is set aside
    learn_types(con, types=1, labels=12)
    said: list[str] = []
    [group] = grouped(open_session(), "match", "annotate_column", notices=said)
    assert {"title"} == {name for row in group.learn for name in row.query.records[0].fields}
    assert len(said) == 3
    assert sum("to learn from say 'match', expected both" in line for line in said) == 1
    assert sum("to learn from say 'mismatch', expected both" in line for line in said) == 1
    assert sum("has two options" in line for line in said) == 1
