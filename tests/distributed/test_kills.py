from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from meld_duckdb.distributed import Work, map_rows
from tests.distributed.conftest import ROOT, SLOW, load, offers, rows_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Ray

N_ROWS, N_PARTS = 300, 15


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Offers that the scripted model takes its time for."""
    rows = offers(N_ROWS)
    titles = pa.array([f"{title} slow-prompt" for title in rows["title"].to_pylist()])
    path = tmp_path / "slow.parquet"
    pq.write_table(rows.set_column(1, "title", titles), path)
    return path


def family(pid: int) -> dict[int, str]:
    """The processes that descend from one, and what they are called."""
    parent, called = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            called[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parent[int(folder.name)] = int(fields[1])
    found = {pid}
    while more := {p for p, of in parent.items() if of in found} - found:
        found |= more
    return {p: called[p] for p in found - {pid}}


def working() -> list[int]:
    """The actors of the cluster that work on partitions."""
    return [pid for pid, name in family(os.getpid()).items() if "PartitionWorker" in name]


def entries(output: Path) -> dict[str, str]:
    """What is said of finished partitions, by file."""
    return {p.name: p.read_text() for p in output.glob(".meld-job/stages/map/entries/*.json")}


def check_all_there_once(
    con: duckdb.DuckDBPyConnection, source: Path, output: Path, n_parts: int
) -> None:
    load(con, "part", source)
    alone = con.sql(SLOW).fetchall()
    assert [tuple(row.values()) for row in rows_of(output)] == alone
    assert len(alone) == N_ROWS
    assert len(entries(output)) == len(list(output.glob("*.parquet"))) == n_parts
    assert [p.name for p in output.rglob("*.part")] == []


def test_actors_may_be_killed(
    con: duckdb.DuckDBPyConnection, work: Work, slow: Path, tmp_path: Path
) -> None:
    output, dice, killed = tmp_path / "out", random.Random(5), []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < 3 and not over.is_set():
            over.wait(dice.uniform(0.1, 0.6))
            actors = working()
            if actors and entries(output):
                killed.append(dice.choice(actors))
                os.kill(killed[-1], signal.SIGKILL)
                over.wait(1.0)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        how = Work(work.cluster, batch_rows=20)
        report = map_rows(SLOW, slow, output, how, workspace=tmp_path / "own")
    finally:
        over.set()
        killer.join()
    assert killed
    assert (report.rows, report.partitions, report.failures) == (N_ROWS, N_PARTS, 0)
    check_all_there_once(con, slow, output, N_PARTS)


def test_the_driver_may_be_killed(
    con: duckdb.DuckDBPyConnection, work: Work, slow: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "tests.distributed.driver"]
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [*command, address, str(slow), str(output), str(tmp_path / "own")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 100
    while len(entries(output)) < 4 and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    settled = time.monotonic() + 10
    while (actors := working()) and time.monotonic() < settled:
        time.sleep(0.1)  # Ray ends the actors of a driver that died
    assert not actors
    finished = entries(output)
    assert 4 <= len(finished) < N_PARTS
    how = Work(work.cluster, batch_rows=20)
    report = map_rows(SLOW, slow, output, how, workspace=tmp_path / "own")
    assert report.computed == N_PARTS - len(finished)
    assert report.rows == N_ROWS
    now = entries(output)
    assert {name: now[name] for name in finished} == finished
    check_all_there_once(con, slow, output, N_PARTS)
