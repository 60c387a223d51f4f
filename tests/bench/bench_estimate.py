"""How near an estimate comes to what a statement then takes.

    python -m tests.bench.bench_estimate [--json FILE]

Every estimate and every run is a process of its own, on one database and workspace. Seconds are
those inside the functions, with loading. The last statement is estimated twice: by the speed of an
earlier run, and by prompts that are tried out because nothing is known.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import meld_duckdb
from tests.bench.bench_engine import commit, hardware

SAMPLES = Path(__file__).parent.parent.parent / "examples" / "data"
COUNTS = ("rows", "distinct_inputs", "cache_hits", "evaluations", "engine_prompts", "prompt_tokens")

TIER_0 = "SELECT meld_match(d, a) FROM pairs JOIN dblp d ON d.id = l_id JOIN acm a ON a.id = r_id"
TIER_2 = (
    "SELECT meld_match(d, a, {'tier': 't2'}) FROM %s JOIN dblp d ON d.id = l_id "
    "JOIN acm a ON a.id = r_id"
)
STATEMENTS = {
    "match, tier 0, 2,000 pairs": TIER_0,
    "join, tier 0": "FROM meld.join('dblp', 'acm', k := 5)",
    "match, tier 2, 48 pairs": TIER_2 % "few",
}
AHEAD = TIER_2 % "(FROM few LIMIT 8)"
"""Run before: its rows are answered by the cache, and it tells how fast prompts are."""

ONCE = """
import json, sys, meld_duckdb
from dataclasses import asdict
from meld_duckdb.register import estimate
_, what, file, workspace, sql = sys.argv
con = meld_duckdb.connect(file, workspace=workspace)
con.execute("SET enable_progress_bar = false")
if what == "estimate":
    print(json.dumps([asdict(line) for line in estimate(con, sql)]))
else:
    con.execute(sql).fetchall()
    found = con.execute("FROM meld.stats()")
    names = [column[0] for column in found.description]
    print(json.dumps([dict(zip(names, row)) for row in found.fetchall()]))
"""


def make_tables(file: Path, workspace: Path) -> None:
    """Two bibliographies, 2,000 candidate pairs of them, and 48 with eight of them twice."""
    con = meld_duckdb.connect(file, workspace=workspace)
    for name in ("dblp", "acm"):
        con.execute(f"CREATE TABLE {name} AS FROM '{SAMPLES / name}.csv'")
    con.execute(
        "CREATE TABLE pairs AS SELECT l_id, r_id FROM meld.block('dblp', 'acm', k := 20) "
        "ORDER BY hash(l_id || r_id) LIMIT 2000"
    )
    con.execute("CREATE TABLE few AS (FROM pairs LIMIT 40) UNION ALL (FROM pairs LIMIT 8)")
    con.close()


def once(what: str, file: Path, workspace: Path, sql: str) -> dict[str, Any]:
    """One statement in a process of its own: counts, and seconds with loading."""
    command = [sys.executable, "-c", ONCE, what, str(file), str(workspace), sql]
    lines = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    counts = {name: sum(line[name] or 0 for line in lines) for name in COUNTS}
    return {**counts, "seconds": sum(line["seconds"] for line in lines)}


def compare(file: Path, workspace: Path, sql: str, *, tried: bool = False) -> dict[str, Any]:
    """Estimate a statement, run it, and set both side by side."""
    told = {"by speed known": once("estimate", file, workspace, sql)}
    if tried:
        known = (workspace / "speed.json").read_bytes()
        (workspace / "speed.json").unlink()
        told["by prompts tried"] = once("estimate", file, workspace, sql)
        (workspace / "speed.json").write_bytes(known)
    real = once("run", file, workspace, sql)
    return {
        "real": real,
        **{
            way: {
                **line,
                "exact": all(line[name] == real[name] for name in COUNTS),
                "ratio": round(line["seconds"] / real["seconds"], 2),
            }
            for way, line in told.items()
        },
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, workspace = Path(folder) / "pairs.duckdb", Path(folder) / "w"
        make_tables(file, workspace)
        once("run", file, workspace, AHEAD)
        found = {
            "commit": commit(),
            "hardware": hardware(),
            "statements": {
                name: compare(file, workspace, sql, tried="tier 2" in name)
                for name, sql in STATEMENTS.items()
            },
        }
    text = json.dumps(found, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text)


if __name__ == "__main__":
    main()
