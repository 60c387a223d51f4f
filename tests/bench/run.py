"""Run the benchmarks and write one JSON file and one chart: ``make bench``.

    python -m tests.bench.run [--data DIR] [--json FILE] [--chart FILE] [--part columns ...]

Ratios are measured within this run; absolute times depend on the machine, which is described beside
them, with the load it had before each part. Longer measurements (a million rows, recall, memory,
peers) have scripts of their own in this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import bench_columns, bench_engine, bench_sql, bench_tasks, chart

PACKAGES = (
    "duckdb",
    "lancedb",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "torch",
    "transformers",
)
SEEDS = {"tables": bench_columns.SEED, "labels and bootstrap": 42}


def versions() -> dict[str, str]:
    """Versions of what is measured and of what it stands on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def memory_gb() -> float:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def is_changed() -> bool:
    """Whether the checkout differs from its commit."""
    told = subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    return bool(told.stdout.strip())


def main() -> None:
    """Run the parts that are asked for, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=bench_sql.DEFAULT_DATA)
    parser.add_argument("--json", type=Path, default=Path("bench-results/bench.json"))
    parser.add_argument("--chart", type=Path, help="default: beside the JSON file, .svg")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--part", nargs="+", default=["sql", "engine", "columns", "tasks"])
    given = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "sql": lambda: bench_sql.run_all(given.data),
        "engine": lambda: bench_engine.measure(given.prompts),
        "columns": lambda: bench_columns.run_all(given.data, given.rows),
        "tasks": lambda: bench_tasks.run_all(given.data),
    }
    if unknown := set(given.part) - set(parts):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    if not given.data.is_dir():
        print(f"the benchmark data is not at {given.data}: columns and tasks are left out")
        given.part = [name for name in given.part if name in {"sql", "engine"}]
    result: dict[str, Any] = {
        "commit": bench_engine.commit(),
        "checkout_changed": is_changed(),
        "versions": versions(),
        "hardware": {**bench_engine.hardware(), "memory_gb": memory_gb()},
        "seeds": SEEDS,
        "threads": {n: os.environ.get(n) for n in ("OMP_NUM_THREADS", "LANCE_CPU_THREADS")},
        "load": {},
        "seconds": {},
    }
    for name in given.part:
        result["load"][name] = os.getloadavg()
        started = time.perf_counter()
        result[name] = parts[name]()
        result["seconds"][name] = time.perf_counter() - started
    _write(result, given.json, given.chart or given.json.with_suffix(".svg"))


def _write(result: dict[str, Any], path: Path, picture: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    if engine := result.get("engine"):
        print(
            f"engine: {engine['engine_prompts_per_s']:.2f} prompts/s, bare loop: "
            f"{engine['bare_prompts_per_s']:.2f}, ratio {engine['ratio']:.3f}"
        )
    if tasks := result.get("tasks"):
        machine = f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores"
        title = f"meld-duckdb at {str(result['commit'])[:7]}; {machine}"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(chart.draw(tasks, title))
        print(f"chart: {picture}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
