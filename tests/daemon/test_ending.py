"""Engines that are to end: with clients that do nothing, without their workspace, without help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import flight

import meld_duckdb
from meld_duckdb.daemon import lifecycle, protocol
from meld_duckdb.daemon.client import new_identity
from meld_duckdb.daemon.options import Options
from meld_duckdb.daemon.places import places_of
from meld_duckdb.daemon.protocol import Header, Hello
from meld_duckdb.daemon.sent import anchored, sent_settings
from meld_duckdb.locks import holder
from meld_duckdb.settings import Settings, resolve
from tests.daemon.conftest import Start
from tests.daemon.test_calls import MATCH
from tests.daemon.test_lifecycle import wait_until


class Silent:
    """A client that opens an exchange and then sends nothing."""

    def __init__(self, settings: Settings, function: str = "meld_match") -> None:
        where = places_of(settings)
        self.connection = flight.connect(f"grpc+unix://{where.socket}")
        name = new_identity()
        given = sent_settings(anchored(settings))
        hello = Hello(name, meld_duckdb.__version__, protocol.VERSION, str(where.workspace), given)
        action = flight.Action(protocol.HELLO, protocol.encode(hello))
        [reply] = self.connection.do_action(action)
        assert "error" not in json.loads(reply.body.to_pybytes())
        header = protocol.encode(Header(name, function, n_bytes=1_000_000))
        self.streams = self.connection.do_exchange(flight.FlightDescriptor.for_command(header))


def test_a_silent_client_keeps_no_engine_from_stopping(start: Start) -> None:
    start()
    settings, _ = resolve()
    silent = [Silent(settings) for _ in range(3)]
    silent[1].streams[0].begin(pa.schema([("c0", pa.string())]))
    assert meld_duckdb.connect(engine="required").sql(MATCH).fetchall() == [(True,)]
    time.sleep(0.3)
    started = time.monotonic()
    assert lifecycle.stop(settings)
    assert time.monotonic() - started < 8
    assert not places_of(settings).socket.exists()


def test_a_silent_client_keeps_no_engine_from_being_idle(start: Start) -> None:
    start(Options(idle_timeout_s=0.5))
    settings, _ = resolve()
    silent = Silent(settings)
    wait_until(lambda: holder(places_of(settings).lock) is None, 10)
    del silent


_ASKS = """
import time
import pyarrow as pa
from meld_duckdb.settings import resolve
from tests.daemon.test_ending import Silent
writer, reader = (silent := Silent(resolve()[0], "meld_embed")).streams
batch = pa.record_batch([pa.array([f"text {i}" for i in range(20_000)])], names=["c0"])
writer.begin(batch.schema)
writer.write_batch(batch)
writer.done_writing()
print("sent", flush=True)
time.sleep(60)
"""


def test_a_stopped_client_keeps_no_engine_from_stopping(start: Start) -> None:
    start()
    settings, _ = resolve()
    command = [sys.executable, "-c", _ASKS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        try:
            assert client.stdout is not None and client.stdout.readline() == b"sent\n"
            client.send_signal(signal.SIGSTOP)
            wait_until(lambda: lifecycle.status(settings)["calls"] == 1)
            started = time.monotonic()
            assert lifecycle.stop(settings)
            assert 2 < time.monotonic() - started < 8  # it did hang in the result
        finally:
            client.kill()


def test_an_engine_whose_workspace_is_removed_leaves_its_successor_alone(
    start: Start, tmp_path: Path
) -> None:
    first = start()["pid"]
    settings, _ = resolve()
    where = places_of(settings)
    shutil.rmtree(tmp_path / "workspace")
    second = start()["pid"]
    wait_until(lambda: not _lives(first))
    assert where.pointer.exists() and where.socket.exists()
    assert lifecycle.status(settings)["pid"] == second
    assert meld_duckdb.connect(engine="required").sql(MATCH).fetchall() == [(True,)]


def _lives(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_only_what_is_private_is_closed_to_the_group(start: Start, tmp_path: Path) -> None:
    before = os.umask(0o002)  # a workspace that a group shares
    try:
        start()
    finally:
        os.umask(before)
    meld_duckdb.connect(engine="required").sql(MATCH).fetchall()
    where = places_of(resolve()[0])
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (where.socket, where.log, where.crash_log)}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((tmp_path / "workspace" / "cache.sqlite").stat().st_mode) == 0o644
