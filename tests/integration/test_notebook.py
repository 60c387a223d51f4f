"""The notebook is executed by a kernel of its own, and still prints what it says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import nbclient
import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NOTEBOOK = EXAMPLES / "tour.ipynb"
NUMBER = re.compile(r"\d+(?:\.\d+)?")

pytestmark = pytest.mark.integration


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell printed, without what its last line shows."""
    outputs = cell.get("outputs", [])
    return "".join(o["text"] for o in outputs if o["output_type"] == "stream")


def test_the_notebook_runs_and_prints_what_it_says() -> None:
    saved = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(saved)
    again = nbformat.read(NOTEBOOK, as_version=4)
    for cell in again.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what kernel and client say about themselves
        nbclient.NotebookClient(
            again, timeout=240, resources={"metadata": {"path": str(EXAMPLES)}}
        ).execute()
    cells = [(a, b) for a, b in zip(saved.cells, again.cells, strict=True) if printed(a)]
    assert len(cells) >= 6
    for old, new in cells:
        told = f"run: jupyter execute --inplace examples/tour.ipynb\n{old.source}\n{printed(new)}"
        assert NUMBER.sub("#", printed(new)) == NUMBER.sub("#", printed(old)), told
        numbers = [[float(n) for n in NUMBER.findall(printed(cell))] for cell in (new, old)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.03), told
