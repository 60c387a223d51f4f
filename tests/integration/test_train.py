"""``meld train`` from labels in SQL to a tuned workspace, on a small encoder with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb.cli.main import cli
from meld_duckdb.locks import FileLock
from meld_duckdb.planner.session import Session
from meld_duckdb.service import LocalService
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.tasks.base import Query
from meld_duckdb.train import pipeline
from meld_duckdb.train.held_out import hold_out
from meld_duckdb.train.pipeline import RETRIEVAL, Pipeline, TrainSettings
from meld_duckdb.train.pseudo_labels import held_out_of
from meld_duckdb.train.rows import SELF_ANNOTATED, read_rows
from meld_duckdb.workspace import read_adapter
from tests.integration.things import COLOURS, QUICK, SIZES
from tests.unit.tiny_encoder import save_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def given(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Settings]]:
    """Two indexed tables of products and labels for some of their pairs."""
    monkeypatch.setenv("MELD_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("MELD_ENCODER", str(encoder))
    con = meld_duckdb.connect()
    things = [(c, s) for c in COLOURS for s in SIZES]
    for name, words in (("l", "sony {} {} tv"), ("r", "canon {} {} camera")):
        con.execute(f"CREATE TABLE {name} (id INTEGER, title VARCHAR, part VARCHAR)")
        rows = [
            (i, words.format(*thing), "test" if i == len(things) - 1 else "train")
            for i, thing in enumerate(things)
        ]
        con.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", rows)
        con.execute(f"FROM meld.index('{name}', split := 'part')").fetchall()
    con.execute(
        "SELECT meld_learn('match', {'a': l, 'b': r}, l.id = r.id) FROM l, r "
        "WHERE l.id % 2 = 0 AND r.id - l.id BETWEEN 0 AND 2"
    ).fetchall()
    yield con, resolve()[0]
    con.close()


def test_all_stages_run_once_and_the_encoder_is_another_one(
    given: tuple[duckdb.DuckDBPyConnection, Settings],
) -> None:
    con, settings = given
    before = con.execute("SELECT meld_embed('sony red tv')").fetchall()
    session = LocalService(settings).session
    digest = session.encoder_digest
    lines: list[str] = []
    done = Pipeline(session, QUICK, lines.append).run(("match",))
    assert [one.name.split()[0] for one in done] == list(RETRIEVAL)
    assert not any(one.skipped for one in done)
    found = {one.name: one.metrics for one in done}
    assert found["encoder"]["used"] and read_adapter(session.workspace) is not None
    assert session.encoder_digest != digest
    assert found["embed"]["rows embedded"] == 2 * len(COLOURS) * len(SIZES)
    assert found["expert match"]["used"] in (True, False) and found["expert match"]["why"]
    assert con.execute("SELECT meld_embed('sony red tv')").fetchall() != before
    again = Pipeline(session, QUICK, lines.append).run(("match",))
    assert all(one.skipped for one in again)
    assert [one.metrics for one in again] == [one.metrics for one in done]


def test_every_pair_of_tables_with_labels_enough_has_an_expert_of_tier_1(
    given: tuple[duckdb.DuckDBPyConnection, Settings],
) -> None:
    con, settings = given
    con.execute(
        """SELECT meld_learn('match', {'a': {'wine': 'red ' || i},
            'b': {'wine': 'red ' || (i + (i % 3)::INT) || ' x'}}, i % 3 = 0) FROM range(24) r(i)"""
    ).fetchall()
    con.execute(
        """SELECT meld_learn('match', {'a': {'shoe': 'boot ' || i}, 'b': {'shoe': 'boot'}}, true)
        FROM range(6) r(i)"""
    ).fetchall()
    session = LocalService(settings).session
    [done] = Pipeline(session, QUICK, lambda line: None).run(("match",), ("expert",))
    cards = [expert.card for expert in session.experts.own()]
    assert sorted(done.metrics["id"].split()) == sorted(card.id for card in cards)
    assert len({card.key for card in cards}) == 2 and not any("shoe" in c.key for c in cards)
    [again] = Pipeline(session, QUICK, lambda line: None).run(("match",), ("expert",))
    assert again.skipped


def test_held_out_rows_and_pairs_enter_no_stage(
    given: tuple[duckdb.DuckDBPyConnection, Settings],
) -> None:
    con, settings = given
    session = LocalService(settings).session
    flagged = held_out_of(session)
    last = con.execute("SELECT l FROM l WHERE part = 'test'").fetchall()[0][0]
    tables = [session.tables.index(t.digest).records for t in session.catalogue.tables()]
    tests = [r for table in tables for r in table if r.fields["part"] == "test"]
    assert len(tests) == 2 and all(flagged.covers_record(r) for r in tests)
    pair = Query((tables[0][3], tables[1][3]))
    held = hold_out([pair], tests)
    Pipeline(session, TrainSettings(held_out=held), print).run(
        ("match",), ("annotate", "transform", "align")
    )
    folder = settings.workspace / "train"
    rows = read_rows(folder / "rows-match.jsonl") + read_rows(folder / "rows-transformed.jsonl")
    assert rows and not any(held.covers(row.query) for row in rows)
    assert any(row.origin == SELF_ANNOTATED for row in rows)
    assert last["title"] not in (folder / "aligned.json").read_text()


def test_the_command_trains_and_says_so(
    given: tuple[duckdb.DuckDBPyConnection, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    answered = runner.invoke(cli, ["train", "--task", "match", "--json"])
    assert answered.exit_code == 0, answered.output
    stages = json.loads(answered.stdout)
    assert [s["stage"].split()[0] for s in stages] == list(RETRIEVAL)
    assert "annotate match: started" in answered.stderr
    again = runner.invoke(cli, ["train", "--task", "match"])
    assert answered.exit_code == 0 and again.stderr.count("skipped") == len(stages)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--task", "mach"), "did you mean 'match'"), (("--task", "impute"), "no label of impute")],
)
def test_what_cannot_be_trained_is_told(
    given: tuple[duckdb.DuckDBPyConnection, Settings], arguments: tuple[str, ...], said: str
) -> None:
    answered = CliRunner().invoke(cli, ["train", *arguments])
    assert answered.exit_code != 0
    assert said in str(answered.exception)


def test_another_encoder_is_refused_with_the_command_that_mends_it(
    given: tuple[duckdb.DuckDBPyConnection, Settings],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """One of the same length is tuned anew by meld train; for another one vectors are forgotten."""
    _, settings = given
    session = LocalService(settings).session
    Pipeline(session, QUICK, print).run(("match",), ("annotate", "transform", "align", "encoder"))
    ask, index = "SELECT meld_embed('sony red tv')", "FROM meld.index('l', split := 'part')"
    runner = CliRunner()

    monkeypatch.setenv("MELD_ENCODER", str(save_tiny_encoder(tmp_path / "other", seed=1)))
    with meld_duckdb.connect() as con:
        again = rf"tune this one: meld train --workspace {settings.workspace}; or go back: MELD_EN"
        with pytest.raises(duckdb.Error, match=rf"MELD-E033.*tuned from another model.*{again}"):
            con.execute(ask)
    done = runner.invoke(cli, ["train", "--task", "match"])
    assert done.exit_code == 0, done.output
    assert "it is tuned anew" in done.stderr and "encoder: started" in done.stderr
    with meld_duckdb.connect() as con:
        assert len(con.execute(ask).fetchall()[0][0]) == 32

    monkeypatch.setenv("MELD_ENCODER", str(save_tiny_encoder(tmp_path / "longer", hidden=48)))
    with meld_duckdb.connect() as con:
        con.execute("CREATE TABLE l AS SELECT 1 AS id, 'x' AS title, 'train' AS part")
        with pytest.raises(duckdb.Error, match="meld workspace rebuild --vectors --workspace"):
            con.execute(index)
    done = runner.invoke(cli, ["train", "--task", "match"])
    assert "meld workspace rebuild --vectors --workspace" in str(done.exception)
    done = runner.invoke(cli, ["workspace", "rebuild", "--vectors"])
    assert done.exit_code == 0 and "2 tables, 26 labels" in done.stdout, done.output
    with meld_duckdb.connect() as con:
        con.execute("CREATE TABLE l AS SELECT 1 AS id, 'x' AS title, 'train' AS part")
        assert con.execute(index).fetchall()
        assert len(con.execute(ask).fetchall()[0][0]) == 48


def teach_one(session: Session) -> None:
    left, right = (session.tables.index(t.digest).records for t in session.catalogue.tables())
    session.learn(
        "match", [(Query(tuple(sorted((left[1], right[1]), key=lambda r: r.digest))), "match")]
    )


def test_a_label_taught_after_labels_were_read_is_trained_on_by_the_next_run(
    given: tuple[duckdb.DuckDBPyConnection, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = LocalService(given[1]).session
    real = pipeline.clear_half_written

    def taught(*folders: Path) -> None:
        real(*folders)
        teach_one(session)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "clear_half_written", taught)
        Pipeline(session, QUICK, print).run(("match",), ("annotate", "transform"))
    again = Pipeline(session, QUICK, print).run(("match",), ("annotate", "transform"))
    assert not any(one.skipped for one in again)
    last = Pipeline(session, QUICK, print).run(("match",), ("annotate", "transform"))
    assert all(one.skipped for one in last)


def test_a_label_taught_while_another_training_is_waited_for_is_used(
    given: tuple[duckdb.DuckDBPyConnection, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = LocalService(given[1]).session
    real = FileLock.hold

    @contextmanager
    def waited(lock: FileLock, *wait_s: float) -> Iterator[None]:
        with real(lock, *wait_s):
            if lock._path.name == "train.lock":
                teach_one(session)
            yield

    monkeypatch.setattr(FileLock, "hold", waited)
    read: list[int] = []
    monkeypatch.setattr(pipeline, "contexts_of", lambda _, rows: read.append(len(rows)) or [])
    before = len(session.demonstrator.labels("match"))
    Pipeline(session, QUICK, print).run(("match",), ("annotate",))
    assert read == [before + 1]
