"""Arrays of numbers in files, which the processes of a machine share without reading them whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa


def write_array(path: Path, make: Callable[[], np.ndarray]) -> Path:
    """Write whole numbers, unless their file is there; its name must say what they follow from."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(np.asarray(make(), dtype=np.int64).tobytes())
        os.replace(temporary, path)
    return path


def read_array(path: Path) -> np.ndarray:
    """An array, mapped into memory: int64."""
    return np.asarray(np.memmap(path, dtype=np.int64, mode="r"))


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists of positions, one for each row of a table.

    Attributes:
        starts: File that tells where each list begins.
        items: File of all lists, one after another.
    """

    starts: Path
    items: Path

    @staticmethod
    def write(
        batches: Callable[[], Iterable[pa.RecordBatch]], n_rows: int, folder: Path, name: str
    ) -> Lists:
        """Write lists, unless they are there.

        Args:
            batches: Gives pairs (row, item), by row.
            n_rows: Rows of the table.
            folder: Where the files go.
            name: Says what the lists follow from.
        """
        found = Lists(folder / f"{name}-starts.bin", folder / f"{name}-items.bin")

        def make() -> np.ndarray:
            counts = np.zeros(n_rows, dtype=np.int64)
            with found.items.open("wb") as file:
                for batch in batches():
                    owner, item = (batch.column(i).to_numpy() for i in (0, 1))
                    counts += np.bincount(owner, minlength=n_rows)
                    file.write(item.astype(np.int64).tobytes())
            return np.concatenate(([0], np.cumsum(counts)))

        folder.mkdir(parents=True, exist_ok=True)
        write_array(found.starts, make)
        return found

    def of(self, rows: np.ndarray) -> np.ndarray:
        """All items of some rows, one after another."""
        starts = read_array(self.starts)
        first, length = starts[rows], starts[rows + 1] - starts[rows]
        if not int(length.sum()):
            return np.empty(0, dtype=np.int64)
        before = np.cumsum(length) - length
        at = np.repeat(first - before, length) + np.arange(int(length.sum()))
        return np.asarray(read_array(self.items)[at])
