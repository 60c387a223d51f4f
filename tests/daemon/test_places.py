"""Where an engine is found, by whom it is used, and how it is told to stop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import meld_duckdb
from meld_duckdb.daemon import ending, lifecycle, places, serving
from meld_duckdb.daemon.places import places_of
from meld_duckdb.daemon.protocol import Hello
from meld_duckdb.daemon.sent import sent_settings
from meld_duckdb.daemon.server import make_engine
from meld_duckdb.errors import ConfigError, EngineUnavailable
from meld_duckdb.locks import holder
from meld_duckdb.register import load_functions
from meld_duckdb.settings import resolve
from tests.daemon.conftest import Start
from tests.daemon.test_calls import MATCH

_FORK = """
import os, signal, sys, threading
import meld_duckdb
from meld_duckdb.daemon.remote import Remote
engine = sys.argv[1]
con = meld_duckdb.connect(engine=engine, progress=True)
query = "SELECT meld_match('a b', 'a b')"
assert con.sql(query).fetchall() == [(True,)]
registration = next(iter(meld_duckdb.register.__globals__["_REGISTRATIONS"].values()))
registration._remote._lock._lock.acquire()  # as if another thread had it
registration._lock._lock.acquire()
child = os.fork()
if not child:
    signal.alarm(20)
    from tests.daemon import serve_scripted
    serve_scripted.patch()
    functions = {f.name: f for f in meld_duckdb.register.__globals__["load_functions"]()}
    import pyarrow as pa
    columns = (pa.array(["a b"]), pa.array(["a b"]))
    try:
        print(registration._answer(functions["meld_match"], columns).to_pylist(), flush=True)
        registration._answer(functions["meld_match"], columns)
    except Exception as error:
        print(error, flush=True)
    registration._remote._client = None  # letting go is no danger
    os._exit(7)  # as multiprocessing does; DuckDB alone crashes a forked interpreter that ends
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("engine", "said"), [("auto", "[True]"), ("required", "[MELD-E021] this process was forked")]
)
def test_a_forked_process_does_not_hang(start: Start, engine: str, said: str) -> None:
    start()
    command = [sys.executable, "-c", _FORK, engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert said in done.stdout and "child 7" in done.stdout, (done.stdout, done.stderr)
    told = [x for x in done.stderr.splitlines() if "forked" in x]
    assert len(told) == (1 if engine == "auto" else 0)
    assert engine == "auto" or "spawn" in done.stdout


@pytest.mark.parametrize("name", ["with space", "Käse", "50%", "a#b", "what?", "a+b_c-d.e", "a:b"])
def test_any_name_of_a_workspace_will_do(start: Start, tmp_path: Path, name: str) -> None:
    start(workspace=tmp_path / name)
    con = meld_duckdb.connect(workspace=tmp_path / name, engine="required")
    assert con.sql(MATCH).fetchall() == [(True,)]


@pytest.mark.parametrize("folder", ["with space", "d" * 100])
def test_a_socket_that_can_be_nowhere_is_told(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / folder))
    with pytest.raises(ConfigError, match=r"a socket can be neither.*XDG_RUNTIME_DIR"):
        start(workspace=tmp_path / "o ö")


def test_clients_elsewhere_are_not_taken_for_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = resolve({"workspace": tmp_path})
    clients = make_engine(own, tmp_path, load_functions(), "1").clients
    dead = 2**22 + 1  # more than any process number
    here, there = places.numbering(), places.numbering() + 1
    names = {f"{dead}-{here}-local": True, f"{dead}-{here}-tcp": False, f"{dead}-{there}-x": True}
    for name, local in names.items():
        clients.greet(Hello(name, "1", 1, "", sent_settings(own)), local=local)
    monkeypatch.setattr(serving, "_ENDED_IDLE_S", -1.0)
    clients._forget()
    assert sorted(clients._clients) == sorted(list(names)[1:])
    monkeypatch.setattr(serving, "_CLIENT_IDLE_S", -1.0)
    with clients.calling(list(names)[1]):  # also while it only waits
        clients._forget()
    assert list(clients._clients) == [list(names)[1]]


def test_starting_and_stopping_is_of_the_workspace_alone(start: Start) -> None:
    settings, _ = resolve({"engine_address": "tls://example.org:1"})
    for run in (lifecycle.stop, lambda s: start(engine_address="tls://example.org:1")):
        with pytest.raises(ConfigError, match=r"example\.org.*MELD_ENGINE_ADDRESS=workspace"):
            run(settings)


def test_stop_goes_to_who_listens_and_not_to_a_number(start: Start) -> None:
    pid = start()["pid"]
    settings, _ = resolve()
    where = places_of(settings)
    other = os.getpid()
    handle = os.open(where.lock, os.O_RDWR)
    os.pwrite(handle, f"{other:<20}".encode(), 0)  # as seen from another container
    os.close(handle)
    assert holder(where.lock) == other and not ending._has_open(other, where.lock)
    assert ending._has_open(pid, where.lock) and ending._listener(where.socket) == pid
    assert lifecycle.stop(settings)


def test_where_no_process_is_told_the_engine_is_asked(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    settings, _ = resolve()
    monkeypatch.setattr(ending, "_listener", lambda path: 0)
    assert lifecycle.stop(settings)
    monkeypatch.setattr(ending, "_listener", lambda path: None)
    with pytest.raises(EngineUnavailable, match="cannot be told to stop"):
        ending.ask_to_stop(places_of(settings), os.getpid())

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(ending, "_listener", lambda path: 77)
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refuse)
        with pytest.raises(EngineUnavailable, match="process 77, belongs to another user"):
            ending.ask_to_stop(places_of(settings), 0)
