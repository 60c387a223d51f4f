"""A clock that jumps, backwards and far into the future: nothing depends on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from meld_duckdb.engine import adapters, merge_store
from meld_duckdb.engine.merge_store import MergeStore
from tests.faults.runs import done, write_table
from tests.unit.test_merge import model_path, parts  # noqa: F401  (fixtures)

YEAR_S = 365 * 86_400
THING = "SELECT id, meld_detect_error_prob(t, 'city') AS p FROM t WHERE id < 50 ORDER BY id"


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that moves the clock of a process."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    found = subprocess.run(
        ["date", "+%Y"],
        env={**os.environ, "LD_PRELOAD": str(library), "MELD_TEST_CLOCK": str(50 * YEAR_S)},
        capture_output=True,
        text=True,
        check=True,
    )
    if int(found.stdout) < time.gmtime().tm_year + 49:
        pytest.skip("the clock of a process cannot be moved here")
    return library


def test_a_workspace_lives_through_jumps(clock: Path, tmp_path: Path) -> None:
    """Every run lives in another time; versions stay in order, and the needed ones stay."""
    work = tmp_path / "w"
    database = str(write_table(tmp_path / "t.duckdb", 300))
    sql = ("sql", "--db", database, "--format", "csv")
    label = "SELECT meld_learn('match', {{'a': 'a{n}', 'b': 'b'}}, true) AS l"

    def run(years: int, *arguments: str) -> str:
        return done(work, *arguments, preload=clock, test_clock=years * YEAR_S)

    run(30, "index", "t", "--db", database)
    first = run(30, *sql, f"{label.format(n=1)}; {THING}").partition("\n")[2]
    run(-20, *sql, label.format(n=2))
    run(0, *sql, label.format(n=3))
    run(0, "workspace", "compact", "--keep", "5")  # all versions are needed, in whatever time
    versions = run(0, "workspace", "versions").splitlines()
    assert [line.split()[0] for line in versions] == ["version", "1", "2", "3", "4", "5"]
    years = [int(line.split()[1][:4]) for line in versions[1:]]
    assert years[1] - years[3] in (29, 30) and years[3] - years[2] in (19, 20)
    assert "back at version 3" in run(0, "workspace", "rollback", "3")
    assert first.endswith(run(-20, *sql, THING))
    [*_, last] = run(0, "workspace", "versions").splitlines()
    assert last.split()[-4:] == ["1", "300", "2", "0"]


def test_merged_adapters_stay_while_they_are_used(
    parts: list[Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MergeStore(tmp_path / "merged", most=2)
    weighted = [[(parts[0], 1.0), (parts[1], share)] for share in (0.1, 0.2, 0.3)]
    store.get(weighted[0])
    now = time.time_ns()
    monkeypatch.setattr(merge_store.time, "time_ns", lambda: now - 10**18)
    used = [store.get(weighted[1]), store.get(weighted[2])]
    assert all(adapter.path.is_dir() for adapter in used)


def test_files_from_the_future_are_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x")
    hashed: list[Path] = []
    monkeypatch.setattr(adapters, "sha256", lambda path: hashed.append(path) or "digest")
    for offset_s, n_hashed in ((0, 2), (3600, 1), (-3600, 1)):
        hashed.clear()
        os.utime(file, (time.time() + offset_s, time.time() + offset_s))
        assert [adapters._file_digest(file) for _ in range(2)] == ["digest"] * 2
        assert len(hashed) == n_hashed
