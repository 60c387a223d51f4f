"""The command ``meld`` as a user runs it: a real process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def meld(
    *arguments: str, stdin: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meld_duckdb.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [(), ("sql",), ("shell",), ("models",), ("models", "list"), ("models", "pull"), ("doctor",),
     ("config",), ("config", "show")],
)  # fmt: skip
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    done = meld(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    description = done.stdout.split("\n\n")[1].strip()
    assert len(description) > 10 and description.endswith((".", ":")), description


def test_sql_prints_results(tmp_path: Path) -> None:
    database = str(tmp_path / "mine.duckdb")
    done = meld(
        "sql", "--db", database, "CREATE TABLE t AS SELECT 'a b' AS x; FROM t", "--format", "csv"
    )
    assert (done.stdout, done.returncode) == ("x\na b\n", 0)
    done = meld(
        "sql", "--db", database, "SELECT meld_match(x, x) AS same FROM t", "--format", "json"
    )
    assert done.stdout == '{"same": true}\n'


def test_sql_reads_a_file_and_echoes(tmp_path: Path) -> None:
    file = tmp_path / "q.sql"
    file.write_text("SELECT 1 AS one;\nSELECT 2 AS two;")
    done = meld("sql", "--file", str(file), "--echo", "--format", "csv")
    assert "SELECT 1 AS one" in done.stdout and "two\n2\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sql", "SELECT meld_impute({'city': 1}, 'cty')"), "did you mean 'city'"),
        (("sql", "SELEC 1"), "syntax error"),
        (("sql", "--db", "/no/such/directory/x.db", "SELECT 1"), "no such directory"),
        (("models", "pull", "smollm2"), "did you mean 'smollm2-135m-instruct'"),
        (("sql",), "give the statements, or --file"),
        (("sqll",), "No such command 'sqll'"),
    ],
)
def test_errors_are_one_clear_line(arguments: tuple[str, ...], message: str) -> None:
    done = meld(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback() -> None:
    done = meld("--debug", "sql", "SELEC 1")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_shell_reads_a_pipe_and_fails_on_the_first_error() -> None:
    done = meld("shell", stdin="SELECT 41 + 1 AS answer;")
    assert done.returncode == 0 and "42" in done.stdout
    done = meld("shell", stdin="SELECT 1; SELECT nope; SELECT 3 AS three")
    assert done.returncode != 0 and "three" not in done.stdout


def test_config_shows_where_a_setting_came_from(tmp_path: Path) -> None:
    (tmp_path / "meld.toml").write_text("engine_batch = 3\n")
    done = meld("config", "show", "--workspace", str(tmp_path), MELD_DEVICE="cpu")
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["engine_batch"] == ["3", str(tmp_path / "meld.toml")]
    assert lines["device"] == ["cpu", "MELD_DEVICE"]
    (tmp_path / "meld.toml").write_text("enginebatch = 3\n")
    done = meld("config", "show", "--workspace", str(tmp_path))
    assert done.returncode != 0 and "did you mean 'engine_batch'" in done.stderr


def test_doctor_names_what_is_missing_and_the_command_that_mends_it(tmp_path: Path) -> None:
    done = meld("doctor", MELD_MODEL_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "FAIL model smollm2-135m-instruct" in done.stdout
    assert "mend with: meld models pull smollm2-135m-instruct" in done.stdout


def test_a_missing_model_is_named_with_the_command(tmp_path: Path) -> None:
    done = meld(
        "sql",
        "SELECT meld_impute({'a': 'b', 'c': NULL}, 'c', {'tier': 't2'})",
        MELD_MODEL_DIR=str(tmp_path),
    )
    assert done.returncode == 1
    assert "meld models pull smollm2-135m-instruct" in done.stderr


def test_echoed_comments_stand_above_their_own_statement(tmp_path: Path) -> None:
    file = tmp_path / "q.sql"
    file.write_text(
        "-- first\nSELECT 1 AS one;\n\n-- second\nSELECT ';-- no comment' AS two;\n-- end"
    )
    done = meld("sql", "--file", str(file), "--echo", "--format", "csv")
    assert done.stdout == (
        "\n-- first\nSELECT 1 AS one;\none\n1\n"
        "\n-- second\nSELECT ';-- no comment' AS two;\ntwo\n;-- no comment\n"
    )


@pytest.mark.parametrize(
    ("sql", "output", "printed"),
    [
        ("SELECT 1 AS dup, 2 AS dup, 3 AS z", "csv", "dup,dup,z\n1,2,3\n"),
        ("SELECT 1 AS dup, 2 AS dup", "json", '{"dup": 1, "dup_1": 2}\n'),
        ("SELECT 'nan'::DOUBLE AS x, NULL AS y", "json", '{"x": null, "y": null}\n'),
        ("CREATE TEMP TABLE t (a INT); INSERT INTO t VALUES (7) RETURNING a", "csv", "a\n7\n"),
        ("CREATE TEMP TABLE t AS SELECT 1 AS a; UPDATE t SET a = 2; FROM t", "csv", "a\n2\n"),
        ("SELECT '101'::BIT AS b, TIMETZ '10:00:00+02' AS t", "csv", "b,t\n101,10:00:00+02:00\n"),
    ],
)
def test_results_lose_nothing(sql: str, output: str, printed: str) -> None:
    done = meld("sql", "--format", output, sql)
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr


def test_ctrl_c_stops_a_long_statement_soon(tmp_path: Path) -> None:
    statement = (
        "CREATE TABLE t AS SELECT i AS id, 'thing number ' || (i * 7919 % 5000) AS name"
        " FROM range(5000) AS t(i); FROM meld.join('t', 't', k := 20)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "meld_duckdb.cli.main", "sql", statement],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    cache = tmp_path / "workspace" / "cache.sqlite"
    while not cache.exists() or cache.stat().st_size < 4096 + 1:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted; finished answers are kept" in errors
    assert "Traceback" not in errors


def test_the_sql_of_the_readme_runs_as_a_file_and_in_the_shell(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")
    statements = "".join(re.findall(r"```sql\n(.*?)```", readme, re.DOTALL))
    file = tmp_path / "readme.sql"
    file.write_text(statements)
    for done in (
        meld("sql", "--file", str(file), "--echo"),
        meld("shell", stdin=statements),
    ):
        assert done.returncode == 0, done.stderr
        assert "cameras" in done.stdout


def test_a_comment_behind_a_statement_is_no_statement() -> None:
    done = meld("sql", "--echo", "SELECT 1 AS a; -- one\nSELECT 2 AS b -- two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("int32") == 2


@pytest.mark.parametrize("name", ["output", "statement", "click"])
def test_variables_of_the_program_are_no_tables(name: str) -> None:
    done = meld("sql", f"FROM {name}")
    assert done.returncode == 1 and "does not exist" in done.stderr


def test_doctor_names_a_model_that_is_not_there() -> None:
    done = meld("doctor", MELD_MODEL="nosuch")
    assert done.returncode == 1 and "FAIL model nosuch" in done.stdout
