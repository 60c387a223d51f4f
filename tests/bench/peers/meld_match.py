"""The product on the pairs that peers are asked about: same labels, same test pairs, same output.

    python tests/bench/peers/meld_match.py --data DIR [--set ...] [--rows N] [--tier t2 ...] [--json FILE]

Runs in the product's environment. Lines a set: without labels and with those of ``fewshot``, both
tables indexed. Seconds hold indexing and, where there are labels, teaching them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pairs import SETS, arguments, graded, read_pairs, report

import meld_duckdb

_JOINED = "JOIN a ON a.id = ltable_id JOIN b ON b.id = rtable_id"


def measure(folder: Path, n_rows: int | None, tier: str, taught: bool) -> dict[str, Any]:
    """Ask about the test pairs of a set in a fresh workspace."""
    asked = read_pairs(folder, "test", n_rows)
    with tempfile.TemporaryDirectory() as workspace:
        con = meld_duckdb.connect(workspace=workspace, progress=False, starter="none")
        for name, file in (("a", "tableA"), ("b", "tableB"), ("taught", "fewshot")):
            con.execute(f"CREATE TABLE {name} AS FROM '{folder / file}.parquet'")
        con.execute("CREATE TABLE asked (n INTEGER, ltable_id VARCHAR, rtable_id VARCHAR)")
        rows = [(n, *key) for n, key in enumerate(asked.ids)]
        con.executemany("INSERT INTO asked VALUES (?, ?, ?)", rows)
        started, used = time.perf_counter(), time.process_time()
        for name in "ab":
            con.execute(f"FROM meld.index('{name}', embed := false)").fetchall()
        if taught:
            con.execute(
                "SELECT count(meld_learn('match', {'a': a, 'b': b}, label = 1)) FROM taught "
                + _JOINED
            ).fetchall()
        prepared = time.perf_counter()
        said = con.execute(
            f"SELECT meld_match(a, b, {{'tier': '{tier}'}}) FROM asked {_JOINED} ORDER BY n"
        ).fetchall()
        done, used = time.perf_counter(), time.process_time() - used
        con.close()
    labels = f"{len(read_pairs(folder, 'fewshot').ids)} labels" if taught else "no labels"
    head: dict[str, Any] = {"set": folder.name, "peer": f"meld_match, tier {tier}, {labels}"}
    head |= {"seconds": done - started, "asking_s": done - prepared, "processor_s": used}
    return head | graded(asked.labels, np.array([bool(x) for (x,) in said]))


def main() -> None:
    """Measure the sets, print a line each, write JSON if asked to."""
    parser = arguments(__doc__, SETS)
    parser.add_argument("--rows", type=int, help="first test pairs; all if left out")
    parser.add_argument("--tier", nargs="+", default=["auto"])
    given = parser.parse_args()
    found = (
        measure(given.data / name, given.rows, tier, taught)
        for name in given.set
        for tier in given.tier
        for taught in (False, True)
    )
    report(given.json, found, ("duckdb", "torch", "transformers"))


if __name__ == "__main__":
    main()
