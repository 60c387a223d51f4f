"""The interactive shell on a pseudo-terminal: history, multi-line statements, completion."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from pathlib import Path

from meld_duckdb import connect
from meld_duckdb.cli.shell import completions
from tests.terminal import readable


class Terminal:
    def __init__(self, home: Path) -> None:
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ.update(HOME=str(home), TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1")
            os.execv(sys.executable, [sys.executable, "-m", "meld_duckdb.cli.main", "shell"])
        self.seen = ""

    def wait(self, text: str, seconds: float = 120.0) -> str:
        """Read until ``text`` has been printed; gives what was read since the last call."""
        deadline = time.monotonic() + seconds
        start = len(self.seen)
        while text not in self.seen[start:]:
            assert time.monotonic() < deadline, self.seen
            if readable(self.file, 0.2):
                self.seen += os.read(self.file, 65536).decode("utf-8", "replace")
        return self.seen[start:]

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def close(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        return -1


def test_statements_errors_history_and_leaving(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.wait("meld>")
    terminal.type("SELECT 40\r+ 2 AS answer;\r")
    terminal.wait("42")
    terminal.type("SELECT nope;\r")
    terminal.wait("error:")
    terminal.type("SELECT 'still ' || 'here' AS x;\r")
    terminal.wait("still here")
    terminal.type("quit\r")
    assert terminal.close() == 0
    assert "+ 2 AS answer;" in (tmp_path / ".meld_history").read_text()


def test_completion_knows_functions_macros_and_tables() -> None:
    con = connect()
    con.execute("CREATE TABLE customers (city VARCHAR)")
    words = completions(con)
    assert {"meld_match", "meld.block", "meld.join", "customers", "city", "select"} <= set(words)
    assert not [w for w in words if w.startswith("__") or w == "meld.registration"]
