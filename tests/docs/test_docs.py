"""The documents are run: README blocks, the reference, the examples."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.cli.examples import EXAMPLES, PRELUDE
from meld_duckdb.cli.main import cli
from meld_duckdb.cli.reference import lines
from meld_duckdb.register import load_functions
from meld_duckdb.tasks import TASKS
from tests.scripted import ScriptedBackend

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
REFERENCE = (ROOT / "docs" / "sql-reference.md").read_text("utf-8")
GUIDE = sorted(p for p in (ROOT / "docs" / "guide").glob("*.md") if p.stem != "README")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_sql_of_the_readme_runs(con: duckdb.DuckDBPyConnection) -> None:
    found = blocks("sql")
    assert len(found) >= 2
    results = [
        con.execute(statement.query).fetchall()
        for block in found
        for statement in con.extract_statements(block)
    ]
    assert results[0] == [(True,)]
    assert all(rows for rows in results)
    joined = con.sql("SELECT l_id, r_id FROM meld.join('shop', 'offers')").fetchall()
    assert set(joined) == {(1, "a"), (3, "b")}


def test_the_python_of_the_readme_runs(
    backend: ScriptedBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "[(True,)]\n"


def test_the_commands_of_the_readme_exist() -> None:
    for name in re.findall(r"^meld (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert name in cli.commands, name
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", README)) <= targets


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_reference_is_current() -> None:
    assert "\n".join(lines()) + "\n" == REFERENCE, "run make docs"


def test_every_function_is_documented() -> None:
    for function in load_functions():
        if not function.name.startswith("__"):
            assert f"`{function.name}(" in REFERENCE
            assert function.name in README or function.name.rsplit("_", 1)[0] in README


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_reference_run(con: duckdb.DuckDBPyConnection, name: str) -> None:
    con.execute(PRELUDE)
    rows = con.execute(EXAMPLES[name]).fetchall()
    assert name in EXAMPLES[name]
    empty = {"meld.stats", "meld.errors", "meld.experts", "meld.join", "meld.certificates"}
    assert rows or name in empty


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_the_guide_runs(con: duckdb.DuckDBPyConnection, page: Path) -> None:
    found = re.findall(r"```sql\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert found
    for block in found:
        for statement in con.extract_statements(block):
            con.execute(statement.query).fetchall()


def test_the_guide_has_a_page_for_every_task_and_its_links_lead_somewhere() -> None:
    index = (ROOT / "docs" / "guide" / "README.md").read_text("utf-8")
    for task in TASKS:
        assert f"meld_{task}`" in index
    for page in ROOT.glob("docs/**/*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_is_in_the_readme() -> None:
    for name in cli.commands:
        assert f"meld {name}" in README, name


def test_the_demo_runs_on_scripted_models(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    results = [
        con.execute(statement.query).fetchall()
        for statement in con.extract_statements((ROOT / "examples" / "demo.sql").read_text())
    ]
    [(found, wanted, answered, f1)] = next(r for r in results if r and len(r[0]) == 4)
    assert wanted == 200 and f1 == round(2 * found / (wanted + answered), 3)
    assert f1 > 0.8


def test_sample_data_says_where_it_comes_from() -> None:
    text = (ROOT / "examples" / "data" / "README.md").read_text("utf-8")
    for file in (ROOT / "examples" / "data").glob("*.csv"):
        rows = len(file.read_text("utf-8").splitlines()) - 1
        assert re.search(rf"\| `{file.name}` \| {rows} \|", text), file.name


def test_the_version_is_one_fact() -> None:
    assert f'version = "{meld_duckdb.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_modules_run_as_documented() -> None:
    notes = "".join(p.read_text("utf-8") for p in (ROOT / "docs" / "design").glob("*.md"))
    modules = set(re.findall(r"python -m (meld_duckdb\.train\.\w+)", notes))
    assert len(modules) == 7
    for module in modules:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, check=False
        )
        assert done.returncode == 0, module
