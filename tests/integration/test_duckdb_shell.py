"""``meld serve`` and ``meld shell --duckdb`` as a session with DuckDB's own shell."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parent.parent.parent
DUCKDB15 = ROOT / ".venv-duckdb15"
MELD = [sys.executable, "-m", "meld_duckdb.cli.main"]
TOKEN = "a token of the tests".replace(" ", "-")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (DUCKDB15 / "installed").is_file(),
        reason="the DuckDB that has extensions for Quack is not there: make test installs it",
    ),
]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that runs DuckDB 1.5 with the packages of the extra."""
    return {**os.environ, "PYTHONPATH": str(DUCKDB15), "MELD_SERVE_TOKEN": TOKEN, **variables}


LONG = (
    "FROM m.query($$ SELECT count(meld_match('canon a' || i, 'b canon' || i))"
    " FROM range(1000000) t(i) $$);\n"
)


def wait_for_answers(workspace: Path) -> None:
    deadline = time.monotonic() + 60
    while not (workspace / "cache.sqlite").exists():  # made by the first answers
        assert time.monotonic() < deadline
        time.sleep(0.1)


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    workspace: Path
    greeting: list[str] = field(default_factory=list)

    def shell(self, sql: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        """Run statements in the unmodified DuckDB shell that has the server attached as m."""
        load = "".join(
            f"LOAD '{file}';\n"
            for file in sorted(DUCKDB15.glob("duckdb_extension_*/**/*.duckdb_extension"))
        )
        attach = f"ATTACH 'quack:localhost:{self.port}' AS m (TOKEN getenv('MELD_SERVE_TOKEN'));\n"
        return subprocess.run(
            [DUCKDB15 / "duckdb_cli" / "duckdb", "-csv", "-noheader", "-bail"],
            input=load + attach + sql,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(MELD_SERVE_TOKEN=token),
            check=False,
        )

    def answer(self, sql: str) -> str:
        done = self.shell(sql)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refusal(self, sql: str) -> str:
        done = self.shell(sql)
        assert done.returncode != 0, done.stdout
        return done.stderr


@contextmanager
def serving(folder: Path, *options: str, token: str | None = TOKEN) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = folder / "workspace"
    variables = environment()
    if token is None:
        del variables["MELD_SERVE_TOKEN"]
    with subprocess.Popen(
        [*MELD, "serve", "--port", str(port), "--workspace", str(workspace), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        server = Server(process, port, workspace)
        try:
            while "FROM m.query" not in "".join(server.greeting[-1:]):
                line = process.stdout.readline()
                assert line, process.stderr.read()
                server.greeting.append(line)
            yield server
        finally:
            process.terminate()
            process.communicate(timeout=60)


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of meld to its end."""
    variables = {"env": environment(), "input": "", **options}
    return subprocess.run(
        [*MELD, *arguments], capture_output=True, text=True, timeout=120, check=False, **variables
    )  # type: ignore[call-overload]


def sql(file: Path, statements: str) -> list[str]:
    """Run statements on a file that nobody serves; a file of this DuckDB, not of a newer one."""
    done = run("sql", "--format", "csv", "--db", str(file), statements)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def make(folder: Path) -> Path:
    path = folder / "shop.duckdb"
    sql(
        path,
        "CREATE TABLE shop (id INTEGER, title VARCHAR);"
        "INSERT INTO shop VALUES (1, 'canon selphy cp800 photo printer'),"
        " (2, 'nikon coolpix s3100 camera'), (3, 'Selphy CP800 photo printer by Canon');"
        "CREATE VIEW same AS SELECT meld_match('red apple', 'apple, red') AS same",
    )
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("db"))


@pytest.fixture(scope="module")
def reader(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The database, served as it is by default: for reading."""
    with serving(tmp_path_factory.mktemp("reader"), "--db", str(file)) as server:
        yield server
        assert server.process.poll() is None, "a refused statement ended the server"


def test_the_shell_gets_answers_of_the_functions(reader: Server) -> None:
    assert reader.answer(
        "FROM m.query($$ SELECT meld_match('red apple', 'apple, red'),"
        " meld_match('red apple', 'green shoes') $$);"
    ) == ("true,false")
    uri = f"quack:localhost:{reader.port}"
    assert (
        reader.answer(
            f"FROM quack_query('{uri}', 'SELECT meld.match(''a b'', ''b a'')',"
            " token := getenv('MELD_SERVE_TOKEN'));"
        )
        == "true"
    )


def test_tables_views_and_table_functions_are_there(reader: Server) -> None:
    assert reader.answer("SELECT count(*) FROM m.shop;") == "3"
    assert reader.answer("FROM m.query('FROM same');") == "true"
    pairs = reader.answer("FROM m.query($$ SELECT l_id, r_id FROM meld.join('shop', 'shop') $$);")
    assert pairs.splitlines() == ["1,3"] or set(pairs.splitlines()) == {"1,3", "3,1"}
    plan = reader.answer("FROM m.query($$ EXPLAIN FROM shop WHERE meld_match(title, 'x') $$);")
    assert "physical_plan" in plan


def test_results_are_kept_by_the_client(reader: Server) -> None:
    text = "canon selphy cp800 photo printer"
    assert reader.answer(
        f"CREATE TABLE kept AS FROM m.query($$ SELECT id, meld_match(title, '{text}') AS same"
        " FROM shop $$);\nSELECT count(*), min(id) FILTER (same) FROM kept;"
    ).endswith("3,1")


def test_clients_are_answered_at_the_same_time(reader: Server) -> None:
    def ask(i: int) -> str:
        query = f"SELECT count(*), count(meld_match('a b' || i, 'b a' || i)) FROM range({i}) t(i)"
        return reader.answer(f"FROM m.query($$ {query} $$);")

    numbers = [301, 502, 703]
    with ThreadPoolExecutor(len(numbers)) as pool:
        assert list(pool.map(ask, numbers)) == [f"{i},{i}" for i in numbers]


def test_a_wrong_token_is_refused(reader: Server) -> None:
    done = reader.shell("FROM m.shop;", token="another-token-of-the-tests")
    assert done.returncode != 0
    assert "Authentication failed" in done.stderr
    assert "canon" not in done.stdout


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("INSERT INTO m.shop VALUES (4, 'x')", "Authorization failed"),
        ("FROM m.query($$ INSERT INTO shop VALUES (4, 'x') $$)", "Authorization failed"),
        ("CREATE TABLE m.t AS SELECT 1 AS a", "CREATE is refused: this server only reads"),
        ("FROM m.query($$ UPDATE shop SET id = 4 $$)", "UPDATE is refused: this server only reads"),
        ("FROM m.query($$ CREATE TEMP TABLE t AS SELECT 1 $$)", "CREATE is refused"),
        ("FROM m.query($$ ATTACH '{new}' $$)", "ATTACH is refused"),
        ("FROM m.query($$ COPY shop TO '{new}' $$)", "COPY is refused"),
        ("FROM m.query($$ EXPORT DATABASE '{new}' $$)", "EXPORT is refused"),
        ("FROM m.query($$ INSTALL spatial $$)", "LOAD is refused"),
        ("FROM m.query($$ LOAD spatial $$)", "LOAD is refused"),
        ("FROM m.query($$ SET enable_external_access = true $$)", "SET is refused"),
        ("FROM m.query($$ FROM read_text('{there}') $$)", "read_text is refused"),
        ("FROM m.query($$ FROM '{there}' $$)", "file system operations are disabled"),
        ("FROM m.query($$ FROM quack_serve('quack:localhost:1') $$)", "quack_serve is refused"),
        ("FROM m.query($$ FROM quack_stop('quack:localhost:9494') $$)", "quack_stop is refused"),
        ("FROM m.query($$ FROM query('FROM quack' || '_serve()') $$)", "query is refused"),
        ("FROM m.query($$ SELECT meld_learn('match', {{'a': 'a', 'b': 'c'}}, true) $$)", "learn"),
        ("FROM m.query($$ FROM meld.index('shop') $$)", "meld_index is shut off"),
    ],
)
def test_what_is_refused_by_default(
    reader: Server, file: Path, tmp_path: Path, statement: str, message: str
) -> None:
    new, there = tmp_path / "new", tmp_path / "there.csv"
    there.write_text("secret\n1\n")
    before = file.read_bytes()
    refusal = reader.refusal(statement.format(new=new, there=there) + ";")
    assert message in refusal
    assert not new.exists()
    assert file.read_bytes() == before
    assert not list(reader.workspace.glob("**/labels*"))
    assert TOKEN not in refusal
    assert reader.answer("SELECT count(*) FROM m.shop;") == "3"


def test_writing_and_learning_where_they_were_allowed(tmp_path: Path) -> None:
    file = make(tmp_path)
    with serving(tmp_path, "--db", str(file), "--read-write", "--allow-learn") as server:
        assert (
            server.answer(
                "INSERT INTO m.shop VALUES (4, 'x');\nCREATE TABLE m.t AS SELECT 7 AS a;\n"
                "SELECT max(id) FROM m.shop;"
            )
            == "4"
        )
        learned = "FROM m.query($$ SELECT meld_learn('match', {'a': 'p', 'b': 'q'}, true) $$);"
        assert server.answer(learned) == "true"
        assert server.answer("FROM m.query($$ SELECT meld_match('p', 'q') $$);") == "true"
        assert list(server.workspace.glob("**/labels*"))
        assert (
            server.answer(
                "FROM m.query($$ SELECT entries FROM meld.index('t', embed := false) $$);"
            )
            == "1"
        )
        for hidden in ("CREATE VIEW v AS FROM quack_serve()", "ATTACH 'x'", "COPY t TO 'x'"):
            assert "is refused" in server.refusal(f"FROM m.query($$ {hidden} $$);")
    assert sql(file, "SELECT count(*) AS n FROM shop; FROM t") == ["n", "4", "a", "7"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_server_also_while_it_answers(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        client = pool.submit(server.shell, LONG)
        wait_for_answers(server.workspace)
        server.process.send_signal(number)
        out, err = server.process.communicate(timeout=30)
        assert server.process.returncode == 0, err
        assert out.endswith("stopped\n")
        assert client.result().returncode == 1
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_random_token_is_printed_once_and_a_given_one_never(
    reader: Server, tmp_path: Path
) -> None:
    assert TOKEN not in "".join(reader.greeting)
    with serving(tmp_path, token=None) as server:
        text = "".join(server.greeting)
        [token] = re.findall(r"^token, shown this once: (\S{40,})$", text, re.MULTILINE)
        assert text.count(token) == 1
        assert token not in Path(f"/proc/{server.process.pid}/cmdline").read_text()
        done = server.shell("FROM m.query('SELECT 42');", token=token)
        assert done.stdout.strip() == "42", done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and token in p.read_text("latin-1")]


def test_a_taken_port_a_short_token_and_a_token_in_the_open_are_named(
    reader: Server, tmp_path: Path
) -> None:
    taken = run("serve", "--port", str(reader.port))
    assert taken.returncode == 1
    assert f"port {reader.port} is taken. Hint: name another one by --port" in taken.stderr
    short = run("serve", env=environment(MELD_SERVE_TOKEN="abcd"))
    assert "the token has 4 characters, expected at least 16" in short.stderr
    (tmp_path / "token").write_text("abcde\n")
    seen = run("serve", "--token-file", str(tmp_path / "token"))
    assert "is open to other users. Hint: chmod 600" in seen.stderr
    (tmp_path / "token").chmod(0o600)
    short = run("serve", "--token-file", str(tmp_path / "token"))
    assert "the token has 5 characters, expected at least 16" in short.stderr
    seen = run("serve", "--token", TOKEN)
    assert seen.returncode == 1
    assert "seen by every user" in seen.stderr and TOKEN not in seen.stderr


def test_a_duckdb_without_the_extensions_says_how_to_get_them(tmp_path: Path) -> None:
    without = {**environment(HOME=str(tmp_path)), "PYTHONPATH": ""}
    if duckdb.__version__ != "1.5.5":
        served = run("serve", env=without)
        assert served.returncode == 1
        assert re.search(
            rf"DuckDB {re.escape(duckdb.__version__)} has no extension 'httpfs'.*Hint: "
            r"pip install 'meld-duckdb\[serve\]'",
            served.stderr,
        )
    shell = run("shell", "--duckdb", env={**without, "PATH": "/nowhere"})
    assert shell.returncode == 1
    assert "there is no program 'duckdb'. Hint: pip install" in shell.stderr


def test_the_duckdb_shell_of_meld_reads_and_writes_and_ends_with_its_code(tmp_path: Path) -> None:
    file = make(tmp_path)
    arguments = ("shell", "--duckdb", "--db", str(file), "--workspace", str(tmp_path / "w"))
    done = run(
        *arguments,
        input=".mode csv\n.headers off\n"
        "FROM m.query($$ SELECT meld_match('red apple', 'apple, red') $$);\n"
        "INSERT INTO m.shop VALUES (4, 'x');\nSELECT count(*) FROM m.shop;\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["true", "4"]
    assert sql(file, "SELECT count(*) AS n FROM shop") == ["n", "4"]
    assert run(*arguments, input="SELECT nope;\n").returncode == 1


def test_the_token_of_the_duckdb_shell_is_in_no_command_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*MELD, "shell", "--duckdb", "--workspace", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as meld:
        assert meld.stdin is not None and meld.stdout is not None
        meld.stdin.write(
            ".mode list\n.headers off\nSELECT 'token ' || getenv('MELD_SERVE_TOKEN');\n"
        )
        meld.stdin.flush()
        [token] = re.findall(r"^token (\S{40,})$", meld.stdout.readline())
        children = Path(f"/proc/{meld.pid}/task/{meld.pid}/children").read_text().split()
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (str(meld.pid), *children)]
        assert len(lines) == 2 and "ATTACH" in lines[1]
        assert token != TOKEN and not any(token in line for line in lines)
        meld.terminate()
        meld.communicate(timeout=30)
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_ctrl_c_stops_the_statement_and_not_the_shell(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*MELD, "shell", "--duckdb", "--workspace", str(tmp_path / "w")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as meld:
        assert meld.stdin is not None
        meld.stdin.write(".bail off\n" + LONG + "FROM m.query('SELECT 40 + 2');\n")
        meld.stdin.flush()
        wait_for_answers(tmp_path / "w")
        meld.send_signal(signal.SIGINT)
        out, err = meld.communicate(timeout=60)
        assert "interrupted; finished answers are kept" in err
        assert "42" in out
