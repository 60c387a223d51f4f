"""An engine's life, with real processes on scripted models."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb.cli import engine as commands
from meld_duckdb.cli.main import cli
from meld_duckdb.daemon import lifecycle, logs
from meld_duckdb.daemon.options import Options, check_listening, last_options
from meld_duckdb.daemon.places import places_of
from meld_duckdb.errors import ConfigError, EngineError, EngineUnavailable
from meld_duckdb.locks import FileLock, holder
from meld_duckdb.settings import resolve
from tests.daemon.conftest import PROGRAM, Start, silent


def wait_until(true: object, timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_start_status_restart_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commands, "PROGRAM", PROGRAM)
    runner, workspace = CliRunner(), ["--workspace", str(tmp_path / "w")]
    none = runner.invoke(cli, ["engine", "status", *workspace, "--json"])
    assert none.exit_code == 1 and "no engine runs" in json.loads(none.stdout)["error"]
    done = runner.invoke(cli, ["engine", "start", "--idle-timeout", "60", *workspace, "--json"])
    try:
        assert done.exit_code == 0, done.output
        assert "meld: loading the encoder" in done.stderr
        first = json.loads(done.stdout)
        shown = runner.invoke(cli, ["engine", "status", *workspace])
        assert f"pid            {first['pid']}\n" in shown.stdout
        assert "models         encoder" in shown.stdout
        twice = runner.invoke(cli, ["engine", "start", *workspace])
        assert isinstance(twice.exception, EngineError)
        assert f"process {first['pid']}" in str(twice.exception)
        again = json.loads(runner.invoke(cli, ["engine", "restart", *workspace, "--json"]).stdout)
        assert again["pid"] != first["pid"]
        assert last_options(resolve({"workspace": tmp_path / "w"})[0]).idle_timeout_s == 60
        log = runner.invoke(cli, ["engine", "logs", *workspace])
        assert "stopped, all calls finished" in log.stdout
    finally:
        stopped = runner.invoke(cli, ["engine", "stop", *workspace])
    assert stopped.stdout == "stopped\n"
    assert runner.invoke(cli, ["engine", "stop", *workspace]).stdout == "no engine was running\n"
    left = {p.name for p in (tmp_path / "w" / "engine").iterdir()}
    assert left == {"engine.lock", "options.json"}


def test_its_files_are_closed_to_others_and_its_log_has_no_rows(start: Start) -> None:
    lines: list[str] = []
    start(tell=lines.append)
    assert lines == [
        "loading the libraries",
        "opening the workspace",
        "loading the encoder all-minilm-l6-v2",
    ]
    settings, _ = resolve()
    where = places_of(settings)
    assert stat.S_IMODE(where.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(where.socket.stat().st_mode) == 0o600
    con = meld_duckdb.connect(engine="required")
    con.sql("SELECT meld_match('confidential one', 'confidential two')").fetchall()
    con.sql("SELECT meld_impute({'a': 'confidential', 'b': NULL}, 'b')").fetchall()
    with pytest.raises(Exception, match="cannot answer"):
        con.sql(
            "SELECT meld_impute({'a': 'confidential', 'b': NULL}, 'b', {'on_error': 'fail'})"
        ).fetchall()
    log = where.log.read_text()
    assert "meld_match: 1 rows" in log and "meld_impute failed (MELD-E002)" in log
    assert "confidential" not in log


def test_stale_files_of_a_killed_engine_are_no_hindrance(start: Start) -> None:
    settings, _ = resolve()
    where = places_of(settings)
    pid = start()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: holder(where.lock) is None)
    assert where.pointer.exists() and where.socket.exists()
    with pytest.raises(EngineUnavailable, match=r"the last one was killed.*meld engine start"):
        lifecycle.status(settings)
    assert start()["pid"] != pid
    assert lifecycle.stop(settings)
    where.pointer.write_text(json.dumps({"pid": 1, "socket": "x", "started": 0, "version": "0"}))
    assert not lifecycle.stop(settings)  # process 1 is not ours and is left alone
    assert not where.pointer.exists()


def test_an_engine_that_is_not_used_stops(start: Start) -> None:
    start(Options(idle_timeout_s=0.5))
    where = places_of(resolve()[0])
    wait_until(lambda: holder(where.lock) is None)
    assert not where.pointer.exists() and not where.socket.exists()
    assert "no call for 0.5 s" in where.log.read_text()


def test_a_long_path_gets_a_short_socket(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    start(workspace=deep)
    where = places_of(resolve({"workspace": deep})[0])
    assert where.socket.parent == tmp_path / "run" / "meld"
    assert stat.S_IMODE(where.socket.parent.stat().st_mode) == 0o700
    con = meld_duckdb.connect(workspace=deep, engine="required")
    assert con.sql("SELECT meld_match('a b', 'a b')").fetchall() == [(True,)]


def test_what_keeps_it_from_starting_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        start(workspace=tmp_path / "file")
    settings, _ = resolve({"workspace": tmp_path / "w"})
    with pytest.raises(EngineUnavailable, match=r"did not start.*engine\.err"):
        lifecycle.start(settings, Options(), ["false"], silent)
    (tmp_path / "w" / "meld.toml").write_text("modell = 'x'")
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        lifecycle.start(settings, Options(), PROGRAM, silent)


def test_serving_other_machines_needs_a_token_and_encryption(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    with pytest.raises(ConfigError, match="needs a token"):
        check_listening(Options(tcp="127.0.0.1:0"))
    with pytest.raises(ConfigError, match="unencrypted"):
        check_listening(Options(tcp="0.0.0.0:9000", token_file=token))
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_listening(Options(tcp="somewhere", token_file=token))
    listening = check_listening(Options(tcp="127.0.0.1:0", token_file=token))
    assert listening is not None and listening.location == "grpc+tcp://127.0.0.1:0"
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        check_listening(Options(tcp="127.0.0.1:0", token_file=token))
    token.chmod(0o600)
    token.write_text("short")
    with pytest.raises(ConfigError, match="at least 16"):
        check_listening(Options(tcp="127.0.0.1:0", token_file=token))


def test_over_tcp_the_token_decides(start: Start, tmp_path: Path) -> None:
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    for path, text in ((token, "0123456789abcdef"), (wrong, "fedcba9876543210")):
        path.write_text(text)
        path.chmod(0o600)
    port = free_port()
    start(Options(tcp=f"127.0.0.1:{port}", token_file=token))
    given = {
        "workspace": tmp_path / "elsewhere",
        "engine": "required",
        "engine_address": f"tcp://127.0.0.1:{port}",
    }
    query = "SELECT meld_match('a b', 'a b')"
    right = meld_duckdb.connect(**given, engine_token_file=str(token))
    assert right.sql(query).fetchall() == [(True,)]
    for refused in ({"engine_token_file": str(wrong)}, {}):
        with pytest.raises(Exception, match=r"MELD-E021.*refused the token"):
            meld_duckdb.connect(**given, **refused).sql(query).fetchall()
    assert right.sql(query).fetchall() == [(True,)]


def test_a_lock_is_given_up_after_a_while(tmp_path: Path) -> None:
    held, wanted = FileLock(tmp_path / "l", "who sleeps"), FileLock(tmp_path / "l", "who sleeps")
    assert holder(tmp_path / "l") is None
    with held.hold():
        assert holder(tmp_path / "l") == os.getpid()
        with pytest.raises(Exception, match=rf"held by process {os.getpid()}, who sleeps"):
            with wanted.hold(wait_s=0.1):
                pytest.fail("two hold it")
    with wanted.hold(wait_s=0.0):
        pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls_the_certificate_decides(start: Start, tmp_path: Path) -> None:
    token, certificate, key = (tmp_path / name for name in ("token", "cert.pem", "key.pem"))
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    start(Options(0, f"127.0.0.1:{port}", token, certificate, key))
    given = {
        "engine": "required",
        "engine_address": f"tls://localhost:{port}",
        "engine_token_file": str(token),
    }
    query = "SELECT meld_match('a b', 'a b')"
    right = meld_duckdb.connect(**given, engine_tls_cert=str(certificate))
    assert right.sql(query).fetchall() == [(True,)]
    with pytest.raises(Exception, match=r"MELD-E021.*engine_tls_cert"):
        meld_duckdb.connect(**given).sql(query).fetchall()


def test_of_two_that_start_at_once_one_serves(start: Start) -> None:
    settings, _ = resolve()
    found: list[object] = []

    def run() -> None:
        try:
            found.append(start()["pid"])
        except EngineError as error:
            found.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [pid] = [x for x in found if isinstance(x, int)]
    [refused] = [x for x in found if isinstance(x, str)]
    assert "an engine runs already" in refused and f"process {pid}" in refused
    assert lifecycle.status(settings)["pid"] == pid


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LOG_BYTES", 1_000)
    settings, _ = resolve({"workspace": tmp_path})
    where = places_of(settings)
    with logs.logging_to(where, debug=settings.log_data):
        for number in range(200):
            logging.getLogger("meld_duckdb.daemon").info("line %d", number)
        logging.getLogger("meld_duckdb.daemon").debug("contents of a row")
    kept = sorted(where.log.parent.iterdir())
    assert [p.name for p in kept] == [f"engine.log{suffix}" for suffix in ("", ".1", ".2", ".3")]
    assert all(p.stat().st_size <= 1_000 for p in kept)
    assert {stat.S_IMODE(p.stat().st_mode) for p in kept} == {0o600}
    assert "line 199" in where.log.read_text() and "contents" not in where.log.read_text()
