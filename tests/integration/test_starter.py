"""The starter: trained stage by stage, killed anywhere and gone on with; and what it answers."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from meld_duckdb import connect
from meld_duckdb.engine.adapters import files_digest
from meld_duckdb.planner.adapter_card import read_adapter_card
from meld_duckdb.planner.expert_card import ANY
from meld_duckdb.train.cross_dataset import MATCH_SETS
from meld_duckdb.train.starter_stages import DRAWN, is_better
from tests.integration.things import run_script
from tests.unit.tiny_llama import save_tiny_llama

SCRIPT = """
import os, signal, sys
from meld_duckdb.train import stages, starter, starter_stages
wanted = sys.argv.pop(1)
say = starter._say
def said(line):
    say(line)
    if wanted == "match at a checkpoint" and "step 25" in line:
        os.kill(os.getpid(), signal.SIGKILL)
starter._say = said
starter.is_better = lambda figures: True
record, judge = stages._record, starter_stages.StarterExpert._judge
def recorded(workspace, lock, name, made):
    if name == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    record(workspace, lock, name, made)
def judged(expert):
    if wanted == f"{expert.task} judged":
        os.kill(os.getpid(), signal.SIGKILL)
    return judge(expert)
stages._record, starter_stages.StarterExpert._judge = recorded, judged
starter.main()
"""
TASKS = ("match", "schema_match")
STAGES = [f"{task} starter" for task in TASKS]
WORDS = ("sony", "canon", "tv", "camera", "red", "blue", "green", "big", "small")


def write_sets(folder: Path) -> Path:
    """Small data sets in which what matches has the same words in another order; no test rows of
    pairs, so that whoever opens them fails."""
    for number, name in enumerate(MATCH_SETS):
        rng = random.Random(number)
        place = folder / "EM" / name
        place.mkdir(parents=True)
        titles = [rng.sample(WORDS, 4) for _ in range(24)]
        for side in ("tableA", "tableB"):
            rows = [
                {"id": f"{side}{i}", "title": " ".join(rng.sample(words, 4)), "price": f"{i}.5"}
                for i, words in enumerate(titles)
            ]
            parquet.write_table(pa.Table.from_pylist(rows), place / f"{side}.parquet")
        pairs = [
            {"ltable_id": f"tableA{i}", "rtable_id": f"tableB{j}", "label": int(i == j)}
            for i in range(16)
            for j in (i, *rng.sample([k for k in range(16) if k != i], 2))
        ]
        parquet.write_table(pa.Table.from_pylist(pairs), place / "train.parquet")
    for name in ("cms", "synthea", "imdb_sakila"):
        rng = random.Random(name)
        columns = [
            {
                "source_table": "t",
                "source_column": " ".join(rng.sample(WORDS, 2)),
                "target_table": "u",
                "target_column": " ".join(rng.sample(WORDS, 2)),
                "source_description": None,
                "target_description": None,
                "label": i % 3 == 0,
                "split": "train",
            }
            for i in range(18)
        ]
        place = folder / "SM" / name
        place.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(columns), place / "pairs.parquet")
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("starter")
    data, model = write_sets(folder / "data"), save_tiny_llama(folder / "llama")
    return ["--data", str(data), "--model", str(model), "--task", *TASKS]


def run(given: list[str], keep: Path, out: Path, killed_at: str = "") -> str:
    """Train; gives what was said."""
    out.mkdir(exist_ok=True, parents=True)
    places = ["--keep", str(keep), "--out", str(out)]
    code, said = run_script(SCRIPT, [killed_at, *places, *given], {})
    assert code == (-signal.SIGKILL if killed_at else 0), said
    return said


def digests(out: Path) -> dict[str, str]:
    """Identity of every expert and of its card."""
    return {
        folder.name: files_digest(folder) + read_adapter_card(folder).to_json()
        for folder in sorted((out / "adapters").iterdir())
    }


@pytest.fixture(scope="module")
def whole(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(given, folder / "keep", folder / "out")
    return folder


@pytest.mark.timeout(1200)
def test_a_starter_that_was_killed_after_every_stage_is_the_same(
    given: list[str], whole: Path, tmp_path: Path
) -> None:
    keep, out = tmp_path / "keep", tmp_path / "out"
    run(given, keep, out, "match at a checkpoint")
    assert "goes on in pass 1 after step 25" in run(given, keep, out, "match judged")
    for stage in STAGES:
        run(given, keep, out, stage)
    run(given, keep, out)
    assert digests(tmp_path / "out") == digests(whole / "out")
    assert len(digests(whole / "out")) == len(TASKS)


def test_its_report_says_what_it_was_made_of(given: list[str], whole: Path) -> None:
    report = json.loads((whole / "out" / "starter.json").read_text("utf-8"))
    assert set(report) == set(STAGES)
    assert all(stage["data"] and stage["seconds"] > 0 for stage in report.values())
    before = (whole / "out" / "starter.json").read_bytes()
    run(given, whole / "keep", whole / "out")
    assert (whole / "out" / "starter.json").read_bytes() == before


def test_data_that_is_not_there_is_named(given: list[str], tmp_path: Path) -> None:
    places = ["--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out")]
    wrong = ["--data", str(tmp_path / "none"), *given[2:]]
    code, said = run_script(SCRIPT, ["", *places, *wrong], {})
    assert code == 1 and "tableA.parquet" in said and "Traceback" not in said


def test_nothing_is_learned_from_the_sets_it_is_judged_by(whole: Path) -> None:
    for folder in (whole / "out" / "adapters").iterdir():
        card = read_adapter_card(folder)
        learned = {name.removeprefix("data set:") for name in card.rows}
        assert learned and learned.isdisjoint(DRAWN[card.task].leave_out)
        assert card.key == ANY and {"model_score", "expert_score"} <= set(card.metrics)


def test_it_answers_where_the_workspace_has_no_expert(
    given: list[str], whole: Path, tmp_path: Path
) -> None:
    asked = "SELECT meld_match_detail('sony tv', 'tv sony red', {'tier': 't2'})"
    settings: dict[str, Any] = {"model": given[3], "progress": False}
    names = sorted(digests(whole / "out"))
    for starter, expected in ((str(whole / "out"), [names[0]]), ("none", [])):
        with connect(
            ":memory:", workspace=tmp_path / "w", starter=starter, **settings
        ) as connection:
            [[found]] = connection.execute(asked).fetchall()
            assert found["error"] is None and found["experts"] == expected


@pytest.mark.parametrize(("score", "better"), [(0.56, True), (0.54, False), (0.4, False)])
def test_only_a_better_one_ships(score: float, better: bool) -> None:
    assert is_better({"model_score": 0.5, "expert_score": score}) == better
