"""Recall of blocking with an order that has not seen the data set measured.

    python -m tests.bench.bench_block [--data DIR] [--set NAME ...]

Gold pairs are the matches of all splits. For each set the order is fitted on the training pairs of
the other sets of `calibrate_block`; the lexical order stands beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb.train.calibrate_block import DATA_SETS, DataSet, fit, load_set

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"


def gold_pairs(folder: Path) -> set[tuple[int, int]]:
    """Positions of all matching pairs."""
    left, right = (
        {key: i for i, key in enumerate(pq.read_table(folder / f"{t}.parquet")["id"].to_pylist())}
        for t in ("tableA", "tableB")
    )
    return {
        (left[row["ltable_id"]], right[row["rtable_id"]])
        for part in ("train", "valid", "test")
        for row in pq.read_table(folder / f"{part}.parquet").to_pylist()
        if row["label"] == 1
    }


def recall(one: DataSet, score: np.ndarray, gold: set[tuple[int, int]], k: int) -> float:
    """Share of the gold pairs among the first ``k`` of their left record."""
    found = one.found
    order = np.lexsort((found.rank, -score, found.left))
    left, right = found.left[order], found.right[order]
    first = np.arange(len(left)) - np.searchsorted(left, left, side="left") < k
    pairs = zip(left[first].tolist(), right[first].tolist(), strict=True)
    return sum(pair in gold for pair in pairs) / len(gold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", action="append", metavar="NAME", choices=DATA_SETS)
    given = parser.parse_args()
    sets = {name: load_set(given.data / "EM" / name) for name in DATA_SETS}
    for name in given.set or DATA_SETS:
        one, others = sets[name], [sets[other] for other in DATA_SETS if other != name]
        gold = gold_pairs(given.data / "EM" / name)
        scores = {"lexical": one.found.score, "ranked": fit(others).scores(one.features)}
        line = {
            f"{order} recall@{k}": round(recall(one, score, gold, k), 4)
            for order, score in scores.items()
            for k in (1, 10)
        }
        print(json.dumps({"set": name, "gold": len(gold), **line}), flush=True)


if __name__ == "__main__":
    main()
