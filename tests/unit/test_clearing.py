"""What training removes before and while it makes experts, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meld_duckdb.features.stack import Stack
from meld_duckdb.planner.adapter_card import AdapterCard
from meld_duckdb.planner.expert_card import ANY, Key
from meld_duckdb.planner.gate import Gate, gate_json, gate_name
from meld_duckdb.train import clearing
from meld_duckdb.train.clearing import adapter_folders, clear_half_saved, remove_former
from meld_duckdb.train.install import install_adapter
from meld_duckdb.train.label_groups import group_name
from meld_duckdb.workspace import Workspace

OLD, NEW = ("former rows",), ("present rows",)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path)
    found.calibration_path.mkdir()
    return found


def trained_in(workspace: Workspace) -> Path:
    return workspace.path / "train" / "experts"


def put(
    workspace: Workspace, task: str, key: Key, *, trained: bool = True, aside: str = "a label"
) -> str:
    """Install an expert, which set a label aside, and a gate; gives the name of the former."""
    weights = trained_in(workspace) / group_name(task, key) / "0"
    if not trained:
        weights = workspace.path / "elsewhere" / task
    weights.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (weights / name).write_text(f"{task} {key}")
    if trained:
        (weights.parent / "aside.json").write_text(json.dumps([aside]))
    card = AdapterCard(
        id=group_name(task, key),
        task=task,
        key=key,
        description="",
        model="m",
        model_digest="d",
        weights="",
    )
    gate = Gate(task, key, True, "", 0.0, 1.0, Stack(), "d", "")
    (workspace.calibration_path / gate_name(task, key)).write_text(gate_json(gate))
    return install_adapter(workspace.adapters_path, card, weights).id


def names(workspace: Workspace) -> set[str]:
    return {folder.name for folder in adapter_folders(workspace.adapters_path)}


def test_the_expert_of_former_rows_goes(workspace: Workspace) -> None:
    old, new = put(workspace, "match", OLD), put(workspace, "match", NEW)
    lines: list[str] = []
    remove_former(workspace, trained_in(workspace), {("match", NEW): {"a label"}}, lines.append)
    assert names(workspace) == {new}
    assert [path.name for path in workspace.calibration_path.iterdir()] == [gate_name("match", NEW)]
    assert [folder.name for folder in trained_in(workspace).iterdir()] == [group_name("match", NEW)]
    why = "is removed: labels of match that it set aside have another expert by now"
    assert lines == [f"the gate {gate_name('match', OLD)} {why}", f"the expert {old} {why}"]


def test_what_has_labels_and_what_came_from_elsewhere_stays(workspace: Workspace) -> None:
    kept = {
        put(workspace, "match", NEW),
        put(workspace, "match", ("few labels",)),
        put(workspace, "match", ("copied",), trained=False),
        put(workspace, "match", ANY, trained=False),
        put(workspace, "match", ("held out",), aside="a label that is held out"),
        put(workspace, "impute", OLD),  # the task is not trained now
    }
    keys = {("match", NEW): {"a label"}, ("match", ("few labels",)): {"another"}}
    lines: list[str] = []
    remove_former(workspace, trained_in(workspace), keys, lines.append)
    assert names(workspace) == kept and not lines
    assert len(list(workspace.calibration_path.iterdir())) == len(kept)


def test_labels_that_are_too_few_for_a_new_expert_keep_the_old_one(workspace: Workspace) -> None:
    kept = {put(workspace, "match", OLD), put(workspace, "match", ("of others",), aside="theirs")}
    keys = {("match", NEW): {"a label"}, ("match", ("of others",)): {"theirs"}}
    remove_former(workspace, trained_in(workspace), keys, print)
    assert names(workspace) == kept


def test_a_task_without_a_new_expert_keeps_its_old_one(workspace: Workspace) -> None:
    old = put(workspace, "match", OLD)
    remove_former(workspace, trained_in(workspace), {("match", NEW): {"a label"}}, print)
    assert names(workspace) == {old}


@pytest.mark.parametrize("at", range(3))
def test_a_killed_run_goes_on(
    workspace: Workspace, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (OLD, ("older rows",), NEW):
        new = put(workspace, "match", key)
    calls, real = 0, clearing.remove_folder

    def killed(place: Path, beside: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > at:
            raise KeyboardInterrupt
        real(place, beside)

    with monkeypatch.context() as patch:
        patch.setattr(clearing, "remove_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_former(workspace, trained_in(workspace), {("match", NEW): {"a label"}}, print)
    remove_former(workspace, trained_in(workspace), {("match", NEW): {"a label"}}, print)
    assert names(workspace) == {new}
    assert len(list(workspace.calibration_path.iterdir())) == 1
    assert len(list(trained_in(workspace).iterdir())) == 1


def test_what_was_being_saved_goes_and_checkpoints_stay(tmp_path: Path) -> None:
    group = tmp_path / "match-12345678"
    for name in ("0", ".0.training", ".0.abcd1234/old", ".1.abcd1234"):
        (group / name).mkdir(parents=True)
    for name in (".new-abcd1234", ".old-abcd1234/router", ".pretrain-match.training"):
        (tmp_path / name).mkdir(parents=True)
    for place in (group / ".path.json.abcd1234", tmp_path / ".outcomes.json.abcd1234"):
        place.write_text("")
    clear_half_saved(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        ".pretrain-match.training",
        "match-12345678",
        "match-12345678/0",
        "match-12345678/.0.training",
    }
