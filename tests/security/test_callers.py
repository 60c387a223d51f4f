"""Callers from afar run no statement unseen; and what is printed steers no terminal."""

from __future__ import annotations

import duckdb
import pytest
from click.testing import CliRunner

from meld_duckdb.cli.main import cli
from meld_duckdb.cli.run import one_line, print_table
from meld_duckdb.remote_sql import Judge, refused_functions
from meld_duckdb.screen import visible
from tests.scripted import ScriptedBackend
from tests.security.attacks import ATTACKS

JUDGE = Judge(refused_functions(["range", "read_text", "quack_serve"]), read_write=True)
UNSEEN = [
    "FROM meld.estimate('FROM quack_serve(''quack:0.0.0.0:1'')')",
    "FROM meld.main.estimate('SELECT 1')",
    'FROM "meld"."EsTimate" (\'SELECT 1\')',
    "FROM meld /* */ . -- x\n estimate\n('SELECT 1')",
    "SELECT __meld_estimate('SELECT 1')",
    "SELECT unnest(\"__meld_estimate\"('SELECT 1'))",
    "CREATE MACRO m(s) AS TABLE FROM meld.estimate(s)",
    "CREATE VIEW v AS FROM meld.estimate('FROM read_text(''/etc/hosts'')')",
    "WITH x AS (FROM meld.estimate('SELECT 1')) FROM x",
]


@pytest.mark.parametrize("sql", UNSEEN)
def test_a_statement_in_a_text_is_not_run_for_a_remote_caller(sql: str) -> None:
    found = JUDGE.judge(sql)
    assert found is None or found.startswith("SELECT error('[MELD-E001] the function")


def test_the_word_alone_is_a_name_like_any_other() -> None:
    for sql in ("SELECT estimate FROM t", "SELECT t.estimate FROM t", "SELECT 'meld.estimate('"):
        assert JUDGE.judge(sql) == sql


def controls(text: str) -> set[str]:
    return {c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"}


def test_control_characters_are_written_out_for_people() -> None:
    for name, text in ATTACKS.items():
        assert controls(visible(text)) == set(), name
    assert visible("a\tb\nä \u202e😀") == "a\tb\nä \u202e😀"
    assert visible("\x1b]0;owned\x07\x9b31m") == "\\x1b]0;owned\\x07\\x9b31m"


def test_tables_errors_and_explanations_are_printed_so(
    capsys: pytest.CaptureFixture[str], backend: ScriptedBackend
) -> None:
    hostile = ATTACKS["controls"]
    print_table((hostile,), [(hostile,)])
    assert controls(capsys.readouterr().out) == set()
    assert controls(one_line(duckdb.Error(hostile))) == set()
    literal = "'" + hostile.replace("\x00", "") + "'"
    query = f"SELECT {{'title': {literal}}} AS a, {{'title': {literal}}} AS b"
    done = CliRunner().invoke(cli, ["explain", "match", query])
    assert done.exit_code == 0 and "]0;match" in done.output
    assert controls(done.output) == set()


@pytest.mark.parametrize(("output", "kept"), [("csv", True), ("json", False)])
def test_a_file_gets_data_as_it_is(output: str, kept: bool, backend: ScriptedBackend) -> None:
    done = CliRunner().invoke(cli, ["sql", "SELECT chr(27) AS x", "--format", output])
    assert done.exit_code == 0, done.output
    assert ("\x1b" in done.output) is kept
    assert kept or "\\u001b" in done.output
