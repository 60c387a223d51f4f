"""What a user waits for, through SQL: registration, duplicates, wide and hostile input, quality.

    python -m tests.bench.bench_sql [--data DIR] [--json FILE]

Every scenario runs in a process of its own, so that times hold imports and peaks hold everything.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEFAULT_DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"


def register(workspace: str, data: str) -> dict[str, Any]:
    """Import and registration, as a program pays them."""
    started = time.perf_counter()
    import duckdb

    imported = time.perf_counter()
    import meld_duckdb

    connection = duckdb.connect()
    before = time.perf_counter()
    meld_duckdb.register(connection, workspace=workspace)
    done = time.perf_counter()
    again = time.perf_counter()
    meld_duckdb.register(connection.cursor(), workspace=workspace)
    return {
        "import_duckdb_s": imported - started,
        "import_meld_s": before - imported,
        "register_s": done - before,
        "register_again_s": time.perf_counter() - again,
    }


def duplicates(workspace: str, data: str) -> dict[str, Any]:
    """100,000 rows that hold 7 distinct pairs; tier t2, so that every evaluation is a prompt."""
    started = time.perf_counter()
    import meld_duckdb

    con = meld_duckdb.connect(workspace=workspace, progress=False, starter="none")
    con.execute("""
        SELECT count(*) FILTER (meld_match(
            {'title': 'camera model ' || (i % 7), 'price': i % 7},
            {'title': 'camera modell ' || (i % 7), 'price': 1 + i % 7}, {'tier': 't2'}))
        FROM range(100000) AS t(i)
    """).fetchall()
    seconds = time.perf_counter() - started
    [row] = con.execute(
        "SELECT rows, distinct_inputs, cache_hits, evaluations, engine_prompts FROM meld.stats()"
    ).fetchall()
    names = ("rows", "distinct_inputs", "cache_hits", "evaluations", "engine_prompts")
    return {"process_s": seconds, **dict(zip(names, row, strict=True))}


def hostile(workspace: str, data: str) -> dict[str, Any]:
    """1 MB texts, control characters, emoji, 10,000 columns, all NULL; neighbours beside them."""
    import meld_duckdb

    con = meld_duckdb.connect(workspace=workspace, progress=False, starter="none")
    columns = ", ".join(f"'v{i}' AS c{i}" for i in range(10_000))
    con.execute(f"CREATE TABLE wide AS SELECT {columns}")
    con.execute("""
        CREATE TABLE odd AS FROM (VALUES
            (1, 'plain text'), (2, repeat('long word ', 100000)), (3, repeat('x', 1000000)),
            (4, 'tab' || chr(9) || 'bell' || chr(7) || 'nul' || chr(0)),
            (5, '\U0001f600\u200d\U0001f525 \u0627\u0644 \u202e'), (6, NULL), (7, ''),
            (8, 'plain text')) AS t(id, title)
    """)
    con.execute("CREATE TABLE empty AS FROM odd LIMIT 0")
    results: dict[str, Any] = {}
    for name, tier in (("t0", "t0"), ("t2", "t2")):
        options = f"{{'tier': '{tier}'}}"
        started = time.perf_counter()
        rows = con.execute(
            f"SELECT a.id, b.id, meld_match_detail(a, b, {options}) FROM odd AS a, odd AS b"
        ).fetchall()
        found = {(x, y): d for x, y, d in rows}
        results[f"{name}_s"] = time.perf_counter() - started
        results[f"{name}_answers"] = sum(d["answer"] is not None for d in found.values())
        results[f"{name}_reasons"] = sum(d["error"] is not None for d in found.values())
        assert all((d["answer"] is None) == (d["error"] is not None) for d in found.values())
        alone = con.execute(
            "SELECT meld_match_detail({'id': 1, 'title': 'plain text'}, {'id': 8, 'title': 'plain text'},"
            f" {options})"
        ).fetchall()[0][0]
        assert alone["probability"] == found[(1, 8)]["probability"], "a neighbour was harmed"
        wide = con.execute(f"SELECT meld_match_detail(w, w, {options}) FROM wide AS w").fetchall()
        results[f"{name}_wide"] = wide[0][0]["answer"]
        assert con.execute(f"SELECT meld_match(e, e, {options}) FROM empty AS e").fetchall() == []
    con.execute(
        "SELECT meld_detect_error_prob(w, 'c7'), meld_impute(w, 'c7') FROM wide AS w"
    ).fetchall()
    for table in ("odd", "wide", "empty"):
        con.execute(f"FROM meld.index('{table}')").fetchall()
    con.execute(
        "SELECT meld_match(a, b), meld_detect_error(a, 'title') FROM odd a, odd b"
    ).fetchall()
    return results


def quality(workspace: str, data: str) -> dict[str, Any]:
    """Amazon-Google, full test pairs, no label of that data set, through SQL."""
    import meld_duckdb

    con = meld_duckdb.connect(workspace=workspace, progress=False, starter="none")
    folder = f"{data}/EM/amazon_google"
    con.execute(f"CREATE TABLE a AS FROM '{folder}/tableA.parquet'")
    con.execute(f"CREATE TABLE b AS FROM '{folder}/tableB.parquet'")
    con.execute(f"CREATE TABLE test AS FROM '{folder}/test.parquet'")
    results: dict[str, Any] = {}
    for name in ("bare", "indexed"):
        started = time.perf_counter()
        if name == "indexed":
            con.execute("FROM meld.index('a', embed := false)").fetchall()
            con.execute("FROM meld.index('b', embed := false)").fetchall()
            results["index_s"] = time.perf_counter() - started
        started = time.perf_counter()
        rows = con.execute("""
            SELECT label = 1, meld_match(a, b) FROM test
            JOIN a ON a.id = ltable_id JOIN b ON b.id = rtable_id ORDER BY ltable_id, rtable_id
        """).fetchall()
        results[name] = {"seconds": time.perf_counter() - started, **_f1(rows)}
        [stats] = con.execute(
            "SELECT tier0, tier1, tier2, evaluations FROM (FROM meld.stats()) WHERE function ="
            " 'meld_match' ORDER BY statement DESC LIMIT 1"
        ).fetchall()
        results[name] |= dict(zip(("tier0", "tier1", "tier2", "evaluations"), stats, strict=True))
    return results


def _f1(rows: list[tuple[bool, bool]]) -> dict[str, Any]:
    import numpy as np

    truth, said = (np.array(column, dtype=bool) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(42)
    picks = rng.integers(0, len(truth), size=(2_000, len(truth)))
    spread = [_score(truth[p], said[p]) for p in picks]
    low, high = np.quantile(spread, [0.025, 0.975])
    right = (truth & said).sum()
    return {
        "n": len(truth),
        "positives": int(truth.sum()),
        "f1": _score(truth, said),
        "ci_low": float(low),
        "ci_high": float(high),
        "precision": float(right / max(said.sum(), 1)),
        "recall": float(right / truth.sum()),
    }


def _score(truth: Any, said: Any) -> float:
    return float(2 * (truth & said).sum() / max(truth.sum() + said.sum(), 1))


SCENARIOS = {
    "register": register,
    "duplicates_cold": duplicates,
    "duplicates_again": duplicates,
    "hostile": hostile,
    "quality": quality,
}
SHARED_WORKSPACE = {"duplicates_cold": "duplicates", "duplicates_again": "duplicates"}


def run_all(data: Path) -> dict[str, Any]:
    """Run every scenario in its own process."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SCENARIOS:
            if name == "quality" and not data.is_dir():
                found[name] = {"skipped": f"the benchmark data is not at {data}"}
                continue
            workspace = str(Path(folder) / SHARED_WORKSPACE.get(name, name))
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tests.bench.bench_sql",
                    "--one",
                    name,
                    workspace,
                    str(data),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
            found[name] = json.loads(done.stdout)
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("NAME", "WORKSPACE", "DATA"))
    given = parser.parse_args()
    if given.one:
        name, workspace, data = given.one
        result = SCENARIOS[name](workspace, data)
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(result))
        return
    found = run_all(given.data)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
