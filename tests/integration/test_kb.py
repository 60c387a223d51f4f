"""``meld kb`` as a user runs it: real processes, one of them killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from tests.integration.test_cli import meld
from tests.unit.test_knowledge_bases import DATA_NOUN

COMMAND = [sys.executable, "-m", "meld_duckdb.cli.main", "kb"]
N_FACTS = 200_000


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.csv"
    path.write_text(
        "Term,relation,object,extra\n"
        "heart attack,alias,0410,x\n"
        "heart attack,includes,silent heart attack,x\n"
        "heart disease,includes,heart attack,x\n"
        ",includes,nothing,x\n"
        "heart disease,includes,heart attack,x\n"
    )
    return path


def test_every_command_has_help() -> None:
    for command in ("add", "load", "list", "remove", "find"):
        done = meld("kb", command, "--help")
        assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr


def test_a_base_from_file_to_removal(facts: Path, tmp_path: Path) -> None:
    done = meld("kb", "add", "heart", str(facts), "--hierarchy", "includes", "--hierarchy", "has")
    assert done.stdout.startswith(
        "heart: 3 facts (3 new, 1 duplicates, 1 rows skipped without a term)"
    ), done.stderr
    assert done.stderr == "meld: no fact has the relation 'has'; known: alias, includes\n"
    [line] = meld("kb", "list", "--json").stdout.splitlines()
    base = json.loads(line)
    assert (base["name"], base["n_facts"]) == ("heart", 3)
    assert base["hierarchy"] == ["includes", "has"] and base["created_from"] == [str(facts)]
    found = meld("kb", "find", "heart", "0410", "-k", "1").stdout.splitlines()
    assert len(found) == 2 and found[1].startswith("name      heart attack")
    with duckdb.connect(str(tmp_path / "d.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS term, 'r' AS relation, 1.0 AS object")
        connection.execute("INSERT INTO t VALUES (NULL, 'r', 2)")
    done = meld("kb", "add", "heart", f"{tmp_path / 'd.duckdb'}:t", "--replace")
    assert "1 facts (1 new, 3 removed, 1 rows skipped without a term)" in done.stdout, done.stderr
    assert "7     r         1" in meld("kb", "find", "heart", "7").stdout
    assert meld("kb", "remove", "heart").stdout == "heart: 1 facts forgotten\n"
    assert len(meld("kb", "list").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "x'; DROP", "f.csv"), "cannot be the name"),
        (("add", "x", "none.csv"), "there is no file"),
        (("add", "x", "two.csv"), "has no column 'relation'"),
        (("add", "x", "late.csv"), "cannot be read"),
        (("add", "x", "empty.csv"), "there is no fact"),
        (("find", "x", "text"), "unknown knowledge base 'x'"),
        (("remove", "x"), "unknown knowledge base 'x'"),
        (("load", "wordnett"), "did you mean 'wordnet'"),
        (("load", "wordnet", "--from", "."), "wordnet-base"),
        (("load", "wordnet", "--from", "two.csv"), "is not the file expected"),
        (("load", "icd10cm", "--from", "two.csv"), "is not the file expected"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.csv").write_text("term,object\na,b\n")
    (tmp_path / "empty.csv").write_text("term,relation,object\n")
    rows = "".join(f"t{i},r,o\n" for i in range(50_000))
    (tmp_path / "late.csv").write_text(f"term,relation,object\n{rows}a,b,c,d,e\n")
    done = meld("kb", *arguments)
    assert done.returncode == 1 and words in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: [MELD-E"), done.stderr
    assert "x " not in meld("kb", "list").stdout


def test_wordnet_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(DATA_NOUN)
    done = meld("kb", "load", "wordnet", "--from", str(tmp_path))
    assert done.stdout.startswith("wordnet: 8 facts (8 new), "), done.stderr
    assert "animal  hyponym   dog" in meld("kb", "find", "wordnet", "living creature").stdout


def test_a_killed_load_is_gone_on_with(tmp_path: Path) -> None:
    source, workspace = tmp_path / "many.parquet", tmp_path / "workspace"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT 'term ' || i AS term, 'includes' AS relation, 'term ' || (i + 1) % "
            f"{N_FACTS} AS object FROM range({N_FACTS}) AS t(i)) TO '{source}'"
        )
    process = subprocess.Popen([*COMMAND, "add", "many", str(source)])
    versions = workspace / "index.lance" / "knowledge.lance" / "_versions"
    deadline = time.monotonic() + 120
    while len(list(versions.glob("*.manifest"))) < 5:
        assert time.monotonic() < deadline and process.poll() is None, "nothing was stored"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert meld("kb", "list", "--json").stdout == ""
    assert "'many' is not complete" in meld("kb", "find", "many", "x").stderr
    done = meld("kb", "add", "many", str(source))
    assert done.stdout.startswith(f"many: {N_FACTS} facts ("), done.stderr
    new, there = (int(part.split()[0]) for part in done.stdout.split("(")[1].split(", ")[:2])
    assert new + there == N_FACTS and there >= 20_000
    [line] = meld("kb", "list", "--json").stdout.splitlines()
    assert json.loads(line)["n_facts"] == N_FACTS
    done = meld("kb", "add", "many", str(source))
    assert f"{N_FACTS} facts (0 new, {N_FACTS} there before)" in done.stdout, done.stderr
    assert meld("kb", "remove", "many").stdout == f"many: {N_FACTS} facts forgotten\n"
