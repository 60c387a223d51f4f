"""Whole columns: repeated values, a second run, and growth with the rows.

    python -m tests.bench.bench_columns [--part repeated again growth] [--rows 1000 10000] [--json FILE]

- ``repeated``: a million rows that hold a thousand different pairs, beside the thousand rows alone, at
  tier 0 and at tier 2 (a scripted language model: what counts is everything but the model).
- ``again``: 200 pairs at tier 2 with the real language model, first and once more: in the same
  process, and from a new one.
- ``growth``: rows per second and peak memory of `meld_match`, `meld_detect_error` and `meld_impute`
  at tier 0 over more and more different rows; ``_indexed`` with the table indexed before.

Every measurement is a fresh process with a workspace of its own. Rows are made of real ones
(`tests.bench.scale_tables`). Processor seconds stand beside the seconds: they change little with
what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tests.bench.fresh import in_fresh_process
from tests.bench.scale_tables import make_tables

if TYPE_CHECKING:
    import duckdb

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
SEED = 42
N_DISTINCT, N_REPEATED = 1_000, 1_000_000
N_AGAIN = 200
GROWTH = (1_000, 10_000, 100_000)
PARTS = ("repeated", "again", "growth")
_COUNTS = ("rows", "distinct_inputs", "cache_hits", "evaluations", "engine_prompts", "failures")
_PAIRS = "l JOIN r USING (id)"
JOBS = {
    "match": f"SELECT count(meld_match(l, r, {{'tier': 't0'}})) FROM {_PAIRS}",
    "detect_error": "SELECT count(meld_detect_error(l, 'maker', {'tier': 't0'})) FROM l",
    "impute": "SELECT count(meld_impute(l, 'kind', {'tier': 't0'})) FROM l",
}
_AGAIN = """
    SELECT count(meld_match(a, b, {'tier': 't2'})) FROM (FROM given LIMIT ?)
    JOIN a ON a.id = ltable_id JOIN b ON b.id = rtable_id
"""


def repeated(tables: Path, tier: str, n_rows: str) -> dict[str, Any]:
    """Ask about so many rows, which hold at most `N_DISTINCT` different pairs."""
    import meld_duckdb
    from tests.daemon import serve_scripted

    if tier == "t2":
        serve_scripted.patch()
    con = meld_duckdb.connect(workspace=tables / "workspace", progress=False, starter="none")
    _load(con, tables)
    con.execute(
        f"CREATE TABLE pairs AS SELECT l, r FROM range({n_rows}) AS t(i) "
        f"JOIN l ON l.id = i % {N_DISTINCT} JOIN r ON r.id = l.id"
    )
    return _timed(con, f"SELECT count(meld_match(l, r, {{'tier': '{tier}'}})) FROM pairs")


def growth(tables: Path, job: str) -> dict[str, Any]:
    """Run a job over all rows of the tables, which are all different."""
    import meld_duckdb

    con = meld_duckdb.connect(workspace=tables / "workspace", progress=False, starter="none")
    _load(con, tables)
    name = job.removesuffix("_indexed")
    found: dict[str, Any] = {}
    if job != name:
        found["index_s"] = sum(
            _timed(con, f"FROM meld.index('{table}', embed := false)")["seconds"]
            for table in ("lr" if name == "match" else "l")
        )
    return found | _timed(con, JOBS[name])


def again(tables: Path, data: str, n_statements: str) -> dict[str, Any]:
    """Ask a language model about the first pairs of Amazon-Google, so many times."""
    started = time.perf_counter()
    import meld_duckdb

    con = meld_duckdb.connect(workspace=tables / "workspace", progress=False, starter="none")
    for name, file in (("a", "tableA"), ("b", "tableB"), ("given", "test")):
        con.execute(f"CREATE TABLE {name} AS FROM '{data}/EM/amazon_google/{file}.parquet'")
    statement = _AGAIN.replace("?", str(N_AGAIN))
    runs = [_timed(con, statement) for _ in range(int(n_statements))]
    return {"runs": runs, "process_s": time.perf_counter() - started}


def _load(con: duckdb.DuckDBPyConnection, tables: Path) -> None:
    for name in "lr":
        con.execute(f"CREATE TABLE {name} AS FROM '{tables / name}.parquet'")


def _timed(con: duckdb.DuckDBPyConnection, statement: str) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    con.execute(statement).fetchall()
    seconds = time.perf_counter() - wall
    used = time.process_time() - processor
    counts = con.execute(
        f"SELECT {', '.join(_COUNTS)} FROM meld.stats() ORDER BY statement DESC LIMIT 1"
    ).fetchone()
    named = dict(zip(_COUNTS, counts, strict=True)) if counts else {}
    return {"seconds": seconds, "processor_s": used, **named}


SCENARIOS: dict[str, Callable[..., dict[str, Any]]] = {
    "repeated": repeated,
    "again": again,
    "growth": growth,
}


def measure(scenario: str, tables: Path, *arguments: object) -> dict[str, Any]:
    """Run a scenario in a fresh process; the tables' folder holds its workspace."""
    started = time.perf_counter()
    found = in_fresh_process(__spec__.name, scenario, tables, *arguments)
    return {**found, "with_start_s": time.perf_counter() - started}


def _tables(folder: Path, data: Path, n_rows: int) -> Path:
    """Write a left and a right table into a folder: the matches first, then pairs without one."""
    folder.mkdir()
    left, right, truth = make_tables(data, n_rows, SEED)
    rows = truth.copy()
    rows[truth < 0] = sorted(set(range(n_rows)) - set(truth[truth >= 0].tolist()))
    pq.write_table(left, folder / "l.parquet")
    partners = right.take(rows).drop_columns("id").add_column(0, "id", left["id"])
    pq.write_table(partners, folder / "r.parquet")
    return folder


def run_repeated(data: Path) -> list[dict[str, Any]]:
    """The overhead of a million rows over their thousand pairs."""
    lines = []
    for tier in ("t0", "t2"):
        found = {}
        for n_rows in (N_DISTINCT, N_REPEATED):
            with tempfile.TemporaryDirectory() as folder:
                tables = _tables(Path(folder) / "t", data, N_DISTINCT)
                found[n_rows] = measure("repeated", tables, tier, n_rows)
        few, many = found[N_DISTINCT], found[N_REPEATED]
        overhead = many["seconds"] - few["seconds"]
        lines.append({"tier": tier, "overhead_s": overhead, "few": few, "many": many})
        used = many["processor_s"] - few["processor_s"]
        print(
            f"repeated, {tier}: {many['evaluations']} evaluations of {many['rows']:,} rows; "
            f"{few['seconds']:.1f} s alone, {many['seconds']:.1f} s, {overhead:.1f} s more "
            f"(processor {used:.1f} s), {many['peak_mb']:.0f} MB",
            flush=True,
        )
    return lines


def run_again(data: Path) -> dict[str, Any]:
    """The first and the second answer of a real language model."""
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder)
        first = measure("again", tables, data, 2)
        later = measure("again", tables, data, 2)
    (cold, warm), (new, once_more) = first["runs"], later["runs"]
    ratios = {
        "same_process": cold["seconds"] / warm["seconds"],
        "new_process_statement": cold["seconds"] / new["seconds"],
        "new_process_with_start": cold["seconds"] / (later["with_start_s"] - once_more["seconds"]),
        "same_process_processor": cold["processor_s"] / warm["processor_s"],
        "new_process_statement_processor": cold["processor_s"] / new["processor_s"],
    }
    print("again:", json.dumps({"cold_s": cold["seconds"], **ratios}), flush=True)
    return {"n": N_AGAIN, "first_process": first, "new_process": later, "ratios": ratios}


def run_growth(data: Path, sizes: Iterable[int], jobs: Iterable[str]) -> list[dict[str, Any]]:
    """Rows per second and peak memory, by rows."""
    lines = []
    for n_rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            tables = _tables(Path(folder) / "t", data, n_rows)
            for job in jobs:
                workspace = tables / "workspace"
                if workspace.exists():
                    workspace.rename(tables / f"before_{job}")
                found = measure("growth", tables, job)
                lines.append({"job": job, "n": n_rows, **found})
                print(
                    f"growth, {job}: {n_rows:,} rows in {found['seconds']:.1f} s "
                    f"({n_rows / found['seconds']:.0f}/s, processor {found['processor_s']:.1f} s), "
                    f"index {found.get('index_s', 0):.1f} s, {found['peak_mb']:.0f} MB",
                    flush=True,
                )
    return lines


def run_all(data: Path, sizes: Iterable[int] = GROWTH) -> dict[str, Any]:
    """All parts."""
    indexed = [f"{job}_indexed" for job in JOBS]
    return {
        "repeated": run_repeated(data),
        "again": run_again(data),
        "growth": run_growth(data, sizes, (*JOBS, *indexed)),
    }


def main() -> None:
    """Run what is asked for, or one scenario in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, nargs="+", default=list(GROWTH))
    parser.add_argument("--job", nargs="+", default=[*JOBS, *(f"{j}_indexed" for j in JOBS)])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        scenario, tables, *arguments = given.one
        found = SCENARIOS[scenario](Path(tables), *arguments)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    runs: dict[str, Callable[[], Any]] = {
        "repeated": lambda: run_repeated(given.data),
        "again": lambda: run_again(given.data),
        "growth": lambda: run_growth(given.data, given.rows, given.job),
    }
    load = os.getloadavg()[0]
    result = {name: runs[name]() for name in given.part} | {"load_before": load}
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
