"""The workspace under real processes: several writers, kill -9, damaged files, a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactError
from meld_duckdb.planner.ledger import Ledger
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.store import Store
from meld_duckdb.workspace import open_workspace

pytestmark = pytest.mark.integration

HEAD = """
import os, sys, time, signal
from pathlib import Path
from meld_duckdb.planner import loaded
from meld_duckdb.planner.ledger import Ledger
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.store import Store
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Query
from tests.scripted import HashingEncoder

DELAY = 0.0
class Slow(HashingEncoder):
    def encode(self, texts):
        time.sleep(DELAY)
        return super().encode(texts)

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def rows(tag, n):
    return [make_record({"id": i, "name": f"{tag} thing {i}"}) for i in range(n)]

def pair(tag, i):
    return Query((make_record({"t": f"{tag} {i}"}), make_record({"t": "x"})))

loaded.models.locate = lambda *arguments: Path(sys.argv[1])
loaded.models.model_digest = lambda path: "scripted"
loaded.Encoder = lambda *arguments, **options: Slow()
s = LocalService(resolve({"workspace": sys.argv[1]})[0]).session
"""


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """End what a failed test left behind, or the tests after it fail for no fault of theirs."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


def start(workspace: Path, body: str, **settings: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body, str(workspace)],
        env={**os.environ, "PYTHONPATH": ".", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out


def run(workspace: Path, body: str, code: int = 0) -> str:
    return end(start(workspace, body), code)


def rows(tag: str, n: int) -> list[Record]:
    return [make_record({"id": i, "name": f"{tag} thing {i}"}) for i in range(n)]


class Opened:
    """A workspace as a new process sees it."""

    def __init__(self, path: Path) -> None:
        workspace = open_workspace(path)
        self.notices: list[str] = []
        self.catalogue = Catalogue(workspace.catalogue_path, workspace.lance_path)
        self.ledger = Ledger(workspace, self.catalogue, self.notices.append)
        self.ledger.recover()
        self.store = Store(workspace.lance_path, encoder="scripted")

    def table(self, name: str) -> list[Record] | None:
        """The rows of an indexed table; catalogue and LanceDB must agree about it."""
        entered = {t.name: (t.digest, t.n_rows, t.encoder) for t in self.catalogue.tables()}
        stored = {t.name: (t.digest, t.n_rows, t.encoder) for t in self.store.tables()}
        assert entered == stored
        if name not in entered:
            return None
        return self.store.entries(*entered[name][:2])

    def labels(self) -> int:
        known = self.catalogue.labels("match")
        assert self.store.all_labels().get("match", {}) == known
        return len(known)


def wait_for(condition, what: str, process: subprocess.Popen[str] | None = None) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        assert process is None or process.poll() is None, f"{what}: the process ended"
        time.sleep(0.02)


def test_writers_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    work = tmp_path / "w"
    index = (
        "s.index('{0}', rows('{0}', 1200), embed=True); s.index('same', rows('c', 700), embed=True)"
    )
    learn = "for i in range(15): s.learn('match', [(pair('{0}', i), 'match')])"
    processes = [
        start(work, index.format("a")),
        start(work, index.format("b")),
        start(work, learn.format("p")),
        start(work, learn.format("q")),
    ]
    for process in processes:
        end(process)
    seen = Opened(work)
    assert seen.table("a") == rows("a", 1200) and seen.table("b") == rows("b", 1200)
    assert seen.table("same") == rows("c", 700)
    assert seen.store.lance.counts()["entries"] == 3100
    assert seen.labels() == 30 and seen.notices == []


def test_readers_see_whole_tables_while_one_process_writes(tmp_path: Path) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('start', 50), embed=False)")
    reader = """
seen = set()
stop = Path(sys.argv[1]) / "stop"
print("ready", flush=True)
while not stop.exists():
    [table] = s.catalogue.tables()
    found = s._load_table(table.digest)
    tags = {r.fields["name"].split()[0] for r in found}
    assert len(found) == table.n_rows and len(tags) == 1, (len(found), table, tags)
    labels = s.catalogue.labels("match")
    assert len(s.demonstrator.labelled("match")) >= len(labels)
    seen.add(table.digest)
print(len(seen))
"""
    readers = [start(work, reader) for _ in range(2)]
    for process in readers:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    run(
        work,
        """
for i in range(12):
    s.index('t', rows(f'round{i}', 60 + 25 * i), embed=True)
    s.learn('match', [(pair('r', i), 'match')])
""",
    )
    (work / "stop").touch()
    assert all(int(end(process)) > 1 for process in readers)


def test_a_killed_index_shows_nothing_and_goes_on(tmp_path: Path) -> None:
    work = tmp_path / "w"
    process = start(work, "DELAY = 0.1; s.index('t', rows('t', 4000), embed=True)")
    data = work / "index.lance" / "entries.lance" / "data"
    wait_for(lambda: data.is_dir() and len(list(data.iterdir())) >= 3, "no rows", process)
    process.send_signal(signal.SIGKILL)
    end(process, -signal.SIGKILL)
    seen = Opened(work)
    assert seen.table("t") is None
    assert seen.store.search_entries(None, 5, text=["thing"]) == [[]]
    kept = seen.store.lance.counts()["entries"]
    assert 1024 <= kept < 4000
    out = run(
        work, "d = s.index('t', rows('t', 4000), embed=True); print(d.n_embedded, d.n_resumed)"
    )
    assert out.split() == [str(4000 - kept), str(kept)]
    assert Opened(work).table("t") == rows("t", 4000)


def test_a_run_in_another_order_goes_on_too(tmp_path: Path) -> None:
    work = tmp_path / "w"
    stop = "class Stop(Exception): pass\ndef once(done, total):\n    if done >= 1024: die()\n"
    run(work, stop + "s.index('t', rows('t', 3000), embed=True, progress=once)", -signal.SIGKILL)
    out = run(work, "print(s.index('t', rows('t', 3000)[::-1], embed=True).n_embedded)")
    assert int(out) == 3000 - 1024
    found = Opened(work).table("t")
    assert found is not None and sorted(r.digest for r in found) == sorted(
        r.digest for r in rows("t", 3000)
    )


DEATHS = {
    "table entered, catalogue not": ("Ledger._enter = die; s.index('n', rows('n', 9), embed=True)"),
    "label stored, catalogue not": (
        "s.catalogue.set_labels = die; s.learn('match', [(pair('p', 0), 'match')])"
    ),
    "mark set, nothing written": (
        "Store.add_labels = die; s.learn('match', [(pair('p', 0), 'match')])"
    ),
    "table dropped, rows not": "Store.remove_entries = die; s.ledger.drop_table('t')",
    "some tables gone back": (
        "s.learn('match', [(pair('p', 0), 'match')]); Ledger._sync = die; s.ledger.rollback(1)"
    ),
    "catalogue half made": "Store.keep_entries = die; s.ledger.rebuild()",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_inside_an_operation_is_mended_by_the_next_process(
    tmp_path: Path, death: str
) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('t', 20), embed=True)")
    run(work, DEATHS[death], -signal.SIGKILL)
    seen = Opened(work)
    assert seen.catalogue.history.pending() is None
    expected = None if "dropped" in death else rows("t", 20)
    assert seen.table("t") == expected
    assert seen.table("n") == (rows("n", 9) if "entered" in death else None)
    assert seen.labels() == ("stored" in death)
    run(work, "s.learn('match', [(pair('q', 0), 'match')]); s.index('u', rows('u', 5), embed=True)")
    assert Opened(work).table("u") == rows("u", 5)


def test_the_lock_of_a_dead_process_is_free_and_a_wait_is_told(tmp_path: Path) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('t', 5), embed=True)")
    holder = start(
        work, "with s.ledger.write_lock.hold():\n print('held', flush=True); time.sleep(99)"
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    learn = "s.learn('match', [(pair('p', 0), 'match')])"
    waiting = start(work, learn, MELD_PROGRESS="true")
    assert waiting.stderr is not None
    told = next(line for line in waiting.stderr if "waiting" in line)
    assert f"waiting for process {holder.pid}, which writes to {work}" in told
    assert waiting.poll() is None
    holder.kill()
    holder.communicate()
    end(waiting)
    assert Opened(work).labels() == 1


def damage(folder: Path, how: str) -> None:
    data = max((folder / "data").iterdir(), key=lambda p: p.stat().st_size)
    newest = min((folder / "_versions").glob("*.manifest"))
    content = bytearray(data.read_bytes())
    if how == "shortened":
        data.write_bytes(content[:-200])
    elif how == "flipped":
        for i in range(0, len(content), 37):
            content[i] ^= 0x55
        data.write_bytes(content)
    elif how == "text flipped":
        at = content.find(b"thing")
        assert at > 0
        content[at] ^= 0x01
        data.write_bytes(content)
    elif how == "fragment gone":
        data.unlink()
    elif how == "version shortened":
        newest.write_bytes(newest.read_bytes()[:30])
    elif how == "version flipped":
        newest.write_bytes(bytes(b ^ 0x55 for b in newest.read_bytes()))
    elif how == "version gone":
        newest.unlink()


DAMAGES = ["shortened", "flipped", "text flipped", "fragment gone"]
LATEST = ["version shortened", "version flipped", "version gone"]


@pytest.mark.parametrize("how", [*DAMAGES, *LATEST])
def test_damaged_files_are_named_and_never_fewer_rows(tmp_path: Path, how: str) -> None:
    work = tmp_path / "w"
    run(
        work,
        "s.index('t', rows('t', 300), embed=False); s.learn('match', [(pair('p', 0), 'match')])",
    )
    damage(work / "index.lance" / "entries.lance", how)
    body = """
from meld_duckdb.errors import ArtefactCorrupt
[table] = s.catalogue.tables()
try:
    print(len(s._load_table(table.digest)))
except ArtefactCorrupt as error:
    print(error)
"""
    said = run(work, body)
    assert "MELD-E032" in said and "entries.lance" in said and "Hint: " in said, said
    assert "\n" not in said.strip()


@pytest.mark.parametrize("how", LATEST)
def test_a_damaged_newest_version_is_gone_behind(tmp_path: Path, how: str) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('t', 300), embed=False); s.index('u', rows('u', 40), embed=False)")
    damage(work / "index.lance" / "entries.lance", how)
    seen = Opened(work)
    seen.ledger.rollback(1)
    assert seen.table("t") == rows("t", 300) and seen.table("u") is None
    run(work, "s.index('u', rows('u', 40), embed=True)")
    assert Opened(work).table("u") == rows("u", 40)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


ATTEMPT = """
from meld_duckdb.errors import ArtefactError
try:
    {0}
    print("done")
except ArtefactError as error:
    print(error)
"""
BIG = "s.index('big', rows('big', 9000), embed=True)"


def test_a_full_disk_is_named_and_harms_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1500) as disk:
        work = disk / "w"
        run(work, "s.index('t', rows('t', 100), embed=True)")
        said = run(work, ATTEMPT.format(BIG))
        assert "no space left" in said and "make space" in said, said
        learned = run(
            work,
            ATTEMPT.format("[s.learn('match', [(pair('p', i), 'match')]) for i in range(400)]"),
        )
        assert "no space left" in learned
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        seen = Opened(work)
        assert seen.table("t") == rows("t", 100) and seen.table("big") is None
        assert seen.labels() < 400
        assert run(work, ATTEMPT.format(BIG)) == "done\n"
        assert Opened(work).table("big") == rows("big", 9000)


def test_a_file_that_may_not_grow_is_named_and_harms_nothing(tmp_path: Path) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('t', 100), embed=True)")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    said = run(work, limit + ATTEMPT.format("s.index('big', rows('big', 9000), embed=False)"))
    assert "no space left" in said, said
    seen = Opened(work)
    assert seen.table("t") == rows("t", 100) and seen.table("big") is None
    assert run(work, ATTEMPT.format(BIG)) == "done\n"


def test_a_lost_catalogue_is_made_anew(tmp_path: Path) -> None:
    work = tmp_path / "w"
    run(
        work,
        "s.index('t', rows('t', 30), embed=True, split='name');"
        "s.learn('match', [(pair('p', i), 'match') for i in range(7)])",
    )
    before = Catalogue(work / "catalogue.sqlite").tables()
    for file in work.glob("catalogue.sqlite*"):
        file.unlink()
    seen = Opened(work)
    assert seen.catalogue.tables() == before and seen.labels() == 7
    assert any("catalogue was lost" in line for line in seen.notices)
    [found] = seen.catalogue.memberships(rows("t", 1)).values()
    assert found == (before[0].digest,)


def test_a_damaged_catalogue_is_rebuilt_by_the_command(tmp_path: Path) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('t', 30), embed=True)")
    for file in work.glob("catalogue.sqlite-*"):
        file.unlink()
    (work / "catalogue.sqlite").write_bytes(b"junk" * 2000)
    with pytest.raises(ArtefactCorrupt, match=r"catalogue.sqlite is damaged.*workspace rebuild"):
        Opened(work)
    done = subprocess.run(
        [sys.executable, "-m", "meld_duckdb.cli.main", "workspace", "rebuild", "--workspace", work],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.stdout == "1 tables, 0 labels\n" and "kept as" in done.stderr
    assert Opened(work).table("t") == rows("t", 30)


def test_a_workspace_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    work = tmp_path / "w"
    run(work, "s.index('t', rows('t', 3), embed=False)")
    (work / "write.lock").unlink()
    (work / "write.lock").mkdir()
    with pytest.raises(ArtefactError, match=r"the lock .*write.lock cannot be taken"):
        Opened(work).ledger.compact(1)


def test_the_manifest_of_a_new_workspace_has_todays_version(tmp_path: Path) -> None:
    run(tmp_path / "w", "s.index('t', rows('t', 3), embed=True)")
    manifest = json.loads((tmp_path / "w" / "manifest.json").read_text("utf-8"))
    assert manifest["schema_version"] == 2
    assert manifest["encoder"]["dimension"] == 64
