"""Keys and tokens appear nowhere but where they are needed; files are for their user alone."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import meld_duckdb
from meld_duckdb.cli.main import cli
from meld_duckdb.daemon.logs import open_private
from meld_duckdb.daemon.options import Options, check_listening, keep_options
from meld_duckdb.daemon.places import Pointer, make_private, places_of, write_pointer
from meld_duckdb.engine.openai_wire import Patience, Wire
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.workspace import open_workspace
from tests.scripted import ScriptedBackend
from tests.unit.tiny_llama import save_tiny_llama

KEY = "sk-0123456789-very-secret-key"


class Repeats(BaseHTTPRequestHandler):
    """A server that refuses every request and says why, the key included."""

    def do_GET(self) -> None:
        self._refuse()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._refuse()

    def _refuse(self) -> None:
        self.server.seen.append(self.headers.get("authorization", ""))  # type: ignore[attr-defined]
        said = f'{{"error": {{"message": "no such key: {self.headers["authorization"]}"}}}}'
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repeats)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("given", ["openai_key_env", "openai_key_file"])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_is_sent_to_its_server_and_told_to_nobody_else(
    given: str, status: int, server: ThreadingHTTPServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    server.status = status  # type: ignore[attr-defined]
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setenv("MELD_PROGRESS", "true")
    (tmp_path / "key").write_text(KEY)
    settings = {
        "backend": "openai",
        "model": str(save_tiny_llama(tmp_path / "llama")),
        "openai_url": f"http://127.0.0.1:{server.server_address[1]}/v1",
        "openai_model": "m",
        "openai_timeout_s": 4,
        given: "SOME_KEY" if given == "openai_key_env" else str(tmp_path / "key"),
        "workspace": tmp_path / "w",
    }
    con = meld_duckdb.connect(**settings)
    told = []
    for asked in (
        "SELECT meld_match_detail('a', 'b', {'tier': 't2'})",
        "SELECT meld_match('a', 'b', {'tier': 't2', 'on_error': 'fail'})",
        "FROM meld.settings()", "FROM meld.stats()", "FROM meld.errors()", "FROM meld.help()",
    ):  # fmt: skip
        try:
            told.append(repr(con.execute(asked).fetchall()))
        except duckdb.Error as error:
            told.append(str(error))
    assert f"Bearer {KEY}" in server.seen  # type: ignore[attr-defined]
    told += [repr(resolve(settings)), caplog.text, *capfd.readouterr()]
    for text in told:
        assert KEY not in text and KEY[3:20] not in text
    for folder, _, files in os.walk(tmp_path / "w"):
        for name in files:
            assert KEY.encode() not in Path(folder, name).read_bytes(), name


def test_what_holds_a_key_does_not_show_it() -> None:
    wire = Wire("http://127.0.0.1:1/v1", KEY, 1, Patience())
    assert KEY not in repr(wire) and KEY not in str(wire)
    wire.close()


def test_settings_name_where_a_key_is_and_not_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    (tmp_path / "key").write_text(KEY)
    for name, value in (("OPENAI_KEY_ENV", "SOME_KEY"), ("OPENAI_KEY_FILE", str(tmp_path / "key")),
                        ("ENGINE_TOKEN_FILE", str(tmp_path / "key"))):  # fmt: skip
        monkeypatch.setenv(f"MELD_{name}", value)
        shown = CliRunner().invoke(cli, ["config", "show"])
        assert shown.exit_code == 0 and value in shown.output
        assert KEY not in shown.output
    address = f"http://user:{KEY}@127.0.0.1/v1"
    refused = CliRunner().invoke(cli, ["config", "show"], env={"MELD_OPENAI_URL": address})
    assert "no user" in str(refused.exception)


def test_a_token_is_no_argument_of_any_process(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(KEY)
    token.chmod(0o600)
    options = Options(tcp="127.0.0.1:9999", token_file=token)
    assert KEY not in " ".join(options.arguments())
    listening = check_listening(options)
    assert listening is not None and listening.token == KEY
    where = places_of(Settings(workspace=tmp_path / "w"))
    where.folder.mkdir(parents=True)
    keep_options(where, options)
    assert KEY not in where.options.read_text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_workspace_is_for_its_user_alone_whatever_the_umask(
    umask: int, backend: ScriptedBackend, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "w"
    con = meld_duckdb.connect(workspace=path)
    con.execute("CREATE TABLE t AS SELECT 1 AS id, 'sony tv' AS title")
    con.execute("FROM meld.index('t')").fetchall()
    con.execute("SELECT meld_learn('match', {'a': 'x', 'b': 'y'}, true)").fetchall()
    con.execute("SELECT meld_match('a', 'b', {'tier': 't2'})").fetchall()
    assert {"cache.sqlite", "catalogue.sqlite", "index.lance"} <= {p.name for p in path.iterdir()}
    assert mode(path) == 0o700
    assert mode(path / "manifest.json") == 0o600


def test_a_workspace_that_was_opened_to_others_stays_so(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir(mode=0o750)
    (tmp_path / "w").chmod(0o750)
    assert mode(open_workspace(tmp_path / "w").path) == 0o750


def test_files_of_the_engine_are_for_its_user_alone(umask: int, tmp_path: Path) -> None:
    where = places_of(Settings(workspace=open_workspace(tmp_path / "w").path))
    make_private(where.folder)
    keep_options(where, Options())
    write_pointer(where, Pointer(1, "s", 1.0, "v"))
    with open(tmp_path / "log", "w", opener=open_private) as file:
        file.write("x")
    assert mode(where.folder) == 0o700
    assert {mode(p) for p in (where.options, where.pointer, tmp_path / "log")} == {0o600}


def test_what_is_trusted_is_kept_for_its_user_alone(umask: int, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "meld.toml").write_text('remote = "wikidata"\n')
    assert CliRunner().invoke(cli, ["config", "trust"]).exit_code == 0
    trusted = tmp_path / "config" / "meld-duckdb" / "trusted"
    assert (mode(trusted), mode(trusted.parent)) == (0o600, 0o700)
