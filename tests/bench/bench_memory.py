"""Peak memory by rows: what grows with a table, and what does not.

    python -m tests.bench.bench_memory [--rows 10000 100000] [--job match ...] [--json FILE]

Every job and size is a fresh process on scripted models. Its peak is that of the whole process, less
what the same process takes for ten rows: libraries and code are not counted. Rows are 40 to 60 bytes
of text in three columns; the bytes per row are the slope between the smallest and the largest size.

- ``match``: a plain ``meld_match`` of every row with itself, with the cache of answers.
- ``again``: the same, all of it answered before.
- ``uncached``: the same without the cache.
- ``block``: ``meld.block`` of the table with itself, 10 candidates, by words (lexical).
- ``dedupe``: ``meld.dedupe`` with 5 candidates, by words (lexical).
- ``index``: ``meld.index`` with vectors.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from tests.bench.fresh import in_fresh_process

MATCH = "SELECT count(meld_match(t, {'name': t.name, 'city': t.city, 'id': id + 1})) FROM t"
JOBS = {
    "match": (MATCH,),
    "again": (MATCH, MATCH),
    "uncached": (MATCH,),
    "block": ("SELECT count(*) FROM meld.block('t', 't', k := 10, method := 'lexical')",),
    "dedupe": ("SELECT count(*) FROM meld.dedupe('t', k := 5, method := 'lexical')",),
    "index": ("FROM meld.index('t')",),
}
_FEW = 10


def run_one(job: str, n_rows: int, workspace: Path) -> dict[str, float]:
    """Run a job in this process."""
    import meld_duckdb
    from tests.daemon import serve_scripted

    serve_scripted.patch()
    con = meld_duckdb.connect(workspace=workspace, progress=False, cache=job != "uncached")
    con.execute(
        "CREATE TABLE t AS SELECT i AS id, md5(i::VARCHAR)[:8] || ' thing number ' || i AS name,"
        f" md5((i % 97)::VARCHAR)[:6] || ' town' AS city FROM range({n_rows}) AS r(i)"
    )
    started = time.perf_counter()
    *before, last = JOBS[job]
    for statement in before:  # in a process of its own, were it not for the time that takes
        con.sql(statement).fetchall()
    con.sql(last).fetchall()
    return {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.perf_counter() - started,
    }


def measure(job: str, n_rows: int) -> dict[str, float]:
    """Run a job in a fresh process with a fresh workspace."""
    with tempfile.TemporaryDirectory() as folder:
        return in_fresh_process(__spec__.name, job, n_rows, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--job", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        job, n_rows, folder = given.one
        print(json.dumps(run_one(job, int(n_rows), Path(folder) / "w")))
        return
    sizes, found = sorted(given.rows), []
    print("job", *(f"{n:,} rows: MB (s)" for n in sizes), "bytes/row", sep=" | ")
    for job in given.job:
        least = measure(job, _FEW)["peak_mb"]
        points = [(n, measure(job, n)) for n in sizes]
        shown = [f"{p['peak_mb'] - least:.0f} ({p['seconds']:.0f})" for _, p in points]
        span = points[-1][0] - points[0][0]
        rise = points[-1][1]["peak_mb"] - points[0][1]["peak_mb"]
        slope = rise * 2**20 / span if span else 0.0
        print(job, *shown, f"{slope:.0f}", sep=" | ", flush=True)
        found += [{"job": job, "rows": n, "base_mb": least, **point} for n, point in points]
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
