"""Find data sets below a directory: what a folder holds says which tasks it serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from meld_duckdb.errors import InputError

TASKS = (
    "block",
    "match",
    "detect_error",
    "repair",
    "impute",
    "annotate_column",
    "extract_relation",
    "link_entity",
    "schema_match",
    "extract_attribute",
)
"""Every task that can be evaluated, in the order of the report."""

KCMF = ("kcmf_schema_match", "kcmf_entity_match")
"""Other ways to ask two of them, evaluated when named."""

ALL_TASKS = "all"
"""The word for every task that the data serves."""

_SERVES = {
    "EM": ("block", "match", "kcmf_entity_match"),
    "ED_DC": ("detect_error", "repair"),
    "DI": ("impute",),
    "CTA": ("annotate_column",),
    "RE": ("extract_relation",),
    "EL": ("link_entity",),
    "SM": ("schema_match", "kcmf_schema_match"),
    "AVE": ("extract_attribute",),
}
_FILES = {
    "tableA.parquet": "EM",
    "dirty.parquet": "ED_DC",
    "columns.parquet": "CTA",
    "mentions.parquet": "EL",
    "attributes.parquet": "AVE",
}
_PAIR_COLUMNS = {"head_header": "RE", "mention_row": "EL", "source_column": "SM"}
_DEPTH = 2


@dataclass(frozen=True, slots=True)
class DataSet:
    """A folder in the benchmark layout.

    Attributes:
        folder: Where its files are.
        family: Family of tasks it serves, for example ``"EM"``.
    """

    folder: Path
    family: str

    @property
    def name(self) -> str:
        """Name of the data set: that of its folder."""
        return self.folder.name

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks it serves."""
        return _SERVES[self.family]

    def read(self, part: str) -> pa.Table:
        """Read one of its Parquet files, named without ending.

        Raises:
            InputError: There is no such file, or it cannot be read.
        """
        path = self.folder / f"{part}.parquet"
        try:
            return parquet.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path} cannot be read: {error}", hint="see docs/evaluation.md for the layout"
            ) from error

    def rows(self, part: str) -> list[dict[str, Any]]:
        """Read one of its Parquet files as rows."""
        rows: list[dict[str, Any]] = self.read(part).to_pylist()
        return rows

    def has(self, part: str) -> bool:
        """Tell whether there is such a file."""
        return (self.folder / f"{part}.parquet").is_file()

    @property
    def meta(self) -> dict[str, Any]:
        """What ``meta.json`` says; empty without one."""
        path = self.folder / "meta.json"
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error
        return found if isinstance(found, dict) else {}


def find_datasets(root: Path, task: str) -> list[DataSet]:
    """Find the data sets of a task: ``root`` itself, its folders, and theirs, by name.

    Raises:
        InputError: There is none.
    """
    found = [d for d in _walk(root, _DEPTH) if task in d.tasks]
    if not found:
        raise InputError(
            f"{root} holds no data set of the task {task}",
            hint="give a folder in the layout of docs/evaluation.md, or one of such folders",
        )
    return found


def _walk(folder: Path, depth: int) -> Iterator[DataSet]:
    family = _family(folder)
    if family is not None:
        yield DataSet(folder, family)
    elif depth and folder.is_dir():
        for below in sorted(folder.iterdir()):
            if below.is_dir():
                yield from _walk(below, depth - 1)


def _family(folder: Path) -> str | None:
    for file, family in _FILES.items():
        if (folder / file).is_file():
            return family
    pairs = folder / "pairs.parquet"
    if pairs.is_file():
        names = set(parquet.read_schema(pairs).names)
        return next((f for column, f in _PAIR_COLUMNS.items() if column in names), None)
    if (folder / "train.parquet").is_file() and (folder / "test.parquet").is_file():
        return "DI"
    return None
