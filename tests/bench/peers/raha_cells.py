"""Error detection with Raha and repair with Baran, on the cells of ``meld eval --task repair``.

    python tests/bench/peers/raha_cells.py --data DIR [--set hospital ...] [--json FILE]

Both choose the 20 tuples whose cells they are told, with their defaults. A cell is wrong, or a repair
right, by strict equality of the values with spaces at both ends taken off, over all cells.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from pairs import SEED, arguments, report
from raha import Correction, Dataset, Detection

DRAWS = 1_000
SETS = ("hospital", "rayyan", "beers")

Rows = list[tuple[str, ...]]
Cells = dict[tuple[int, int], str]


def measure(folder: Path) -> list[dict[str, Any]]:
    """Detect and repair in one table."""
    dirty, clean = (_rows(folder / f"{name}.parquet") for name in ("dirty", "clean"))
    with tempfile.TemporaryDirectory() as work:
        given = {"name": folder.name}
        for key, name in (("path", "dirty"), ("clean_path", "clean")):
            given[key] = f"{work}/{name}.csv"
            # header names of the clean file follow the dirty one
            duckdb.sql(f"COPY (FROM '{folder}/{name}.parquet') TO '{given[key]}' (HEADER)")
        random.seed(SEED)
        np.random.seed(SEED)
        started = time.perf_counter()
        detection = Detection()
        detection.SAVE_RESULTS = False
        found = detection.run(given)
        detected = time.perf_counter() - started
        data: Any = Dataset(given)
        data.detected_cells = dict(found)
        correction = Correction()
        correction.SAVE_RESULTS = False
        repaired = correction.run(data)
        seconds = time.perf_counter() - started
    head = {"set": folder.name, "rows": len(dirty)}
    return [
        {**head, "peer": "Raha, 20 tuples", "seconds": detected} | detect(dirty, clean, found),
        {**head, "peer": "Raha and Baran, 20 tuples each", "seconds": seconds}
        | repair(dirty, clean, repaired),
    ]


def _rows(path: Path) -> Rows:
    return [tuple(str(v).strip() for v in row) for row in duckdb.sql(f"FROM '{path}'").fetchall()]


def detect(dirty: Rows, clean: Rows, found: Cells) -> dict[str, Any]:
    """Grade which cells were called wrong."""
    cells = [(i, j) for i, row in enumerate(dirty) for j in range(len(row))]
    truth = np.array([dirty[i][j] != clean[i][j] for i, j in cells])
    said = np.array([cell in found for cell in cells])
    return _graded(truth & said, said, truth, [i for i, _ in cells])


def repair(dirty: Rows, clean: Rows, repaired: Cells) -> dict[str, Any]:
    """Grade the cells that were changed: right is what is clean then."""
    cells = [(i, j) for i, row in enumerate(dirty) for j in range(len(row))]
    truth = np.array([dirty[i][j] != clean[i][j] for i, j in cells])
    after = [repaired.get((i, j), dirty[i][j]).strip() for i, j in cells]
    said = np.array([a != dirty[i][j] for a, (i, j) in zip(after, cells, strict=True)])
    right = np.array([a == clean[i][j] for a, (i, j) in zip(after, cells, strict=True)])
    return _graded(said & right, said, truth, [i for i, _ in cells])


def _graded(
    right: np.ndarray, said: np.ndarray, truth: np.ndarray, units: list[int]
) -> dict[str, Any]:
    """F1 with a bootstrap over rows; its sums are made by row once."""
    by_row = [np.bincount(units, weights=x.astype(float)) for x in (right, said, truth)]
    rng = np.random.default_rng(SEED)
    n = len(by_row[0])
    drawn = [rng.integers(0, n, size=n) for _ in range(DRAWS)]
    spread = [_f1(*(part[d].sum() for part in by_row)) for d in drawn]
    low, high = np.percentile(spread, [2.5, 97.5])
    return {
        "n": len(truth),
        "positives": int(truth.sum()),
        "f1": _f1(*(part.sum() for part in by_row)),
        "low": float(low),
        "high": float(high),
        "precision": float(right.sum() / max(said.sum(), 1)),
        "recall": float(right.sum() / max(truth.sum(), 1)),
    }


def _f1(right: float, said: float, truth: float) -> float:
    return float(2 * right / max(said + truth, 1))


def main() -> None:
    """Measure the sets, print a line each, write JSON if asked to."""
    given = arguments(__doc__, SETS).parse_args()
    found = (line for name in given.set for line in measure(given.data / name))
    report(given.json, found, ("raha", "pandas", "numpy", "scikit-learn", "duckdb"))


if __name__ == "__main__":
    main()
