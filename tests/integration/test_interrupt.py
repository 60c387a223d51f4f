"""Ctrl-C in every place from which statements are run; what is finished is kept."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_kill import answers
from tests.terminal import readable

ROOT = Path(__file__).parent.parent.parent
QUERY = (
    "SELECT count(*) FROM (SELECT meld_match({'t': 'thing ' || i}, {'t': 'other ' || i}, "
    "{'tier': 't2'}) AS m FROM range(400) AS t(i)) WHERE m;"
)
LASTS_S = 80.0
"""Seconds that the statement takes: 400 prompts of 0.2 s."""

SLACK_S = 20.0
"""Seconds after which it must have ended, on a machine that is busy with other things."""

SLOW = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run where it is ignored
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from meld_duckdb.planner import loaded
from tests.scripted import ScriptedBackend, first_choice

def slow(prompt):
    time.sleep(0.2)
    return first_choice(prompt)

loaded.BACKENDS["transformers"] = loaded.BackendKind(
    lambda *given: "scripted", lambda *given: ScriptedBackend(slow, batch_size=4))
loaded.models.locate = lambda *arguments: Path(".")
loaded.models.model_digest = lambda path: "scripted"
"""
SCRIPT = (
    SLOW
    + """
import duckdb
from meld_duckdb import connect
con = connect()
con.execute(f"SET threads = {sys.argv[1]}; SET enable_progress_bar = false")
try:
    getattr(con, sys.argv[2])(sys.argv[3]).fetchall()
    print("ended by itself")
except (KeyboardInterrupt, RuntimeError, duckdb.Error) as error:
    print("stopped", type(error).__name__, " ".join(str(error).split())[:120], flush=True)
# The next statement is not disturbed, and neither is the handler of the program.
import signal
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(con.sql("SELECT meld_match('a b', 'b a')").fetchall())
"""
)
COMMAND = SLOW + "from meld_duckdb.cli.main import main\nmain()\n"


def wait_until(is_true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_for_answers(workspace: Path) -> None:
    wait_until(lambda: answers(workspace) >= 8, "nothing was answered")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def interrupted(command: list[str], workspace: Path) -> tuple[int, str, str, float]:
    """Interrupt a process once it has answered something; how it ended, and after how long."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    wait_for_answers(workspace)
    kept = answers(workspace)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=LASTS_S + SLACK_S)
    seconds = time.monotonic() - started
    print(f"ended {seconds:.2f} s after Ctrl-C")
    assert kept <= answers(workspace) < 400
    return process.returncode, printed, errors, seconds


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("way", ["execute", "sql"])
def test_a_script_stops_and_goes_on(workspace: Path, way: str, threads: int) -> None:
    code, printed, errors, seconds = interrupted(
        [sys.executable, "-c", SCRIPT, str(threads), way, QUERY], workspace
    )
    assert code == 0, errors
    first, second = printed.splitlines()
    assert re.match(r"stopped (InvalidInputException .*KeyboardInterrupt|RuntimeError)", first)
    assert second == "[(True,)]"
    assert seconds < SLACK_S


def test_the_command_sql_stops(workspace: Path) -> None:
    code, printed, errors, seconds = interrupted(
        [sys.executable, "-c", COMMAND, "sql", QUERY], workspace
    )
    assert (code, printed) == (130, ""), errors
    assert "interrupted; finished answers are kept" in errors and "Traceback" not in errors
    assert seconds < SLACK_S


def test_the_shell_stops_the_statement_and_stays(workspace: Path, tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.update(HOME=str(tmp_path), TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1")
        os.execv(sys.executable, [sys.executable, "-c", COMMAND, "shell"])
    seen = ""

    def has(text: str) -> bool:
        nonlocal seen
        if readable(terminal, 0.1):
            seen += os.read(terminal, 65_536).decode("utf-8", "replace")
        return text in seen

    wait_until(lambda: has("meld>"), "no prompt")
    os.write(terminal, f"{QUERY}\r".encode())
    wait_until(lambda: has("\0") or answers(workspace) >= 8, "nothing was answered")
    started = time.monotonic()
    os.write(terminal, b"\x03")
    wait_until(lambda: has("interrupted; finished answers are kept"), seen, LASTS_S)
    seconds = time.monotonic() - started
    print(f"stopped {seconds:.2f} s after Ctrl-C")
    assert seconds < SLACK_S
    seen = ""
    os.write(terminal, b"SELECT 40 + 2 AS answer;\r")
    wait_until(lambda: has("42"), seen)
    os.write(terminal, b"quit\r")
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "the shell stays")


def test_a_notebook_stops_the_cell_and_goes_on(workspace: Path) -> None:
    client, manager = start_kernel()
    try:
        run_cell(client, SLOW + "from meld_duckdb import connect\ncon = connect()")
        message = client.execute(f"con.execute({QUERY!r}).fetchall()")
        wait_for_answers(workspace)
        started = time.monotonic()
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=LASTS_S)
        seconds = time.monotonic() - started
        print(f"stopped {seconds:.2f} s after the interruption")
        assert reply["parent_header"]["msg_id"] == message
        assert reply["content"]["status"] == "error" and seconds < SLACK_S
        shown = run_cell(client, "con.sql(\"SELECT meld_match('a b', 'b a')\").fetchall()")
        assert "[(True,)]" in str(shown)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_notebook_shows_progress_in_the_output_of_the_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MELD_PROGRESS", "true")
    client, manager = start_kernel()
    try:
        run_cell(client, SLOW + "from meld_duckdb import connect\ncon = connect()")
        shown = run_cell(
            client, f"con.execute({QUERY.replace('range(400)', 'range(40)')!r}).fetchall()"
        )
        lines = [
            content["data"]["text/plain"]
            for kind, content in shown
            if kind in ("display_data", "update_display_data")
        ]
        assert [kind for kind, _ in shown].count("display_data") == 1
        assert re.match(r"meld_match: .*prompts \d+ of 40", lines[-1]), lines
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def start_kernel() -> tuple[Any, Any]:
    pytest.importorskip("ipykernel")
    manager_module = pytest.importorskip("jupyter_client.manager")
    manager, client = manager_module.start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    return client, manager


def run_cell(client: Any, code: str) -> list[tuple[str, dict[str, Any]]]:
    """Run a cell; what it showed, as (kind, content)."""
    shown: list[tuple[str, dict[str, Any]]] = []
    client.execute_interactive(
        code,
        timeout=120,
        output_hook=lambda message: shown.append((message["msg_type"], message["content"])),
    )
    errors = [content for kind, content in shown if kind == "error"]
    assert not errors, errors
    return shown
