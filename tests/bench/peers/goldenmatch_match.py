"""Entity matching with GoldenMatch, zero-config, on the test pairs of ``meld eval --task match``.

    python tests/bench/peers/goldenmatch_match.py --data DIR [--set amazon_google ...] [--json FILE]

`match_df` links the two tables whole; a test pair counts as a match if it is among the links. Two
lines a set: the links as they come, and cut at the score that is best on the pairs of ``fewshot``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import duckdb
import goldenmatch
import numpy as np
from pairs import SETS, Pairs, arguments, best_threshold, graded, read_pairs, report

os.environ["GOLDEN_DIAGNOSTICS"] = "0"
os.environ["GOLDENMATCH_AUTOCONFIG_MEMORY"] = "0"  # nothing is carried over from another set


def link(folder: Path) -> dict[tuple[str, str], float]:
    """Links of two tables by their ids, with score."""
    left, right = (duckdb.sql(f"FROM '{folder}/table{side}.parquet'").pl() for side in "AB")
    found = goldenmatch.match_df(left, right, exclude_columns=["id"]).matched
    return {
        (str(row["target_id"]), str(row["ref_id"])): float(row["__match_score__"])
        for row in found.to_pylist()
    }


def measure(folder: Path) -> list[dict[str, Any]]:
    """Link the tables of a set, then score its test pairs."""
    started, used = time.perf_counter(), time.process_time()
    links = link(folder)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    taught, asked = (read_pairs(folder, split) for split in ("fewshot", "test"))
    scores = _scores(links, asked)
    cut = best_threshold(_scores(links, taught), taught.labels)
    said = {"zero-config": scores > 0, "cut by labels": (scores >= cut) & (scores > 0)}
    return [
        {
            "set": folder.name,
            "peer": f"GoldenMatch, {name}",
            "seconds": seconds,
            "links": len(links),
        }
        | graded(asked.labels, answers)
        for name, answers in said.items()
    ]


def _scores(links: dict[tuple[str, str], float], pairs: Pairs) -> Any:
    return np.array([links.get(key, 0.0) for key in pairs.ids])


def main() -> None:
    """Measure the sets, print a line each, write JSON if asked to."""
    given = arguments(__doc__, SETS).parse_args()
    found = (line for name in given.set for line in measure(given.data / name))
    report(given.json, found, ("goldenmatch", "goldenmatch-native", "polars", "duckdb"))


if __name__ == "__main__":
    main()
