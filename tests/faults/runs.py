"""Runs of the command ``meld`` on scripted models, each a process that something may happen to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines that say what went wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def notices(self) -> list[str]:
        """Lines that say that something is not as it should be, without ending the run."""
        expected = ("meld: loading ", "meld: embedding ")
        lines = self.err.splitlines()
        return [x for x in lines if not x.startswith(("error: ", *expected))]


def start(workspace: Path, *arguments: str, **faults: object) -> subprocess.Popen[str]:
    """Start a run; ``faults`` are the variables of `scripted_meld` and settings, in lower case."""
    given = {f"MELD_{name.upper()}": str(value) for name, value in faults.items()}
    preload = {"LD_PRELOAD": given.pop("MELD_PRELOAD")} if "MELD_PRELOAD" in given else {}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.scripted_meld", *arguments],
        env={**os.environ, "MELD_WORKSPACE": str(workspace), **given, **preload},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Run:
    """Wait for the end of a run."""
    out, err = process.communicate(timeout=200)
    return Run(process.returncode, out, err)


def meld(workspace: Path, *arguments: str, **faults: object) -> Run:
    """Run to the end; see `start`."""
    return end(start(workspace, *arguments, **faults))


def done(workspace: Path, *arguments: str, **faults: object) -> str:
    """Run to the end, which must be a good one; gives what was printed."""
    run = meld(workspace, *arguments, **faults)
    assert run.code == 0, run.err
    return run.out


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so while a run goes on."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def write_table(path: Path, n_rows: int) -> Path:
    """A database with the table ``t`` of things."""
    with duckdb.connect(str(path)) as con:
        con.execute(
            "CREATE TABLE t AS SELECT i AS id, 'thing number ' || i AS name, 'berlin' AS city"
            f" FROM range({n_rows}) AS r(i)"
        )
    return path


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, as large as it is said."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    """Change a `small_disk`: ``size=60m``, ``ro``, ``rw``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
