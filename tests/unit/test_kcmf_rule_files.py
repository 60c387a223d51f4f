from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, InputError
from meld_duckdb.kcmf.rule_files import list_rules, load_rules, remove_rules, save_rules, task_of
from meld_duckdb.kcmf.rules import BUILT_IN, TASKS, Rule, RuleSet
from meld_duckdb.workspace import Workspace, open_workspace

STRICT = RuleSet(
    "strict",
    "schema_match",
    (Rule("a “b”", "3", "next", "ü", "alias"), Rule("c", "no", "next"), Rule("d", "no", "yes")),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "w")


def test_what_is_loaded_is_what_was_saved(workspace: Workspace) -> None:
    path = save_rules(workspace, STRICT)
    assert path == workspace.path / "kcmf" / "rules" / "strict.schema_match.json"
    assert load_rules(workspace.rules_path, "strict", "schema_match") == STRICT
    assert [p.name for p in workspace.rules_path.iterdir()] == [path.name]


def test_a_set_is_overwritten_only_when_asked(workspace: Workspace) -> None:
    save_rules(workspace, STRICT)
    other = replace(STRICT, rules=STRICT.rules[2:])
    with pytest.raises(InputError, match=r"'strict' of schema_match already.*--replace"):
        save_rules(workspace, other)
    assert load_rules(workspace.rules_path, "strict", "schema_match") == STRICT
    save_rules(workspace, other, replace=True)
    assert load_rules(workspace.rules_path, "strict", "schema_match") == other


def test_tasks_can_have_rules_of_one_name(workspace: Workspace) -> None:
    folder = workspace.rules_path
    save_rules(workspace, STRICT)
    assert task_of(folder, "strict") == "schema_match"
    save_rules(workspace, replace(STRICT, task="entity_match", rules=STRICT.rules[2:]))
    assert load_rules(folder, "strict", "schema_match") == STRICT
    with pytest.raises(InputError, match=r"of schema_match and of entity_match.*--task"):
        task_of(folder, "strict")
    remove_rules(folder, "strict", "schema_match")
    assert task_of(folder, "strict") == "entity_match"


@pytest.mark.parametrize("task", TASKS)
def test_the_default_is_built_in_until_there_is_one(task: str, workspace: Workspace) -> None:
    folder = workspace.rules_path
    assert load_rules(folder, "default", task) is BUILT_IN[task]
    own = replace(STRICT, name="default", task=task)
    save_rules(workspace, own)
    assert load_rules(folder, "default", task) == own
    remove_rules(folder, "default", task)
    assert load_rules(folder, "default", task) is BUILT_IN[task]
    with pytest.raises(InputError, match="built in and cannot be removed"):
        remove_rules(folder, "default", task)


def test_unknown_names_get_the_closest(workspace: Workspace) -> None:
    save_rules(workspace, STRICT)
    folder = workspace.rules_path
    with pytest.raises(InputError, match=r"unknown rules 'strikt' of schema_match.*mean 'strict'"):
        load_rules(folder, "strikt", "schema_match")
    with pytest.raises(InputError, match="that name for schema_match; known: default"):
        load_rules(folder, "strict", "entity_match")
    with pytest.raises(InputError, match="mean 'strict'"):
        remove_rules(folder, "strct", "schema_match")
    with pytest.raises(InputError, match="mean 'strict'"):
        task_of(folder, "strct")
    with pytest.raises(InputError, match="did you mean 'entity_match'"):
        load_rules(folder, "strict", "entity")


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "a\\b", "a.b", "/x", "é", "x" * 65, "a\n"]
)
def test_a_name_is_no_path(name: str, workspace: Workspace) -> None:
    with pytest.raises(InputError, match="cannot be a name of rules"):
        save_rules(workspace, replace(STRICT, name=name))
    with pytest.raises(InputError, match="cannot be a name of rules"):
        load_rules(workspace.rules_path, name, "schema_match")
    with pytest.raises(InputError, match="cannot be a name of rules"):
        remove_rules(workspace.rules_path, name, "schema_match")
    assert not workspace.rules_path.exists()


def test_rules_that_cannot_be_used_are_not_saved(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="rule 1 of 'strict' leads to rule 1"):
        save_rules(workspace, replace(STRICT, rules=(Rule("c", "1", "next"), *STRICT.rules[1:])))
    assert not workspace.rules_path.exists()


def test_none_is_not_saved(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="cannot be called 'none'"):
        save_rules(workspace, replace(STRICT, name="none"))
    assert not workspace.rules_path.exists()


ROWS = STRICT.rows()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"rules": 5}',
        b'{"rules": "abc"}',
        b'{"rules": [1]}',
        b"[" * 100_000,
        json.dumps({"rules": []}).encode(),
        json.dumps({"rules": ROWS[:1]}).encode(),
        json.dumps({"rules": [{**ROWS[2], "ord": 1, "check": "gone"}]}).encode(),
    ],
)
def test_a_damaged_file_names_the_command_that_mends_it(
    content: bytes, workspace: Workspace
) -> None:
    path = save_rules(workspace, STRICT)
    path.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match="damaged") as error:
        load_rules(workspace.rules_path, "strict", "schema_match")
    options = f"--task schema_match --workspace {workspace.path}"
    assert f"meld kcmf rules add strict SOURCE --replace {options};" in str(error.value)
    assert str(error.value).endswith(f"meld kcmf rules remove strict {options}")
    listed = {(one.name, one.task): one.rules for one in list_rules(workspace.rules_path)}
    assert listed["strict", "schema_match"] is None
    save_rules(workspace, STRICT, replace=True)
    assert load_rules(workspace.rules_path, "strict", "schema_match") == STRICT
    path.write_bytes(content)
    remove_rules(workspace.rules_path, "strict", "schema_match")
    assert not path.exists()


def test_the_list_begins_with_the_default_of_each_task(workspace: Workspace) -> None:
    folder = workspace.rules_path
    names = [("default", "schema_match", True), ("default", "entity_match", True)]
    assert [(one.name, one.task, one.built_in) for one in list_rules(folder)] == names
    save_rules(workspace, STRICT)
    save_rules(workspace, replace(STRICT, name="A"))
    save_rules(workspace, replace(STRICT, name="default", task="entity_match"))
    (folder / "not a name.schema_match.json").write_text("{}")
    (folder / "notes.txt").write_text("")
    assert [(one.name, one.task, one.built_in) for one in list_rules(folder)] == [
        ("default", "schema_match", True),
        ("A", "schema_match", False),
        ("strict", "schema_match", False),
        ("default", "entity_match", False),
    ]


def test_a_folder_that_cannot_be_used_is_said(workspace: Workspace) -> None:
    (workspace.path / "kcmf").write_text("")
    with pytest.raises(ArtefactError, match=r"cannot be written.*meld doctor"):
        save_rules(workspace, STRICT)
    assert load_rules(workspace.rules_path, "default", "schema_match").name == "default"
    (workspace.path / "kcmf").unlink()
    (workspace.rules_path / "strict.schema_match.json").mkdir(parents=True)
    with pytest.raises(ArtefactError, match="cannot be read"):
        load_rules(workspace.rules_path, "strict", "schema_match")
    with pytest.raises(ArtefactError, match="cannot be removed"):
        remove_rules(workspace.rules_path, "strict", "schema_match")
