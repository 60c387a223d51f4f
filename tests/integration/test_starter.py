"""The starter: trained stage by stage, killed anywhere and gone on with; and what it answers."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from meld_duckdb import connect
from meld_duckdb.engine.cross_encoder import files_digest
from meld_duckdb.models import sha256
from meld_duckdb.planner.expert_card import ANY, read_card
from meld_duckdb.train.cross_dataset import FOLDS, MATCH_SETS
from meld_duckdb.train.general import TASK, Opinions, fit, fold_folder, read_opinions
from tests.integration.things import run_script
from tests.unit.tiny_encoder import save_tiny_encoder
from tests.unit.tiny_llama import save_tiny_llama

SCRIPT = """
import os, signal, sys
from meld_duckdb.train import stages
from meld_duckdb.train.starter import main
wanted = sys.argv.pop(1)
record = stages._record
def patched(workspace, lock, name, made):
    if name == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    record(workspace, lock, name, made)
stages._record = patched
main()
"""
STAGES = [f"{TASK} without {fold[0]}" for fold in FOLDS[TASK]] + [
    f"{TASK} of all sets",
    f"{TASK} installed",
    f"{TASK} adapter",
]
WORDS = ("sony", "canon", "tv", "camera", "red", "blue", "green", "big", "small")


def write_sets(folder: Path) -> Path:
    """Eight small data sets in which a match has the same words in another order; no test pairs,
    so that whoever opens them fails."""
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
        for split, of in (("train", range(16)), ("valid", range(16, 24))):
            pairs = [
                {"ltable_id": f"tableA{i}", "rtable_id": f"tableB{j}", "label": int(i == j)}
                for i in of
                for j in (i, *rng.sample([k for k in of if k != i], 2))
            ]
            parquet.write_table(pa.Table.from_pylist(pairs), place / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("starter")
    data = write_sets(folder / "data")
    encoder = save_tiny_encoder(folder / "encoder")
    model = save_tiny_llama(folder / "llama")
    return ["--data", str(data), "--encoder", str(encoder), "--model", str(model)]


def run(given: list[str], keep: Path, out: Path, killed_at: str = "never") -> int:
    places = ["--keep", str(keep), "--out", str(out)]
    code, said = run_script(SCRIPT, [killed_at, *given, *places], {})
    assert code in {0, -signal.SIGKILL}, said
    return code


def digests(out: Path) -> dict[str, str]:
    """Identity of every expert, and of all of its card but for the time it took."""
    found = {}
    for folder in sorted((out / "experts").iterdir()):
        card = json.loads((folder / "card.json").read_text("utf-8"))
        card.pop("seconds")
        found[folder.name] = files_digest(folder) + json.dumps(card, sort_keys=True)
    weights = out / "adapters" / TASK / "adapter_model.safetensors"
    return found | {"adapter": sha256(weights)}


@pytest.fixture(scope="module")
def whole(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run(given, folder / "keep", folder / "out") == 0
    return folder


@pytest.mark.timeout(1200)
def test_a_starter_that_was_killed_after_every_stage_is_the_same(
    given: list[str], whole: Path, tmp_path: Path
) -> None:
    for stage in STAGES:
        assert run(given, tmp_path / "keep", tmp_path / "out", stage) == -signal.SIGKILL, stage
    assert run(given, tmp_path / "keep", tmp_path / "out") == 0
    assert digests(tmp_path / "out") == digests(whole / "out")


def test_its_report_says_what_it_was_made_of(given: list[str], whole: Path) -> None:
    report = json.loads((whole / "out" / "starter.json").read_text("utf-8"))
    assert set(report["stages"]) == set(STAGES)
    assert len(report["data"]) == 4 * len(MATCH_SETS)
    before = (whole / "out" / "starter.json").read_bytes()
    assert run(given, whole / "keep", whole / "out") == 0
    assert (whole / "out" / "starter.json").read_bytes() == before


def test_data_that_is_not_there_is_named(given: list[str], tmp_path: Path) -> None:
    places = ["--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out")]
    wrong = ["--data", str(tmp_path / "none"), *given[2:]]
    code, said = run_script(SCRIPT, ["never", *wrong, *places], {})
    assert code == 1 and "tableA.parquet" in said and "Traceback" not in said


def test_no_fold_is_judged_by_what_has_seen_it(whole: Path) -> None:
    folder = whole / "keep" / "train" / "general" / TASK
    for fold in FOLDS[TASK]:
        place = fold_folder(folder, fold)
        assert set(read_opinions(place / "opinions.json").names) == set(fold)
        rows = json.loads((place / "card.json").read_text("utf-8"))["rows"]
        assert rows and not {f"data set:{name}" for name in fold} & set(rows)


def test_it_answers_where_nothing_is_labelled(
    given: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = (whole / "out" / "experts").iterdir()
    card = read_card(folder)
    assert card.key == ANY and not card.labels
    used = tmp_path / "starter" / "experts" / card.id
    used.parent.mkdir(parents=True)
    folder.rename(used)
    written = json.loads((used / "card.json").read_text("utf-8"))
    (used / "card.json").write_text(json.dumps(written | {"use": True, "low": -1.0, "high": 2.0}))
    try:
        asked = "SELECT unnest(meld_match_detail('sony tv', 'tv sony red'), recursive := true)"
        settings: dict[str, Any] = {"encoder": given[3], "progress": False}
        with connect(
            ":memory:", workspace=tmp_path / "w", starter=str(tmp_path / "starter"), **settings
        ) as connection:
            found = connection.execute(asked)
            names = [d[0] for d in found.description]
            row = dict(zip(names, found.fetchall()[0], strict=True))
            assert row["tier"] == 1 and row["experts"] == [card.id]
            listed = connection.execute(
                "SELECT expert, trained_for FROM meld.experts() WHERE tier = 1"
            ).fetchall()
            assert listed == [(card.id, "any tables, where the task has no label")]
        with connect(
            ":memory:", workspace=tmp_path / "w", starter="none", **settings
        ) as connection:
            found = connection.execute(asked)
            names = [d[0] for d in found.description]
            assert dict(zip(names, found.fetchall()[0], strict=True))["tier"] == 0
    finally:
        used.rename(folder)
        (folder / "card.json").write_text(json.dumps(written))


def test_tier_1_is_added_only_where_unseen_sets_say_so() -> None:
    rng = np.random.default_rng(0)

    def opinions(n: int, *, helps: bool) -> Opinions:
        answers = rng.random(n) < 0.3
        sign = np.where(answers, 1.0, -1.0)
        weak = sign + rng.normal(0, 3, n)
        strong = 3 * sign + rng.normal(0, 2, n) if helps else rng.normal(0, 2, n)
        return Opinions(("a",) * n, {"pair": weak, "context": weak}, strong, answers)

    good = fit([opinions(300, helps=True) for _ in range(3)])
    assert good.use and good.stack.added > 0
    assert not fit([opinions(300, helps=False) for _ in range(3)]).use
