"""Run all benchmarks and write one JSON file: ``make bench``.

    python -m tests.bench.run [--data DIR] [--json FILE]

Ratios are measured within this run; absolute times depend on the machine and stand beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.bench import bench_engine, bench_sql


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=bench_sql.DEFAULT_DATA)
    parser.add_argument("--json", type=Path, default=Path("bench-results/bench.json"))
    parser.add_argument("--prompts", type=int, default=128)
    given = parser.parse_args()
    result = {
        "commit": bench_engine.commit(),
        "hardware": bench_engine.hardware(),
        "sql": bench_sql.run_all(given.data),
        "engine": bench_engine.measure(given.prompts),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1) + "\n")
    engine = result["engine"]
    print(
        f"engine: {engine['engine_prompts_per_s']:.2f} prompts/s, bare loop: "  # type: ignore[index]
        f"{engine['bare_prompts_per_s']:.2f}, ratio {engine['ratio']:.3f}"
    )  # type: ignore[index]
    print(f"written to {given.json}")


if __name__ == "__main__":
    main()
