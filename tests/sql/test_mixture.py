"""Experts of the language model at query time: routing, merging, gates, `FROM meld.experts()`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import meld_duckdb
from meld_duckdb.engine.adapters import files_digest, lora_config, write_adapter
from meld_duckdb.errors import ArtefactMissing
from meld_duckdb.features.stack import Stack
from meld_duckdb.planner import ask_engine, cascade, mixture
from meld_duckdb.planner.adapter_card import CARD, AdapterCard
from meld_duckdb.planner.expert_card import ANY, Key, expert_key
from meld_duckdb.planner.gate import Gate, gate_json, gate_name
from meld_duckdb.planner.mixture import Mixture, MixtureSettings
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.session import Session
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import table_digest
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Completion, Query
from tests.scripted import HashingEncoder, ScriptedBackend
from tests.sql.query import one

PAIR = "{'title': 'canon eos camera'}, {'title': 'canon eos camera body'}"
WINE = "{'title': 'chateau margaux wine'}, {'title': 'chateau margaux wine bottle'}"
KEY = expert_key("match", Query((make_record({"title": "x"}), make_record({"title": "y"}))), ())


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    found = tmp_path / "workspace"
    found.mkdir(exist_ok=True)
    return found


def add_expert(
    workspace: Path,
    name: str,
    description: str,
    *,
    task: str = "match",
    path: tuple[str, ...] = (),
    demonstrations: int = 0,
    model_digest: str = "scripted",
    key: Key = KEY,
) -> None:
    folder = workspace / "adapters" / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name) + ord(name[-1]))
    tensors = {
        f"base_model.model.layers.0.q_proj.lora_{side}.weight": rng.normal(size=shape).astype("f4")
        for side, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    write_adapter(folder, lora_config(2, 4, ["layers.0.q_proj"], "base"), tensors, {"base": "b"})
    card = AdapterCard(
        id=name,
        task=task,
        key=key,
        description=description,
        model="tiny",
        model_digest=model_digest,
        weights=files_digest(folder),
        path=path,
        demonstrations=demonstrations,
        rows={"labelled": 12},
        metrics={"score": 0.75},
    )
    (folder / CARD).write_text(card.to_json())


def add_gate(workspace: Path, *, use: bool, stack: Stack | None, key: Key = KEY) -> None:
    """Decide on tier 2 with the experts that are there now."""
    settings = resolve({"workspace": str(workspace), "starter": "none"})[0]
    experts = Session(settings, print).mixture.digest("match")
    gate = Gate("match", key, use, "tier 2 adds: tested", 0.0, 1.0, stack, "scripted", experts, {})
    folder = workspace / "calibration"
    folder.mkdir(exist_ok=True)
    (folder / gate_name("match", key)).write_text(gate_json(gate))


def ask(
    con: duckdb.DuckDBPyConnection, pair: str = PAIR, options: str = "{'tier': 't2'}"
) -> dict[str, Any]:
    found: dict[str, Any] = one(con, f"SELECT meld_match_detail({pair}, {options})")
    return found


def test_questions_go_to_the_experts_they_resemble(
    workspace: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_expert(workspace, "wines", "match | chateau margaux wine title")
    add_expert(workspace, "tools", "match | hammer drill saw")
    with meld_duckdb.connect(experts=1) as con:
        assert ask(con)["experts"] == ["cameras"]
        assert ask(con, WINE)["experts"] == ["wines"]
    assert len(set(backend.adapters)) == 2
    assert None not in backend.adapters


def test_the_chosen_experts_are_merged_and_rows_grouped(
    workspace: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_expert(workspace, "wines", "match | chateau margaux wine title")
    add_expert(workspace, "tools", "match | hammer drill saw")
    with meld_duckdb.connect(experts=2) as con:
        con.execute(
            "CREATE TABLE t AS SELECT {'title': w || ' ' || i} AS a, {'title': w || i || ' x'} AS b"
            " FROM range(6) r(i), (VALUES ('canon eos camera'), ('chateau margaux wine')) v(w)"
        )
        rows = con.execute("SELECT meld_match_detail(a, b, {'tier': 't2'}) FROM t").fetchall()
    sets = {tuple(row["experts"]) for (row,) in rows}
    assert all(len(names) == 2 for names in sets)
    changes = list(itertools.groupby(a.name if a else None for a in backend.adapters))
    assert len(changes) == len(
        {frozenset(names) for names in sets}
    )  # rows of one set of experts are asked together
    merged = [f.name for f in (workspace / "adapters" / "merged").iterdir() if f.name[0] != "."]
    assert len(merged) == len({frozenset(names) for names in sets})


def test_experts_of_other_tasks_answer_only_for_a_task_without_any(
    workspace: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_expert(workspace, "wines", "match | chateau margaux wine title")
    add_expert(workspace, "fillers", "impute | canon eos camera title", task="impute")
    with meld_duckdb.connect() as con:
        assert sorted(ask(con)["experts"]) == ["cameras", "wines"]
        detail = "SELECT meld_detect_error_detail({'title': 'eos'}, 'title', {'tier': 't2'})"
        assert sorted(one(con, detail)["experts"]) == ["cameras", "fillers", "wines"]
    with meld_duckdb.connect(expert_tasks="all") as con:
        assert sorted(ask(con)["experts"]) == ["cameras", "fillers", "wines"]


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A starter with experts of three tasks."""
    folder = tmp_path / "starter"
    for task in ("match", "impute", "detect_error"):
        add_expert(folder, f"starter-{task}", f"{task} | any tables", task=task, key=ANY)
    return folder


def test_the_starter_answers_where_the_workspace_has_no_expert_of_a_task(
    workspace: Path, starter: Path, backend: ScriptedBackend
) -> None:
    schemas = "SELECT meld_schema_match_detail('a', 'b', {'tier': 't2'})"
    with meld_duckdb.connect(starter=str(starter)) as con:
        assert ask(con)["experts"] == ["starter-match"]
        assert not (workspace / "adapters").exists()  # nothing is merged, so nothing is written
        assert one(con, schemas)["experts"] == []  # no expert of another task
        add_expert(workspace, "wines", "match | chateau margaux wine title")
        assert ask(con)["experts"] == ["wines"]
        listed = dict(
            con.sql("SELECT expert, reason FROM meld.experts() WHERE NOT used").fetchall()
        )
        assert sorted(listed) == ["starter-detect_error", "starter-impute", "wines"]
        assert "tier 0 was right on" in listed["starter-impute"]
        assert listed["wines"] == "not judged yet: meld train --stages experts"
        # Nor does one of another task answer beside the workspace's own.
        assert one(con, schemas)["experts"] == ["wines"]
    with meld_duckdb.connect(starter=str(starter), expert_tasks="all") as con:
        assert ask(con, WINE)["experts"] == ["wines"]
    with meld_duckdb.connect(starter="none") as con:
        impute = "SELECT meld_impute_detail({'a': 'x', 'b': NULL}, 'b', {'tier': 't2'})"
        assert one(con, impute)["experts"] == ["wines"]


def test_a_starter_of_another_model_is_not_missed(
    workspace: Path, tmp_path: Path, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    add_expert(other, "starter-match", "match | any tables", key=ANY, model_digest="another")
    with meld_duckdb.connect(starter=str(other)) as con:
        assert ask(con)["experts"] == []
        assert con.sql("FROM meld.experts()").fetchall() == []
    assert "another language model" not in caplog.text


def test_a_damaged_starter_leaves_the_own_experts_alone(
    workspace: Path, starter: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "wines", "match | chateau margaux wine title")
    (starter / "adapters" / "starter-match" / CARD).write_text("{")
    add_expert(starter, "of-tables", "match | any", key=KEY)  # no expert of any tables
    with meld_duckdb.connect(starter=str(starter)) as con:
        assert ask(con)["experts"] == ["wines"]
        assert "starter-impute" in {
            name for (name,) in con.sql("SELECT expert FROM meld.experts()").fetchall()
        }


def test_what_was_measured_with_an_expert_says_nothing_of_the_model_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"use": True, "low": 0.2, "high": 0.8, "reason": "measured", "adapted": True}
    monkeypatch.setattr(cascade, "_measured", lambda: {"match": {"m": entry}})
    assert cascade.choose_policy("match", "m", Options()).engine
    assert not cascade.choose_policy("match", "m", Options(), lambda: False).engine


def test_a_starter_waits_for_its_model(tmp_path: Path, starter: Path) -> None:
    missing = ["no language model yet"]

    def digest() -> str:
        if missing:
            raise ArtefactMissing("no language model", hint="pull one")
        return "scripted"

    mixture = Mixture(
        tmp_path / "adapters",
        tmp_path / "router",
        starter / "adapters",
        MixtureSettings(),
        model_digest=digest,
        encoder_digest=lambda: "hashing",
        encode=HashingEncoder().encode,
        notice=print,
    )
    query = Query((make_record({"title": "x"}), make_record({"title": "y"})))
    assert (
        mixture.cards == {} and mixture.digest("match") == "" and mixture.starter("match") is None
    )
    assert mixture.route("match", [query]) == [None]
    missing.clear()
    [choice] = mixture.route("match", [query])
    assert choice is not None and choice.experts == ("starter-match",)
    assert mixture.starter("match") == starter / "adapters" / "starter-match"


def test_a_starter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with meld_duckdb.connect(starter=str(tmp_path / "gone")) as con:
        with pytest.raises(duckdb.Error, match="expected 'built-in', 'none' or a directory"):
            ask(con)


def test_experts_weighed_by_relevance_are_merged_for_each_weighting(
    workspace: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_expert(workspace, "wines", "match | chateau margaux wine title")
    with meld_duckdb.connect(experts=2, expert_weights="router") as con:
        assert ask(con)["experts"] and ask(con, WINE)["experts"]
    first, second = backend.adapters
    assert first is not None and second is not None
    assert first.name != second.name


def test_more_groups_than_are_merged_ahead(
    workspace: Path, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_engine, "MERGED_AHEAD", 1)
    monkeypatch.setattr(mixture, "_MOST_MERGED", 2)
    for kind in ("cameras", "wines", "tools", "boats"):
        add_expert(workspace, kind, f"match | {kind} title")
    kinds = "['cameras', 'wines', 'tools', 'boats']"
    with meld_duckdb.connect(experts=1) as con:
        found = con.execute(
            f"""SELECT k, meld_match_detail({{'title': k}}, {{'title': k || ' x'}}, {{'tier': 't2'}})
            FROM (SELECT unnest({kinds}) AS k)"""
        ).fetchall()
    assert {k: d["experts"] for k, d in found} == {k: [k] for k, _ in found} and len(found) == 4


def test_as_many_labels_are_shown_as_in_training(workspace: Path, backend: ScriptedBackend) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title", demonstrations=2)
    with meld_duckdb.connect() as con:
        con.execute(
            """SELECT meld_learn('match', {'a': {'title': 'eos ' || i},
               'b': {'title': 'canon ' || i}}, i % 2 = 0) FROM range(12) t(i)"""
        ).fetchall()
        ask(con)
    assert len(backend.asked[-1].turns) == 2


def test_relevance_stands_in_the_evidence(workspace: Path, backend: ScriptedBackend) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    with meld_duckdb.connect() as con:
        detail = ask(con)
    [expert] = [e for e in detail["evidence"] if e["kind"] == "expert"]
    assert expert["text"] == "cameras"
    assert 0 < expert["weight"] <= 1


def test_no_experts_by_setting_and_without_any(workspace: Path, backend: ScriptedBackend) -> None:
    with meld_duckdb.connect() as con:
        assert ask(con)["experts"] == []
    add_expert(workspace, "cameras", "match | canon eos camera title")
    with meld_duckdb.connect(experts=0) as con:
        assert ask(con, WINE)["experts"] == []
    assert set(backend.adapters) == {None}


def test_an_expert_of_another_model_is_not_used(workspace: Path, backend: ScriptedBackend) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera", model_digest="another")
    with meld_duckdb.connect() as con:
        assert ask(con)["experts"] == []
        assert con.sql("FROM meld.experts()").fetchall() == []


def test_a_new_expert_is_seen_and_old_answers_are_not_reused(
    workspace: Path, backend: ScriptedBackend
) -> None:
    with meld_duckdb.connect() as con:
        ask(con)
        ask(con)
        assert len(backend.asked) == 1
        add_expert(workspace, "cameras", "match | canon eos camera title")
        assert ask(con)["experts"] == ["cameras"]
        assert len(backend.asked) == 2


def test_a_gate_sends_unsure_rows_to_the_model(workspace: Path, backend: ScriptedBackend) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_gate(workspace, use=True, stack=Stack(own=1.0, added=1.0))
    with meld_duckdb.connect(model="smollm2-135m-instruct") as con:
        detail = ask(con, options="{'threshold': 0.5}")
        plain = ask(con, options="{'tier': 't0'}")
    assert detail["tier"] == 2
    assert detail["experts"] == ["cameras"]
    assert detail["probability"] > plain["probability"]  # the script says yes with .8


def test_a_gate_holds_for_the_experts_it_was_measured_with(
    workspace: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_gate(workspace, use=True, stack=Stack(own=1.0, added=1.0))
    with meld_duckdb.connect(model="smollm2-135m-instruct", expert_weights="router") as con:
        assert ask(con, options="{'threshold': 0.5}")["tier"] == 0
    add_expert(workspace, "wines", "match | chateau margaux wine title")
    with meld_duckdb.connect(model="smollm2-135m-instruct") as con:
        assert ask(con, options="{'threshold': 0.5}")["tier"] == 0
        used = con.sql("SELECT used FROM meld.experts() WHERE expert = 'cameras'").fetchall()
    assert used == [(False,)]


@pytest.mark.parametrize("labelled", [False, True])
def test_rows_of_one_table_match_from_the_threshold_of_their_gate(
    workspace: Path, backend: ScriptedBackend, labelled: bool
) -> None:
    rows = [make_record({"title": f"canon eos {i} kit"}) for i in range(4)]
    pairs = np.array([(i, j) for i in range(4) for j in range(i)])
    table = table_digest(rows)
    add_gate(workspace, use=True, stack=Stack(0.0, 1.0, threshold=0.1), key=(table, table))
    backend.script = lambda prompt: Completion(prompt.choices[1], (0.2, 0.8), 0.8)
    settings = resolve({"workspace": str(workspace), "starter": "none"})[0]
    session = Session(settings, print)
    if labelled:
        session.learn("match", [(Query((rows[0], rows[1])), "match")])
    likely, least, answers, _ = session.judge_rows(rows, pairs, Options())
    assert {answer.tier for answer in answers if answer.probability not in (0.0, 1.0)} == {2}
    assert [answer.value for answer in answers] == ["match"] * len(pairs)
    assert (likely >= least).all()
    assert session.judge_rows(rows, pairs, Options(threshold=0.9))[1] == 0.9
    assert session.judge_rows(rows, pairs, Options(tier="t0"))[1] != 0.1


def test_a_gate_can_keep_the_model_out(workspace: Path, backend: ScriptedBackend) -> None:
    add_gate(workspace, use=False, stack=None)
    with meld_duckdb.connect(model="never-measured-7b") as con:
        assert ask(con, options="{'threshold': 0.5}")["tier"] == 0
    assert backend.asked == []


def test_a_path_completes_records_before_they_are_asked(
    workspace: Path, backend: ScriptedBackend
) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title", path=("impute",))
    with meld_duckdb.connect() as con:
        con.execute(
            "CREATE TABLE t AS SELECT 'eos camera ' || i AS title, "
            "CASE WHEN i > 0 THEN 'canon' END AS brand FROM range(40) r(i)"
        )
        con.sql("FROM meld.index('t', embed := false)").fetchall()
        one(
            con,
            "SELECT meld_match(a, b, {'tier': 't2'}) FROM t a, t b "
            "WHERE a.brand IS NULL AND b.title = 'eos camera 7'",
        )
    assert backend.asked[-1].question.count("canon") == 2


def test_experts_are_listed(workspace: Path, backend: ScriptedBackend) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    with meld_duckdb.connect() as con:
        ask(con)
        row = con.sql("FROM meld.experts()").to_arrow_table().to_pylist()[0]
    assert (row["expert"], row["tier"], row["task"], row["rows"]) == ("cameras", 2, "match", 12)
    assert row["trained_for"] == "title | title"
    assert row["used"] is False
    assert "meld train --stages experts" in row["reason"]
    assert dict(row["metrics"]) == {"score": 0.75}
    assert row["size_bytes"] > 100
    assert row["answers"] == 1


def test_a_damaged_expert_is_named(workspace: Path, backend: ScriptedBackend) -> None:
    add_expert(workspace, "cameras", "match | canon eos camera title")
    card = workspace / "adapters" / "cameras" / CARD
    card.write_text(json.dumps({**json.loads(card.read_text()), "weights": ""}))
    with meld_duckdb.connect() as con, pytest.raises(Exception, match=r"cameras.*no card"):
        ask(con)
