"""Blocking with columns whose values have to be equal, beside blocking without.

    python -m tests.bench.bench_equal [--data DIR] [--k 10] [--method lexical]

A line per data set: pairs of rows compared, candidate pairs, share of the gold pairs (matches of all
splits) among them, and seconds of the search. ``possible`` is the share of the gold pairs that agree
in the column: no blocking that asks for it finds more. Years are read as numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from meld_duckdb.retrieval.groups import equal_groups, parse_equal
from meld_duckdb.retrieval.methods import Blocking, Vectorisers, find
from meld_duckdb.retrieval.table_rows import TableRows
from tests.bench.bench_block import DATA, gold_pairs

SETS = {"dblp_acm": "year", "dblp_scholar": "year", "walmart_amazon": "brand"}
MOST = 10_000_000


def no_vectors(*_: object) -> None:
    raise SystemExit("methods with vectors are not measured here")


def read(path: Path) -> TableRows:
    """A table, its year as a number or NULL."""
    table = pq.read_table(path)
    if "year" in table.column_names:
        at = table.column_names.index("year")
        year = pc.if_else(pc.equal(table["year"], ""), pa.scalar(None, pa.string()), table["year"])
        table = table.set_column(at, "year", year.cast(pa.float64()))
    return TableRows(array=table.to_struct_array().combine_chunks())


def measure(folder: Path, column: str, k: int, method: str) -> None:
    """Print the lines of one data set."""
    gold = gold_pairs(folder)
    left, right = (read(folder / f"{t}.parquet") for t in ("tableA", "tableB"))
    groups = equal_groups(left, right, parse_equal([column]))
    possible = sum(groups.left[i] == groups.right[j] >= 0 for i, j in gold) / len(gold)
    for equal in ([], [column]):
        how = Blocking(k, method, parse_equal(equal))
        started = time.perf_counter()
        models = Vectorisers(no_vectors, no_vectors)  # type: ignore[arg-type]
        found = find(left, right, how, models, max_pairs=MOST)
        seconds = time.perf_counter() - started
        pairs = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
        line = {
            "set": folder.name,
            "rows": [len(left), len(right)],
            "equal": column if equal else None,
            "compared": groups.n_candidates(MOST, same=False) if equal else len(left) * len(right),
            "candidates": len(pairs),
            "recall": round(len(pairs & gold) / len(gold), 4),
            "seconds": round(seconds, 2),
        }
        print(json.dumps(line | ({"possible": round(possible, 4)} if equal else {})), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--method", default="lexical", choices=["lexical", "ranked"])
    given = parser.parse_args()
    for name, column in SETS.items():
        measure(given.data / "EM" / name, column, given.k, given.method)


if __name__ == "__main__":
    main()
