"""Training of a mixture from labels to gates, on a tiny language model with random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import meld_duckdb
from meld_duckdb.errors import ArtefactError, TrainingError
from meld_duckdb.models import model_digest
from meld_duckdb.planner import loaded
from meld_duckdb.planner.adapter_card import AdapterCard
from meld_duckdb.planner.expert_card import ANY
from meld_duckdb.planner.session import Session
from meld_duckdb.records import make_record
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Query
from meld_duckdb.train import mixture, routing
from meld_duckdb.train.clearing import adapter_folders
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.install import install_adapter
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.mixture_settings import EXPERTS, MoeSettings
from meld_duckdb.train.pipeline import Pipeline, TrainSettings
from meld_duckdb.train.refine import RefineSettings
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow, write_rows
from meld_duckdb.train.stages import Finished
from tests.scripted import HashingEncoder
from tests.unit.tiny_llama import save_tiny_llama

SETTINGS = MoeSettings(
    lora=LoraSettings(epochs=1, layers=1.0, rank=2, max_tokens=400, device="cpu"),
    refine=RefineSettings(rounds=1, quota=8),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def labelled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> duckdb.DuckDBPyConnection:
    """Two kinds of things with 24 labels each, a tiny model, a hashing encoder."""
    monkeypatch.setenv("MELD_MODEL", str(model))
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": HashingEncoder.dimension}))
    monkeypatch.setenv("MELD_ENCODER", str(tmp_path))
    monkeypatch.setattr(loaded, "Encoder", lambda *given, **options: HashingEncoder())
    monkeypatch.setattr(loaded, "encoder_digest", lambda *given: "hashing")
    con = meld_duckdb.connect()
    for kind, column in (("camera", "title"), ("wine", "label")):
        con.execute(
            f"""SELECT meld_learn('match',
                {{'a': {{'{column}': '{kind} ' || i}},
                  'b': {{'{column}': '{kind} ' || (i + (i % 3)::INT) || ' x'}}}}, i % 3 = 0)
            FROM range(24) r(i)"""
        ).fetchall()
    return con


@dataclass(frozen=True)
class Run:
    """One training of an adapter: where it goes and begins, records learned from and set aside."""

    out: str
    start: str | None
    learned: set[str]
    aside: set[str]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Fills up with every training of an adapter, in order."""
    found: list[Run] = []
    real = mixture.train_adapter

    def watched(rows: Any, base: Path, out: Path, settings: LoraSettings, **given: Any) -> Any:
        learned, aside = (
            {r.digest for row in part for r in row.query.records} for part in (rows, given["dev"])
        )
        start = settings.start and Path(settings.start).name
        found.append(Run(out.name, start, learned, aside))
        return real(rows, base, out, settings, **given)

    monkeypatch.setattr(mixture, "train_adapter", watched)
    return found


def open_session() -> Session:
    settings, _ = resolve({"progress": False})
    return LocalService(settings).session


def fresh_session() -> Session:
    """A session that has read nothing, as that of another process."""
    return Session(resolve({"progress": False})[0], lambda line: None)


def train(
    session: Session, lines: list[str] | None = None, settings: MoeSettings = SETTINGS
) -> list[Finished]:
    said = [] if lines is None else lines
    pipeline = Pipeline(session, TrainSettings(mixture=settings), said.append)
    return pipeline.run(stages=EXPERTS)


def test_labels_become_experts_router_and_gates(labelled: duckdb.DuckDBPyConnection) -> None:
    session = open_session()
    done = {f.name: f for f in train(session)}
    kinds = [name.partition(" ")[0] for name in done]
    assert kinds == ["pretrain"] + ["adapter", "path", "refine"] * 2 + ["router", "gate", "gate"]
    workspace = session.workspace
    cards = session.mixture.cards
    assert len(cards) == 2
    for card in cards.values():
        assert card.task == "match"
        assert 14 <= sum(card.rows.values()) <= 17  # a third of 24 is set aside
        size = (workspace.adapters_path / card.id / "adapter_model.safetensors").stat().st_size
        assert size < 2_000_000
    assert (workspace.router_path / "router.json").is_file()
    assert len(list(workspace.calibration_path.glob("match-*.json"))) == 2
    detail = labelled.execute(
        "SELECT meld_match_detail({'title': 'camera 99'}, {'title': 'camera 98'}, {'tier': 't2'})"
    ).fetchall()[0][0]
    assert sorted(detail["experts"]) == sorted(cards)
    listed = labelled.sql("SELECT expert, tier, used FROM meld.experts()").fetchall()
    assert {row[0] for row in listed} == set(cards)


def install(adapters: Path, model: Path, rows: list[TrainingRow]) -> str:
    """Put an adapter of matching into a starter; gives its name."""
    weights = adapters.parent / "weights" / model.name
    train_adapter(rows, model, weights, SETTINGS.lora)
    card = AdapterCard(
        id="starter-match",
        task="match",
        key=ANY,
        description="match | any tables",
        model="tiny",
        model_digest=model_digest(model),
        weights="",
    )
    return install_adapter(adapters, card, weights).id


def test_the_first_adapter_of_a_task_begins_with_that_of_the_starter(
    labelled: duckdb.DuckDBPyConnection,
    model: Path,
    runs: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starter = tmp_path / "starter"
    other = save_tiny_llama(tmp_path / "other", seed=5)
    rows = [
        TrainingRow(
            "match", Query((make_record({"n": f"a{i}"}), make_record({"n": f"a{i % 3}"}))), y
        )
        for i, y in enumerate(["match", "mismatch"] * 4)
    ]
    adapters = starter / "adapters"
    adapters.mkdir(parents=True)
    monkeypatch.setenv("MELD_STARTER", str(starter))
    install(adapters, other, rows)
    train(open_session())
    assert runs[0].out == "pretrain-match" and runs[0].start is None  # of another model

    begin = install(adapters, model, rows)
    runs.clear()
    session = open_session()
    train(session)
    assert [(run.out, run.start) for run in runs[:2]] == [
        ("pretrain-match", begin),
        ("0", "pretrain-match"),
    ]
    runs.clear()
    train(session)
    assert not runs

    # An adapter of another shape than asked for is nothing to begin with.
    wider = replace(SETTINGS, lora=replace(SETTINGS.lora, rank=3))
    train(open_session(), settings=wider)
    assert runs[0].out == "pretrain-match" and runs[0].start is None


def test_records_are_cut_and_routers_judged_in_training_as_statements_ask(
    labelled: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[int] = set()
    judged: list[tuple[int, str, float]] = []
    real, fit = mixture.train_adapter, routing.train_router

    def watched(rows: Any, base: Path, out: Path, settings: LoraSettings, **given: Any) -> Any:
        found.add(settings.max_chars)
        return real(rows, base, out, settings, **given)

    def fitted(
        questions: Any, experts: Any, names: Any, outcomes: Any, how: Any, *more: Any
    ) -> Any:
        judged.append((how.k, how.weighting, how.diversity))
        return fit(questions, experts, names, outcomes, how, *more)

    monkeypatch.setattr(mixture, "train_adapter", watched)
    monkeypatch.setattr(routing, "train_router", fitted)
    monkeypatch.setenv("MELD_MAX_RECORD_CHARS", "321")
    monkeypatch.setenv("MELD_EXPERTS", "1")
    monkeypatch.setenv("MELD_EXPERT_WEIGHTS", "router")
    monkeypatch.setenv("MELD_EXPERT_DIVERSITY_PERCENT", "25")
    session = open_session()
    train(session)
    assert found == {321}
    assert judged == [(1, "router", 0.25)]
    assert session.mixture.settings.diversity == 0.25


def test_a_second_run_does_nothing(labelled: duckdb.DuckDBPyConnection) -> None:
    session = open_session()
    first = train(session)
    again = train(session)
    assert [f.name for f in first] == [f.name for f in again]
    assert all(f.skipped for f in again)


def test_a_new_label_trains_its_expert_anew(labelled: duckdb.DuckDBPyConnection) -> None:
    session = open_session()
    train(session)
    before = set(session.mixture.cards)
    labelled.execute(
        "SELECT meld_learn('match', {'a': {'label': 'wine 77'}, 'b': {'label': 'wine 77 x'}}, true)"
    ).fetchall()
    again = train(session)
    ran = {f.name.partition(" ")[0] for f in again if not f.skipped}
    assert "adapter" in ran
    after = set(session.mixture.cards)
    assert len(after) == 2
    assert len(before & after) <= 1


def test_nothing_set_aside_enters_an_expert(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run]
) -> None:
    train(open_session())
    assert runs
    for run in runs:
        assert run.aside and not run.learned & run.aside


def test_the_path_and_its_log_are_kept(labelled: duckdb.DuckDBPyConnection) -> None:
    session = open_session()
    train(session)
    files = list((session.workspace.path / "train" / "experts").glob("*/path.json"))
    assert len(files) == 2
    found = json.loads(files[0].read_text())
    assert found["path"] == []  # no field is missing, none is on one side only
    assert found["tried"][0] == {
        "round": 0,
        "path": [],
        "score": pytest.approx(found["tried"][0]["score"]),
        "taken": True,
    }


def test_experts_begin_from_what_all_tables_teach(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run]
) -> None:
    train(open_session())
    assert (runs[0].out, runs[0].start) == ("pretrain-match", None)
    assert [run.start for run in runs if run.out == "0"] == ["pretrain-match"] * 2


def test_without_pretraining_experts_begin_from_the_model(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run]
) -> None:
    session = open_session()
    train(session)
    runs.clear()
    plain = TrainSettings(mixture=replace(SETTINGS, pretrain=False))
    done = Pipeline(session, plain, lambda line: None).run(stages=EXPERTS[:2])
    assert [f.name.partition(" ")[0] for f in done] == ["adapter", "adapter"]
    assert [run.start for run in runs] == [None, None]


def test_pretraining_sees_no_record_that_another_table_set_aside(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run]
) -> None:
    labelled.execute(
        """SELECT meld_learn('match', {'a': {'title': 'camera ' || i}, 'b': {'label': 'wine ' || i}},
            i % 2 = 0) FROM range(24) r(i)"""
    ).fetchall()
    session, settings = open_session(), TrainSettings(mixture=SETTINGS)
    Pipeline(session, settings, lambda line: None).run(stages=EXPERTS[:1])
    [run] = runs
    assert len(run.learned) > 10 and len(run.aside) > 24
    assert not run.learned & run.aside


def test_tasks_with_options_have_experts(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run]
) -> None:
    labelled.execute(
        """SELECT meld_learn('link_entity', {'mention': 'town ' || i, 'candidates':
            [{'id': 'q' || (i * 10 + j), 'name': 'town ' || (i + j)} for j in range(3)]},
            'q' || (i * 10)) FROM range(12) r(i)"""
    ).fetchall()
    session = open_session()
    said: list[str] = []
    Pipeline(session, TrainSettings(mixture=SETTINGS), said.append).run(("link_entity",), EXPERTS)
    [card] = session.mixture.cards.values()
    assert card.task == "link_entity" and sum(card.rows.values()) == 8
    weights = session.workspace.adapters_path / card.id
    assert json.loads((weights / "card.json").read_text())["left_out"] == 0


def test_rows_of_an_earlier_run_that_are_held_out_by_now_enter_no_expert(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run]
) -> None:
    session = open_session()
    made = [
        TrainingRow(
            "match",
            Query((make_record({"title": f"new {i}"}), make_record({"title": f"new {i} x"}))),
            "match",
            origin=SELF_ANNOTATED,
        )
        for i in range(3)
    ]
    transformed = [
        replace(
            made[0],
            query=Query(tuple(make_record({"title": f"{r.fields['title']} y"}) for r in q.records)),
            origin="transformed:schema_match",
            source=source.digest,
        )
        for source, q in ((row, row.query) for row in made)
    ]
    folder = session.workspace.path / "train"
    folder.mkdir()
    write_rows(folder / "rows-match.jsonl", made)
    write_rows(folder / "rows-transformed.jsonl", transformed)
    how = TrainSettings(mixture=SETTINGS, held_out=hold_out([made[1].query]))
    Pipeline(session, how, lambda line: None).run(("match",), EXPERTS[1:2])
    learned = {digest for run in runs for digest in run.learned}
    for row in (made[0], made[2], transformed[0], transformed[2]):
        assert {record.digest for record in row.query.records} <= learned
    for row in (made[1], transformed[1]):
        assert not {record.digest for record in row.query.records} & learned


def test_without_labels_for_experts_the_other_stages_run(
    labelled: duckdb.DuckDBPyConnection,
) -> None:
    labelled.execute(
        """SELECT meld_learn('impute', {'row': {'name': 'thing ' || i, 'kind': NULL},
            'column': 'kind'}, 'k') FROM range(3) r(i)"""
    ).fetchall()
    session, lines = open_session(), list[str]()
    pipeline = Pipeline(session, TrainSettings(mixture=SETTINGS), lines.append)
    done = pipeline.run(("impute",), ("transform", *EXPERTS))
    assert [one.name for one in done] == ["transform"]
    assert any("gets no experts: no task has 10 labels" in line for line in lines)
    with pytest.raises(TrainingError, match="no task has 10 labels"):
        pipeline.run(("impute",), EXPERTS)


def test_a_group_that_cannot_be_trained_leaves_the_others(
    labelled: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled.execute(
        """SELECT meld_learn('match', {'a': {'shoe': 'shoe ' || i},
            'b': {'shoe': 'shoe ' || i || ' x'}}, i % 3 = 0) FROM range(15) r(i)"""
    ).fetchall()
    real = mixture.train_adapter

    def refuse_shoes(rows: Any, *given: Any, **named: Any) -> Any:
        if any("shoe" in row.query.records[0].fields for row in rows):
            raise TrainingError("0 rows, all of them too long")
        return real(rows, *given, **named)

    monkeypatch.setattr(mixture, "train_adapter", refuse_shoes)
    without_pretraining = replace(SETTINGS, pretrain=False)
    session, lines = open_session(), list[str]()
    done = [f.name for f in train(session, lines, without_pretraining)]
    assert len(session.mixture.own) == 2
    assert sum(name.startswith("adapter ") for name in done) == 3
    assert sum(name.startswith("refine ") for name in done) == 2
    [line] = [line for line in lines if line.startswith("no expert")]
    assert line == "no expert of match for shoe | shoe is trained: 0 rows, all of them too long"
    again: list[str] = []
    repeated = train(session, again, without_pretraining)
    assert [f.name for f in repeated] == done and all(f.skipped for f in repeated)
    assert line in again


def test_where_no_group_can_be_trained_that_is_an_error(
    labelled: duckdb.DuckDBPyConnection,
) -> None:
    wrong = replace(SETTINGS, lora=replace(SETTINGS.lora, target_modules=("nowhere",)))
    with pytest.raises(TrainingError, match=r"none of the 2 experts .* no layer to adapt"):
        train(open_session(), settings=wrong)


def test_training_replaces_what_is_damaged_or_of_another_version(
    labelled: duckdb.DuckDBPyConnection,
) -> None:
    workspace = open_session().workspace
    train(open_session())
    first, second = adapter_folders(workspace.adapters_path)
    gate = min(workspace.calibration_path.glob("match-*.json"))
    whole = gate.read_text()
    (first / "expert.json").write_text('{"format": "meld-adapter/0"}')
    (second / "adapter_model.safetensors").write_bytes(b"cut")
    router = (workspace.router_path / "router.json").read_text()
    (workspace.router_path / "router.json").write_text("{")
    gate.write_text("[]")
    for content in (router, "{"):  # first the router is told, then the adapter
        with pytest.raises(ArtefactError, match=r"Hint: .*meld train --stages experts"):
            _ = fresh_session().mixture.own
        (workspace.router_path / "router.json").write_text(content)

    lines: list[str] = []
    done = {f.name: f for f in train(fresh_session(), lines)}
    told = [line for line in lines if " is put aside in " in line]
    assert [line.partition(" ")[0] for line in told] == [
        first.name,
        second.name,
        "router",
        gate.name,
    ]
    assert "meld-adapter/0" in told[0]
    ran = [name.partition(" ")[0] for name, finished in done.items() if not finished.skipped]
    assert ran == ["refine", "refine", "router", "gate"]
    assert len(fresh_session().mixture.own) == 2
    assert gate.read_text() == whole
    kept = {f.name for f in (workspace.adapters_path / "_unreadable").iterdir()}
    assert kept == {first.name, second.name, "router"}


def test_training_one_task_fits_the_router_to_the_outcomes_of_all(
    labelled: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[np.ndarray] = []
    real = routing.train_router

    def watched(asked: Any, cards: Any, names: Any, outcomes: Any, *given: Any) -> Any:
        of_match = [name.startswith("match") for name in names]
        assert len(names) == 3 and sum(of_match) == 2
        about_match = given[-1][:, of_match].any(axis=1)
        fitted.append(outcomes[about_match][:, of_match])
        return real(asked, cards, names, outcomes, *given)

    monkeypatch.setattr(routing, "train_router", watched)
    cities = "SELECT meld_learn('impute', {'row': {'n': 'n' || i, 'city': NULL}, 'column': 'city'},"
    labelled.execute(f"{cities} ['rome', 'oslo'][1 + i % 2]) FROM range(12) r(i)").fetchall()
    session = open_session()
    train(session)
    labelled.execute(f"{cities} 'oslo') FROM range(12, 16) r(i)").fetchall()

    def train_impute(lines: list[str]) -> set[str]:
        pipeline = Pipeline(session, TrainSettings(mixture=SETTINGS), lines.append)
        return {f.name for f in pipeline.run(["impute"], EXPERTS) if f.skipped}

    lines: list[str] = []
    skipped = train_impute(lines)
    assert not skipped & {"router"}
    before, after = fitted
    assert len(before) > 10 and np.array_equal(before, after)
    asked = [line for line in lines if "asked about" in line]
    assert len(asked) == 1, "what experts of match say was known"
    assert len(list(session.workspace.calibration_path.glob("*.json"))) == 3
    assert session.gates.of("match") and len(session.gates.of("match")) == 2

    assert "router" in train_impute([])
    assert all(f.skipped for f in train(session))


def test_the_expert_of_the_former_rows_of_a_table_goes(labelled: duckdb.DuckDBPyConnection) -> None:
    labelled.execute(
        "CREATE TABLE cameras AS SELECT 'camera ' || i AS title FROM range(24) r(i) UNION ALL "
        "SELECT 'camera ' || (i + (i % 3)::INT) || ' x' FROM range(24) r(i)"
    )
    labelled.execute("FROM meld.index('cameras', embed := false)").fetchall()
    session, lines = open_session(), list[str]()
    train(session)
    before = set(session.mixture.own)
    labelled.execute("INSERT INTO cameras VALUES ('camera 99')")
    labelled.execute("FROM meld.index('cameras', embed := false)").fetchall()
    train(session, lines)
    after = set(session.mixture.own)
    assert len(before) == len(after) == 2
    [gone] = before - after
    assert f"the expert {gone} is removed: labels of match that it set aside have another" in (
        "\n".join(lines)
    )
    assert len(list(session.workspace.calibration_path.glob("*.json"))) == 2


def test_a_killed_refinement_goes_on_at_its_round(
    labelled: duckdb.DuckDBPyConnection, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, refine=RefineSettings(rounds=2, quota=4))
    watched = mixture.train_adapter

    def killed(rows: Any, base: Path, out: Path, *given: Any, **more: Any) -> Any:
        if out.name == "2":
            (out.parent / ".2.abcd1234").mkdir()
            raise KeyboardInterrupt
        return watched(rows, base, out, *given, **more)

    session = open_session()
    with monkeypatch.context() as patch:
        patch.setattr(mixture, "train_adapter", killed)
        with pytest.raises(KeyboardInterrupt):
            train(session, settings=settings)
    assert [run.out for run in runs] == ["pretrain-match", "0", "1"]
    train(session, settings=settings)
    assert [run.out for run in runs[3:]] == ["2", "0", "1", "2"]
    assert not list((session.workspace.path / "train").rglob(".*"))


def test_a_round_that_teaches_nothing_leaves_the_expert_as_it_was(
    labelled: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mixture.train_adapter

    def failing(rows: Any, base: Path, out: Path, *given: Any, **more: Any) -> Any:
        if out.name == "1":
            raise TrainingError("the loss is nan after step 1, expected a finite number")
        return real(rows, base, out, *given, **more)

    monkeypatch.setattr(mixture, "train_adapter", failing)
    lines: list[str] = []
    done = train(open_session(), lines)
    rounds = [f.metrics["best round"] for f in done if f.name.startswith("refine ")]
    assert rounds == [0, 0]
    assert sum(" is left out: the loss is nan" in line for line in lines) == 2


def test_an_expert_that_is_not_trained_now_is_judged_by_labels_it_has_not_seen(
    labelled: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    real = routing.fit_gate

    def watched(group: LabelGroup, *given: Any, **more: Any) -> Any:
        if group.task == "match":
            asked.append({r.digest for row in group.dev for r in row.query.records})
        return real(group, *given, **more)

    monkeypatch.setattr(routing, "fit_gate", watched)
    cities = "SELECT meld_learn('impute', {'row': {'n': 'n' || i, 'city': NULL}, 'column': 'city'},"
    labelled.execute(f"{cities} ['rome', 'oslo'][1 + i % 2]) FROM range(12) r(i)").fetchall()
    session = open_session()
    train(session)
    before = list(asked)
    asked.clear()
    labelled.execute(
        """SELECT meld_learn('match', {'a': {'title': 'camera ' || i},
            'b': {'title': 'camera ' || i || ' y'}}, true) FROM range(100, 110) r(i)"""
    ).fetchall()
    pipeline = Pipeline(session, TrainSettings(mixture=SETTINGS), lambda line: None)
    pipeline.run(["impute"], EXPERTS)
    assert asked and all(those in before for those in asked)
