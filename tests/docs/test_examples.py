"""The scripts and the notebook of ``examples`` are run, and still say what they said."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

import meld_duckdb
from tests.scripted import ScriptedBackend

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "tour.ipynb"
SAID = {
    "01_match": {"recall of the candidates": (0.99, 1), "F1 of the matches": (0.95, 1)},
    "02_dedupe": {"rows": (641, 641), "F1 of the pairs": (0.95, 1)},
    "03_errors_and_repairs": {"planted errors among them": (14, 15), "right": (7, 15)},
    "04_impute": {"missing": (35, 35), "right": (33, 35)},
    # The encoder is a stand-in here; the real one finds 18 among the first five.
    "05_match_schemas": {"true pairs": (19, 19), "found among the first five": (1, 19)},
    "06_labels": {"labels: 0, F1 of the other pairs": (0.7, 0.85),
                  "labels: 60, F1 of the other pairs": (0.95, 1)},
}  # fmt: skip
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_every_script_has_its_numbers_and_a_line_in_the_list() -> None:
    assert [script.stem for script in SCRIPTS] == list(SAID)
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for file in (*SCRIPTS, NOTEBOOK, EXAMPLES / "demo.sql"):
        assert f"]({file.name})" in listed, file.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_scripts_run(
    script: Path,
    backend: ScriptedBackend,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    for what, (least, most) in SAID[script.stem].items():
        found = re.search(rf"{re.escape(what)}: ({NUMBER.pattern})", out)
        assert found, f"{what} in\n{out}"
        assert least <= float(found.group(1)) <= most, out
    assert backend.asked == []


def test_the_python_of_the_guide_runs(
    backend: ScriptedBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (EXAMPLES.parent / "docs" / "guide" / "python.md").read_text("utf-8")
    found = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    for block in found:
        exec(compile(block, "python.md", "exec"), names)
    assert sorted(names["frame"][["l_id", "r_id"]].itertuples(index=False, name=None)) == [
        (1, "a"),
        (3, "b"),
    ]
    assert len(names["likely"].fetchall()) == 2
    assert dict(zip(names["judged"].l_id, names["judged"].matches, strict=True))[1]
    assert list(names["side_by_side"].r_id) == ["a", "b"]
    assert len(names["con"].sql("FROM shop_clusters").fetchall()) == 3
    [hint] = re.findall(r"print\(error\)  # (.*)", page)
    assert hint in capsys.readouterr().out
    for name in meld_duckdb.relations.__all__:
        assert name == "Table" or f"`{name}(" in page


def test_the_notebook_is_saved_executed_and_small() -> None:
    saved = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < 100_000
    assert not re.search(r"/(home|tmp|root|work|Users)/", text)
