"""Labelled pairs of a set as records, and the score of what was said about them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

SEED = 42
DRAWS = 1_000
SETS = ("abt_buy", "amazon_google", "walmart_amazon")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labelled pairs in file order.

    Attributes:
        ids: Left and right id.
        records: Left and right record, the id left out.
        labels: Whether they match, bool [n].
    """

    ids: list[tuple[str, str]]
    records: list[tuple[Mapping[str, str], Mapping[str, str]]]
    labels: np.ndarray


def read_pairs(folder: Path, split: str, most: int | None = None) -> Pairs:
    """Read the first pairs of a split, all if ``most`` is None."""
    sides = [_records(folder / f"table{side}.parquet") for side in "AB"]
    rows = duckdb.sql(f"FROM '{folder / split}.parquet'").fetchall()[:most]
    ids = [(str(left), str(right)) for left, right, _ in rows]
    records = [(sides[0][left], sides[1][right]) for left, right in ids]
    return Pairs(ids, records, np.array([label for *_, label in rows], dtype=bool))


def _records(path: Path) -> dict[str, dict[str, str]]:
    found = duckdb.sql(f"FROM '{path}'")
    lines = (dict(zip(found.columns, row, strict=True)) for row in found.fetchall())
    return {str(line.pop("id")): line for line in lines}


def as_text(record: Mapping[str, str]) -> str:
    """A record as one line, columns without a value left out."""
    return ", ".join(f"{name}: {value}" for name, value in record.items() if value)


def graded(truth: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """F1 with its 95 % bootstrap interval over the units, precision and recall."""
    rng = np.random.default_rng(SEED)
    drawn = (rng.integers(0, len(truth), size=len(truth)) for _ in range(DRAWS))
    low, high = np.percentile([_f1(truth[d], said[d]) for d in drawn], [2.5, 97.5])
    right = int((truth & said).sum())
    return {
        "n": len(truth),
        "positives": int(truth.sum()),
        "f1": _f1(truth, said),
        "low": float(low),
        "high": float(high),
        "precision": right / max(int(said.sum()), 1),
        "recall": right / max(int(truth.sum()), 1),
    }


def _f1(truth: np.ndarray, said: np.ndarray) -> float:
    return float(2 * (truth & said).sum() / max(truth.sum() + said.sum(), 1))


def best_threshold(scores: Sequence[float], labels: np.ndarray) -> float:
    """The score from which F1 on the labels is best."""
    found = np.asarray(scores, dtype=float)
    cuts = np.unique(found)
    return float(max(cuts, key=lambda cut: _f1(labels, found >= cut)))


def show(line: Mapping[str, Any]) -> None:
    """Print a line of the result."""
    processor = f", processor {line['processor_s']:.1f} s" if "processor_s" in line else ""
    print(
        f"{line['set']}, {line['peer']}: F1 {line['f1']:.3f} ({line['low']:.3f} to "
        f"{line['high']:.3f}), P {line['precision']:.3f}, R {line['recall']:.3f}, "
        f"{line['positives']} of {line['n']}; {line['seconds']:.1f} s, "
        f"{line['n'] / line['seconds']:.2f} rows/s{processor}",
        flush=True,
    )


def arguments(description: str, sets: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all have; a script adds its own."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of data sets")
    parser.add_argument("--set", nargs="+", default=list(sets))
    parser.add_argument("--json", type=Path)
    return parser


def report(path: Path | None, found: Iterable[Mapping[str, Any]], packages: Sequence[str]) -> None:
    """Print lines as they are found, then write all with what made them; the latter with a path."""
    lines = []
    for line in found:
        show(line)
        lines.append(line)
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    print(", ".join(f"{name} {value}" for name, value in versions.items()))
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": sys.argv,
        "versions": versions,
        "seed": SEED,
        "load": os.getloadavg(),
        "lines": lines,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
