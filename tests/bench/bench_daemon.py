"""What the engine process costs on top of the model, and whether it lasts.

    python -m tests.bench.bench_daemon [--json FILE]            the short measurements
    python -m tests.bench.bench_daemon --soak --minutes 10      eight clients, some of them killed

The language model is scripted: a prompt sleeps as long as ``--prompt-ms`` says, so that the rest
is what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

import meld_duckdb
from meld_duckdb.daemon import lifecycle
from meld_duckdb.daemon.options import Options
from meld_duckdb.settings import resolve
from tests.bench.bench_engine import commit, hardware, make_prompts
from tests.daemon.conftest import PROGRAM, silent

ROWS = 2_000
BATCH_ROWS = 2_048
CLIENTS = 8
KILLED = 0.05

ASK = """
    SELECT count(meld_match(
        {{'title': 'camera model ' || i, 'price': i % 400}},
        {{'title': 'camera modell ' || (i * 7 % 1000), 'price': 1 + i % 400}},
        {{'tier': '{tier}'}}))
    FROM range({start}, {stop}) AS t(i)
"""
FIRST = """
import time, sys
started = time.perf_counter()
import meld_duckdb
con = meld_duckdb.connect(workspace=sys.argv[1], engine='required')
con.sql("SELECT meld_match('a b', 'b a')").fetchall()
print(time.perf_counter() - started)
"""
CLIENT = """
import random, sys, meld_duckdb
from tests.bench.bench_daemon import ASK
con = meld_duckdb.connect(workspace=sys.argv[1], engine='required', progress=False)
chance = random.Random(int(sys.argv[2]))
for _ in range(12):
    start, n = chance.randrange(4_000), chance.randrange(1, 200)
    tier = chance.choice(['t0', 't2'])
    rows = con.sql(ASK.format(tier=tier, start=start, stop=start + n)).fetchall()
    assert rows == [(n,)], rows
    pairs = "(VALUES ('red apple', 'red apple'), ('red apple', NULL)) AS t(a, b)"
    found = con.sql(f"SELECT meld_match(a, b) FROM {pairs}").fetchall()
    assert sorted(found, key=str) == [(None,), (True,)], found
"""


def overhead(folder: Path, prompt_ms: float) -> dict[str, float]:
    """Unique rows through SQL, engine and planner against the same prompts to the bare model."""
    os.environ["MELD_TEST_SLEEP"] = str(prompt_ms / 1000)
    from tests.daemon import serve_scripted

    serve_scripted.SLEEP_S = prompt_ms / 1000
    bare = serve_scripted.ForgetfulBackend(serve_scripted.script, batch_size=16)
    prompts = make_prompts(ROWS)
    bare_s = _timed(lambda: sum(len(part) for part in bare.complete(prompts)))
    with _engine(folder / "overhead") as settings:
        con = meld_duckdb.connect(workspace=settings.workspace, engine="required", progress=False)
        con.execute(ASK.format(tier="t2", start=10**6, stop=10**6 + 20)).fetchall()
        sql_s = _timed(lambda: con.execute(ASK.format(tier="t2", start=0, stop=ROWS)).fetchall())
    return {
        "rows": ROWS,
        "prompt_ms": prompt_ms,
        "bare_s": bare_s,
        "sql_s": sql_s,
        "ratio": sql_s / bare_s,
        "ms_per_row_on_top": (sql_s - bare_s) / ROWS * 1000,
    }


def cached(folder: Path) -> dict[str, float]:
    """One batch of rows that were all answered before, through the engine and in this process."""
    os.environ["MELD_TEST_SLEEP"] = "0"
    query = ASK.format(tier="t0", start=0, stop=BATCH_ROWS)
    plain = "SELECT count(meld_match('a b', 'b a' || (i % 1))) FROM range(2048) AS t(i)"
    found: dict[str, float] = {}
    with _engine(folder / "cached") as settings:
        for engine in ("required", "local"):
            con = meld_duckdb.connect(workspace=settings.workspace, engine=engine, progress=False)
            if engine == "local":
                from tests.daemon import serve_scripted

                serve_scripted.patch()
            where = "engine" if engine == "required" else "local"
            for name, sql in (("unique", query), ("equal", plain)):
                con.execute(sql).fetchall()
                times = [_timed(partial(_run, con, sql)) for _ in range(9)]
                found[f"{name}_{where}_ms"] = statistics.median(times) * 1000
    return found


def first_answer(folder: Path) -> dict[str, float]:
    """Seconds from the start of a process to its first answer, kept before, by a warm engine."""
    with _engine(folder / "first") as settings:
        command = [sys.executable, "-c", FIRST, str(settings.workspace)]
        inside, whole = [], []
        for _ in range(6):
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            whole.append(time.perf_counter() - started)
            inside.append(float(done.stdout))
    return {"s": statistics.median(inside[1:]), "with_interpreter_s": statistics.median(whole[1:])}


def soak(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Clients come and go for some minutes, one in twenty is killed at a random moment."""
    os.environ["MELD_TEST_SLEEP"] = "0.002"
    chance = random.Random(seed)
    running: dict[subprocess.Popen[bytes], float | None] = {}
    rss: list[int] = []
    counts = {"finished": 0, "killed": 0, "failed": 0}
    with _engine(folder / "soak") as settings:
        until = time.monotonic() + minutes * 60
        looked = 0.0
        while running or time.monotonic() < until:
            now = time.monotonic()
            while len(running) < CLIENTS and now < until:
                command = [sys.executable, "-c", CLIENT, str(settings.workspace)]
                client = subprocess.Popen([*command, str(chance.randrange(10**9))])
                dies = chance.random() < KILLED
                running[client] = now + chance.uniform(0.3, 6.0) if dies else None
            for client, kill_at in list(running.items()):
                if kill_at is not None and now > kill_at and client.poll() is None:
                    client.kill()
                    client.wait()
                if client.poll() is not None:
                    name = {0: "finished", -9: "killed"}.get(client.returncode, "failed")
                    counts[name] += 1
                    if name == "failed":
                        sys.stderr.write(f"a client ended with {client.returncode}\n")
                    del running[client]
            if now - looked > 2:
                looked = now
                rss.append(lifecycle.status(settings)["rss_bytes"])
            time.sleep(0.05)
        end = lifecycle.status(settings)
        while lifecycle.status(settings)["running"]:
            time.sleep(0.1)
    third = max(1, len(rss) // 3)
    middle, last = statistics.median(rss[third : 2 * third] or rss), statistics.median(rss[-third:])
    return {
        "minutes": minutes,
        **counts,
        "calls": end["calls"],
        "rows": end["rows"],
        "prompts": end["prompts"],
        "merged_prompts": end["merged_prompts"],
        "rss_middle_mb": middle / 1e6,
        "rss_last_mb": last / 1e6,
        "rss_growth": last / middle - 1,
        "orphans": _processes_of(folder),
    }


def _processes_of(folder: Path) -> int:
    """Processes that still name the folder on their command line."""
    n_found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            n_found += os.fsencode(folder) in path.read_bytes()
    return n_found


@contextlib.contextmanager
def _engine(workspace: Path) -> Any:
    settings, _ = resolve({"workspace": workspace})
    lifecycle.start(settings, Options(), PROGRAM, silent)
    try:
        yield settings
    finally:
        lifecycle.stop(settings)


def _run(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    con.execute(sql).fetchall()


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prompt-ms", type=float, default=10.0)
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"commit": commit(), "hardware": hardware()}
        if given.soak:
            result["soak"] = soak(folder, given.minutes, given.seed)
        else:
            result["first_answer"] = first_answer(folder)
            result["cached_batch"] = cached(folder)
            result["overhead"] = overhead(folder, given.prompt_ms)
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
