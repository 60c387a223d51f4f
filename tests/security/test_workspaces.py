"""A workspace from elsewhere: nothing in it is executed, nothing outside of it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.daemon.options import Options, keep_options, last_options
from meld_duckdb.daemon.places import places_of
from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, InputError, MeldError
from meld_duckdb.kcmf.rule_files import load_rules
from meld_duckdb.planner.adapter_card import read_adapter_card
from meld_duckdb.planner.expert_card import read_card
from meld_duckdb.planner.router import META, WEIGHTS, read_router
from meld_duckdb.retrieval.bases import read_base
from meld_duckdb.settings import Settings
from meld_duckdb.workspace import open_workspace, read_adapter, read_manifest, write_atomic
from tests.scripted import ScriptedBackend
from tests.security.attacks import ATTACKS

PLACES = (
    "", "encoder/a", "experts/a", "adapters/a", "router", "calibration", "knowledge", "kcmf/rules",
    "train/align", "logs",
)  # fmt: skip
FORMATS = (
    "adapter_model.bin",
    "head.pt",
    "model.pkl",
    "m.joblib",
    "x.npy",
    "x.PTH",
    "x.py",
    "x.so",
)


def pickled(sentinel: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return b"cos\nsystem\n(S'touch " + str(sentinel).encode() + b"'\ntR."


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return open_workspace(tmp_path / "w").path


@pytest.mark.parametrize("place", PLACES)
def test_a_format_that_can_execute_code_is_refused_wherever_it_lies(
    place: str, workspace: Path, tmp_path: Path
) -> None:
    sentinel = tmp_path / "executed"
    folder = workspace / place
    folder.mkdir(parents=True, exist_ok=True)
    for name in FORMATS:
        (folder / name).write_bytes(pickled(sentinel))
        with pytest.raises(ArtefactCorrupt, match="can execute code when it is loaded") as refused:
            open_workspace(workspace)
        assert name in refused.value.what and "remove it" in (refused.value.hint or "")
        (folder / name).unlink()
    open_workspace(workspace)
    assert not sentinel.exists()


def test_the_refusal_is_what_a_statement_says(
    workspace: Path, backend: ScriptedBackend, tmp_path: Path
) -> None:
    (workspace / "experts").mkdir()
    (workspace / "experts" / "expert.pkl").write_bytes(pickled(tmp_path / "executed"))
    con = meld_duckdb.connect(workspace=workspace)
    with pytest.raises(duckdb.Error, match=r"MELD-E032.*experts/expert\.pkl"):
        con.execute("SELECT meld_match('a', 'b')").fetchall()
    assert not (tmp_path / "executed").exists()


def test_lists_of_deleted_rows_of_lancedb_are_no_code(workspace: Path) -> None:
    folder = workspace / "index.lance" / "entries.lance" / "_deletions"
    folder.mkdir(parents=True)
    (folder / "0-1-2.bin").write_bytes(b"x")
    open_workspace(workspace)


@pytest.mark.parametrize(
    "name", ["manifest.json", "experts", "index.lance/x.lance", "cache.sqlite", "meld.toml"]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_leads_out_is_refused(
    name: str, there: bool, workspace: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    if there:
        outside.mkdir()
    link = workspace / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    with pytest.raises(ArtefactCorrupt, match="a link that leads out of it"):
        open_workspace(workspace)
    link.unlink()
    link.symlink_to("../w/inside" if link.parent == workspace else "../../w/inside")
    if name != "manifest.json":
        open_workspace(workspace)


def test_a_link_to_a_whole_workspace_is_one(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(workspace)
    (workspace / "a").write_text("x")
    (workspace / "b").symlink_to("a")
    assert read_manifest(open_workspace(tmp_path / "link"))


def test_a_pipe_is_refused_and_not_waited_for(workspace: Path) -> None:
    os.mkfifo(workspace / "card.json")
    with pytest.raises(ArtefactCorrupt, match="no plain file"):
        open_workspace(workspace)


@pytest.mark.parametrize("name", ["../../outside", "/etc", "..", ".hidden", "a/b", ""])
def test_a_manifest_names_no_adapter_elsewhere(name: str, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    opened = open_workspace(workspace)
    write_atomic(opened.manifest_path, json.dumps({"schema_version": 2, "encoder_adapter": name}))
    with pytest.raises(ArtefactCorrupt):
        read_adapter(opened)


@pytest.mark.parametrize("read", [read_card, read_adapter_card])
def test_a_card_names_no_directory_but_its_own(
    read: Callable[[Path], object], workspace: Path
) -> None:
    folder = workspace / "experts" / "a"
    folder.mkdir(parents=True)
    names = {"meld-expert/1": "card.json", "meld-adapter/1": "expert.json"}
    fields = {
        "id": "../../etc", "task": "match", "key": [], "path": [], "description": "d", "model": "m",
        "model_digest": "x", "weights": "x",
    }  # fmt: skip
    for version, name in names.items():
        (folder / name).write_text(json.dumps({"format": version, **fields}))
    with pytest.raises(ArtefactCorrupt):
        read(folder)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "a\0b", "x" * 500]
)
def test_names_of_rules_and_knowledge_lead_nowhere(name: str, workspace: Path) -> None:
    with pytest.raises(InputError):
        load_rules(workspace / "kcmf" / "rules", name, "schema_match")
    with pytest.raises(MeldError):
        read_base(workspace / "knowledge", name)


BOMBS = {
    "nested": "[" * 200_000,
    "nested object": ATTACKS["deep_object"],
    "number": '{"schema_version": ' + "9" * 10_000 + "}",
    "infinite": '{"schema_version": 1e999}',
    "list": "[]",
    "not text": "\\xff",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_json_that_cannot_be_read_is_named(bomb: str, workspace: Path) -> None:
    opened = open_workspace(workspace)
    folder = workspace / "experts" / "a"
    folder.mkdir(parents=True)
    for name in ("card.json", "expert.json", META, WEIGHTS):
        (folder / name).write_text(BOMBS[bomb])
    for read in (read_card, read_adapter_card, read_router):
        with pytest.raises(ArtefactError):
            read(folder)
    rules = workspace / "kcmf" / "rules"
    rules.mkdir(parents=True)
    (rules / "a.schema_match.json").write_text(BOMBS[bomb])
    with pytest.raises(ArtefactCorrupt):
        load_rules(rules, "a", "schema_match")
    opened.manifest_path.write_text(BOMBS[bomb])
    with pytest.raises(ArtefactCorrupt, match="is not a manifest"):
        open_workspace(workspace)


def test_a_huge_file_is_not_read_into_memory(workspace: Path) -> None:
    opened = open_workspace(workspace)
    with opened.manifest_path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of holes
    with pytest.raises(ArtefactCorrupt, match="expected at most"):
        open_workspace(workspace)


def test_an_engine_is_not_restarted_as_a_workspace_from_elsewhere_says(
    workspace: Path, tmp_path: Path
) -> None:
    where = places_of(Settings(workspace=workspace))
    where.folder.mkdir(mode=0o700)
    listening = Options(tcp="0.0.0.0:9999", token_file=tmp_path / "token")
    keep_options(where, listening)
    assert last_options(Settings(workspace=workspace)) == listening
    copied = tmp_path / "copied" / "engine"
    copied.mkdir(parents=True)
    (copied / "options.json").write_bytes(where.options.read_bytes())
    assert last_options(Settings(workspace=copied.parent)) == Options()
