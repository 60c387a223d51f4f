"""``meld kcmf rules`` in this process: quick, and without models."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from meld_duckdb.cli.main import cli
from meld_duckdb.errors import InputError
from meld_duckdb.kcmf.rules import BUILT_IN

CSV = """ord,condition,then,else
2,"the columns, as described, differ",no,yes
1,the types differ,no,next
"""
TEXT = """I: Rules II and III must be checked in order until an answer is reached.
II: If the types differ, the answer is no; otherwise check rule III.
III: If the columns, as described, differ, the answer is no; otherwise the answer is yes.
"""


def rules(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["kcmf", "rules", *arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rules.csv"
    path.write_text(CSV)
    return path


def test_rules_are_added_listed_shown_and_removed(source: Path, tmp_path: Path) -> None:
    added = rules("add", "mine", str(source), "--task", "schema_match")
    assert (added.output, added.exit_code) == ("mine: 2 rules of schema_match kept\n", 0)
    assert [line.split() for line in rules("list").output.splitlines()] == [
        ["name", "task", "rules", "source", "state"],
        ["default", "schema_match", "3", "built", "in", "ready"],
        ["mine", "schema_match", "2", "workspace", "ready"],
        ["default", "entity_match", "3", "built", "in", "ready"],
    ]
    assert rules("show", "mine").output == TEXT
    lines = rules("show", "mine", "--json").output
    assert [json.loads(line)["else"] for line in lines.splitlines()] == ["next", "yes"]
    again = tmp_path / "again.jsonl"
    again.write_text(lines)
    refused = rules("add", "mine", str(again), "--task", "schema_match")
    assert isinstance(refused.exception, InputError) and "--replace" in str(refused.exception)
    assert rules("add", "mine", str(again), "--task", "schema_match", "--replace").exit_code == 0
    assert rules("show", "mine", "--task", "schema_match").output == TEXT
    assert rules("remove", "mine").output == "mine: rules of schema_match removed\n"
    assert "unknown rules 'mine'" in str(rules("show", "mine").exception)


def test_rules_are_read_from_a_table_of_a_database(tmp_path: Path) -> None:
    database = tmp_path / "my.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE r AS SELECT 1 AS ord, 'c' AS condition, 'no' AS then_")
        connection.execute("ALTER TABLE r ADD COLUMN else_ VARCHAR DEFAULT 'yes'")
    workspace = ["--workspace", str(tmp_path / "other")]
    added = rules("add", "t", f"{database}:r", "--task", "entity_match", *workspace)
    assert added.exit_code == 0, added.exception
    assert "II: If c, the answer is no" in rules("show", "t", *workspace).output
    assert rules("show", "t").exit_code == 1


def test_columns_of_answers_only_are_read(source: Path) -> None:
    """DuckDB takes a column of yes and no for BOOLEAN."""
    source.write_text("ord,condition,then,else\n1,c,no,yes\n")
    assert rules("add", "one", str(source), "--task", "schema_match").exit_code == 0
    assert rules("show", "one").output.endswith("the answer is no; otherwise the answer is yes.\n")


def test_the_default_is_shown_by_task_and_makes_no_workspace(tmp_path: Path) -> None:
    shown = rules("show", "default", "--task", "entity_match")
    assert shown.output == BUILT_IN["entity_match"].text() + "\n"
    assert "--task schema_match" in str(rules("show", "default").exception)
    assert rules("list").exit_code == 0
    assert not (tmp_path / "workspace").exists()


def test_a_damaged_file_is_listed_with_the_command_that_removes_it(
    source: Path, tmp_path: Path
) -> None:
    rules("add", "mine", str(source), "--task", "schema_match")
    (tmp_path / "workspace" / "kcmf" / "rules" / "mine.schema_match.json").write_text("{")
    listed = rules("list")
    assert "damaged: meld kcmf rules remove mine --task schema_match" in listed.output
    assert rules("remove", "mine", "--task", "schema_match").exit_code == 0
    assert "damaged" not in rules("list").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("../x", "SOURCE", "--task", "schema_match"), "cannot be a name of rules"),
        (("x", "none.csv", "--task", "schema_match"), "there is no file none.csv"),
        (("x", "SOURCE", "--task", "schema"), "'schema' is not one of"),
        (("x", "SOURCE"), "Missing option '--task'"),
        (("x", "schema_match=SOURCE", "--task", "schema_match"), "and the file alone"),
    ],
)
def test_errors_are_clear(source: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [argument.replace("SOURCE", str(source)) for argument in arguments]
    done = rules("add", *given)
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)


@pytest.mark.parametrize("command", ["", "add", "list", "show", "remove"])
def test_every_command_has_help(command: str) -> None:
    done = rules(*filter(None, [command]), "--help")
    description = done.output.split("\n\n")[1].strip()
    assert done.exit_code == 0 and description.endswith("."), description
