"""Work of many processes: rows a second with one actor and with two, by stage.

    python -m tests.bench.bench_distributed [--data DIR] [--rows 20000] [--actors 1 2] [--json FILE]

Two tables of so many rows each are made of real offers and citations (`scale_tables`). Jobs, all of
tier 0: a statement over pairs of rows; candidates in shards; a join with the neighbourhood of a
partition as context; clusters. Seconds are those of the job, with the start of its actors; seconds of a
stage are summed over its actors, processor seconds do not depend on what else the machine does.
Nothing is cached between jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from meld_duckdb.distributed import Cluster, Report, Work, block, dedupe, join, map_rows
from tests.bench.scale_tables import make_tables

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
SEED = 7
BATCH_ROWS = 500
SHARD_ROWS = 10_000
K = 10
STATEMENT = "SELECT l.id, meld_match_prob(l, r) AS p FROM part"

Job = Callable[[Path, Work, dict[str, object]], Report]


def write_tables(folder: Path, data: Path, n_rows: int) -> dict[str, Path]:
    """Write two tables, and one of known pairs of them, which half of the time are no match."""
    left, right, match = make_tables(data, n_rows, SEED)
    paths = {name: folder / f"{name}.parquet" for name in ("left", "right", "pairs")}
    pq.write_table(left, paths["left"])
    pq.write_table(right, paths["right"])
    other = [m if m >= 0 and i % 2 else (i * 7919) % n_rows for i, m in enumerate(match.tolist())]
    sides = {"l": left.to_struct_array(), "r": right.take(pa.array(other)).to_struct_array()}
    pq.write_table(pa.table(sides), paths["pairs"])
    return paths


def jobs(paths: dict[str, Path]) -> dict[str, Job]:
    """The jobs by name."""
    left, right = paths["left"], paths["right"]
    return {
        "map": lambda out, how, own: map_rows(STATEMENT, paths["pairs"], out, how, **own),
        "block": lambda out, how, own: block(left, right, out, how, k=K, **own),
        "join": lambda out, how, own: join(left, right, out, how, k=K, **own),
        "dedupe": lambda out, how, own: dedupe(left, out, how, k=K, **own),
    }


def stages(output: Path) -> dict[str, dict[str, float]]:
    """What each stage of a job took."""
    found: dict[str, dict[str, float]] = {}
    for folder in sorted((output / ".meld-job" / "stages").iterdir()):
        entries = [json.loads(p.read_text()) for p in (folder / "entries").glob("*.json")]
        if entries:
            found[folder.name] = {
                "partitions": len(entries),
                "rows_out": sum(entry["rows"] for entry in entries),
                "actor_s": round(sum(entry["seconds"] for entry in entries), 2),
                "cpu_s": round(sum(entry["cpu_seconds"] for entry in entries), 2),
            }
    return found


def measure(job: Job, actors: int, n_rows: int, folder: Path) -> dict[str, Any]:
    """Run a job with so many actors."""
    how = Work(
        Cluster(actors=actors),
        batch_rows=BATCH_ROWS,
        shard_rows=SHARD_ROWS,
        sharded=True,
        context="neighbourhood",
    )
    before = os.getloadavg()[0]
    report = job(folder / "out", how, {"workspace": folder / "workspace", "cache": False})
    by_stage = stages(report.output)
    worked = sum(stage["actor_s"] for stage in by_stage.values())
    busy = sum(stage["cpu_s"] for stage in by_stage.values())
    return {
        "actors": actors,
        "seconds": round(report.seconds, 1),
        "actor_seconds": round(worked, 1),
        "rows_per_s": round(n_rows / report.seconds, 1),
        "cpu_seconds": round(busy, 1),
        "rows_per_cpu_s": round(n_rows / busy, 1),
        "load_before": round(before, 2),
        "stages": by_stage,
    }


def main() -> None:
    """Measure and print one JSON line per job and number of actors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--jobs", nargs="+", default=["map", "block", "join", "dedupe"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        known = jobs(write_tables(Path(folder), given.data, given.rows))
        for name in given.jobs:
            for actors in given.actors:
                own = Path(folder) / f"{name}-{actors}"
                line = {"job": name, "rows": given.rows}
                line |= measure(known[name], actors, given.rows, own)
                print(json.dumps(line), flush=True)
                lines.append(line)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
