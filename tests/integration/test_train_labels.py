"""``meld train LABELS``: from files of labels to a trained workspace, on a small encoder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

import meld_duckdb
from meld_duckdb.cli.label_sources import parse_source, read_label_files
from meld_duckdb.cli.main import cli
from meld_duckdb.errors import InputError
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.train.given_labels import held_out_path
from meld_duckdb.train.held_out import HeldOut
from meld_duckdb.train.label_files import check_labels
from meld_duckdb.train.pipeline import RETRIEVAL
from meld_duckdb.train.rows import read_rows
from tests.integration.things import Files, write_files
from tests.unit.tiny_encoder import save_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True)
def on_the_small_encoder(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELD_ENCODER", str(encoder))


@pytest.fixture(scope="module")
def trained(
    encoder: Path, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]], str]:
    """A workspace that was trained from files, what came of every stage, and what was said."""
    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MELD_ENCODER", str(encoder))
        done = train(*files.arguments, "--json", "--workspace", str(workspace))
    assert done.exit_code == 0, done.output
    return workspace, json.loads(done.stdout), done.stderr


def train(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["train", *arguments])


def content(workspace: Path) -> dict[str, str]:
    """Digest of every file of a workspace that says anything: caches and locks are left out."""
    return {
        path.relative_to(workspace).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workspace.rglob("*"))
        if path.is_file()
        and not path.name.startswith("cache.sqlite")
        and path.suffix != ".lock"
        and not path.name.endswith("-shm")
    }


def test_labels_of_files_are_learned_and_all_stages_run(
    trained: tuple[Path, list[dict[str, Any]], str], files: Files
) -> None:
    workspace, stages, said = trained
    names = [stage["stage"] for stage in stages]
    assert names[0] == "labels match" and names[-1] == "valid match"
    assert [name.split()[0] for name in names[1:-1]] == list(RETRIEVAL)
    assert stages[0] == {"stage": "labels match", "learned": 21, "test": 2, "valid": 3}
    assert stages[-1]["rows"] == 3 and stages[-1]["F1"] == 1.0
    assert "rows indexed as files0/left" in said and "[1/6] annotate match: started" in said
    session = LocalService(resolve({"workspace": workspace})[0]).session
    tables = {t.name: t.n_rows for t in session.catalogue.tables()}
    assert tables == {f"{files.folder.name}/left": 18, f"{files.folder.name}/right": 18}
    labels = session.demonstrator.labelled("match")
    assert len(labels) == 21
    assert all(session.tables.find([d.query])[0] for d in labels), "labels stand in the tables"


def test_test_and_validation_rows_enter_no_stage(
    trained: tuple[Path, list[dict[str, Any]], str], files: Files
) -> None:
    workspace, _, _ = trained
    session = LocalService(resolve({"workspace": workspace})[0]).session
    held = HeldOut.read(held_out_path(session.workspace))
    given = read_label_files(
        [str(files.labels)], [], ["match"], ([str(files.left)], [str(files.right)]), ("id", "id")
    )
    [checked] = check_labels(given)
    kept_away = [query for query, _ in (*checked.test, *checked.valid)]
    assert len(kept_away) == 5 and all(held.covers(query) for query in kept_away)
    rows = [row for file in (workspace / "train").glob("*.jsonl") for row in read_rows(file)]
    assert rows and not any(held.covers(row.query) for row in rows)
    known = session.demonstrator.labels("match")
    assert not any(query.digest in known for query in kept_away)


def test_the_same_files_again_change_nothing(
    trained: tuple[Path, list[dict[str, Any]], str], files: Files
) -> None:
    workspace, _, _ = trained
    before = content(workspace)
    done = train(*files.arguments, "--workspace", str(workspace))
    assert done.exit_code == 0 and done.stderr.count("skipped") == 6
    assert "labels match: 0 learned" in done.stderr and "indexed" not in done.stderr
    assert content(workspace) == before


def test_a_later_run_says_how_long_it_takes_by_what_the_first_one_took(
    trained: tuple[Path, list[dict[str, Any]], str], tmp_path: Path, files: Files
) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(trained[0], workspace)
    manifest = json.loads((workspace / "manifest.json").read_text())
    for number, record in enumerate(manifest["stages"].values()):
        record["seconds"] = 60.0 * number
        if number == len(manifest["stages"]) - 1:
            record["key"] = "other inputs"
    (workspace / "manifest.json").write_text(json.dumps(manifest))
    done = train(*files.arguments, "--workspace", str(workspace))
    assert "[6/6] expert match: started, about 5 min 0 s left in all" in done.stderr


Write = Callable[[Path], Sequence[str]]


def csv(text: str, *more: str, task: str = "match") -> Write:
    """Labels in a CSV file, and further arguments."""

    def write(folder: Path) -> Sequence[str]:
        (folder / "bad.csv").write_text(text)
        return (str(folder / "bad.csv"), "--task", task, *more)

    return write


def named(name: str, text: str = "") -> Write:
    def write(folder: Path) -> Sequence[str]:
        (folder / name).write_text(text)
        return (str(folder / name), "--task", "match")

    return write


def lines(n: int, answer: str = "1", start: int = 0) -> str:
    return "".join(f"thing {i},other {i},{answer}\n" for i in range(start, start + n))


BAD: dict[str, tuple[Write, str]] = {
    "a column is missing": (csv("x,y,label\n1,2,1\n"), "it has the columns x, y, label"),
    "no answers": (csv("a,b\n1,2\n"), "lacks the answer: a column answer or label"),
    "unknown kind": (named("labels.xlsx"), "is of no kind that can be read: .xlsx"),
    "not what its name says": (named("labels.parquet", "text"), "cannot be read: "),
    "no rows": (csv("a,b,label\n"), "it has no rows"),
    "no such file": (lambda folder: ("none.csv", "--task", "match"), "there is no file none.csv"),
    "no task": (lambda folder: csv("a,b,label\n")(folder)[:1], "the task of .* is not clear"),
    "unknown task": (lambda folder: ("mach=x.csv",), "did you mean 'match'"),
    "odd answers": (csv("a,b,label\nx,y,maybe\n"), "none of match: 'maybe'"),
    "odd split": (csv("a,b,label,split\nx,y,1,gold\n"), "'gold', expected train, valid or test"),
    "only NULL": (csv("a,b,label\nx,y,\nz,,1\n"), "a part of the question is NULL"),
    "contradictions": (csv("a,b,label\n" + lines(9) + lines(9, "0")), "contradict one another"),
    "ids without tables": (
        csv("ltable_id,rtable_id,label\n1,1,1\n"),
        "tables were not given. Hint: give them: --left FILE --right FILE",
    ),
    "ids that are not there": (
        csv("ltable_id,rtable_id,label\n91,92,1\n", "--left", "LEFT", "--right", "RIGHT"),
        "of 1, their ids are not in the tables, such as ltable_id '91' and rtable_id '92'",
    ),
    "a key that is none": (
        csv("ltable_id,rtable_id,label\n1,1,1\n", "--left", "LEFT", "--right", "RIGHT",
            "--left-key", "sku"),
        "has no key to look ids up by: unknown column 'sku'",
    ),
    "tables without ids": (
        csv("a,b,label\n" + lines(12), "--left", "LEFT", "--right", "RIGHT"),
        "no file of labels names records by id",
    ),
    "too few, of a task without labels": (
        csv("row,column,label\n" + "x,text,y\n" * 3, task="impute"),
        "1 labels of impute to learn from, at least 10 are needed",
    ),
    "one kind, of a task without labels": (
        csv("a,b,label\n" + lines(12, "0"), task="schema_match"),
        "all 12 labels of schema_match say 'mismatch', none 'match'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_leaves_the_workspace_as_it_was(
    trained: tuple[Path, list[dict[str, Any]], str], files: Files, tmp_path: Path, kind: str
) -> None:
    write, message = BAD[kind]
    given = [
        {"LEFT": str(files.left), "RIGHT": str(files.right)}.get(text, text)
        for text in write(tmp_path)
    ]
    before = content(trained[0])
    done = train(*given, "--workspace", str(trained[0]))
    assert done.exit_code != 0
    with pytest.raises(type(done.exception), match=message):  # type: ignore[arg-type]
        raise done.exception  # type: ignore[misc]
    assert content(trained[0]) == before
    new = tmp_path / "new"
    assert train(*given, "--workspace", str(new)).exit_code != 0
    assert not new.exists(), "a workspace was made for labels that are refused"


def test_what_is_left_out_is_told(files: Files, tmp_path: Path) -> None:
    """Ids that are not there, repetitions, contradictions and NULLs, beside good labels."""
    text = files.labels.read_text()
    header, first, *_ = text.splitlines()
    flipped = first.rsplit(",", 2)[0] + ",0,train" if first.split(",")[2] == "1" else first
    bad = tmp_path / "bad.csv"
    bad.write_text(f"{text}99,1,1,train\n1,98,0,train\n0,2,,train\n{first}\n{flipped}\n")
    arguments = [str(bad) if a == str(files.labels) else a for a in files.arguments]
    given = read_label_files(arguments[:1], [], ["match"], ([arguments[4]], [arguments[6]]), ("id", "id"))  # fmt: skip
    assert header == "ltable_id,rtable_id,label,split"
    [checked] = check_labels(given)
    warned = "\n".join(checked.warnings)
    assert "1 rows left out: the answer or a part of the question is NULL" in warned
    assert (
        "2 rows left out: their ids are not in the tables, such as ltable_id '99'; rtable" in warned
    )
    assert "3 rows left out: they contradict one another (questions: 1)" in warned
    assert len(checked.learn) == 20


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "duckdb"])
def test_every_kind_of_file_gives_the_same_labels(kind: str, tmp_path: Path) -> None:
    query = (
        "SELECT {'id': i, 'price': i + 0.5, 'title': 'thing ' || i} AS a, 'other ' || i AS b, "
        "i % 2 = 0 AS answer FROM range(6) AS t(i)"
    )
    given = str(tmp_path / f"labels.{kind}")
    with duckdb.connect(given if kind == "duckdb" else ":memory:") as con:
        if kind == "duckdb":
            con.execute(f"CREATE VIEW labels AS {query}")
            given += ":labels"
        else:
            asked = query.replace("AS a", "::JSON AS a") if kind == "csv" else query
            con.execute(f"COPY ({asked}) TO '{given}'")
    [checked] = check_labels(read_label_files([f"match={given}"], [], [], ([], []), ("id", "id")))
    con = meld_duckdb.connect()
    con.execute(f"SELECT meld_learn('match', {{'a': a, 'b': b}}, answer) FROM ({query})").fetchall()
    session = LocalService(resolve()[0]).session
    learned = session.demonstrator.labels("match")
    assert {query.digest: answer for query, answer in checked.learn} == learned
    con.close()


def test_several_tasks_and_test_files_at_once(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,label\n" + lines(3))
    (tmp_path / "test.csv").write_text("a,b,label\n" + lines(2, start=2))
    (tmp_path / "cells.csv").write_text("row,col,answer\nsome text,text,value\n")
    given = read_label_files(
        [str(tmp_path / "pairs.csv"), f"impute={tmp_path / 'cells.csv'}"],
        [str(tmp_path / "test.csv")],
        ["match"],
        ([], []),
        ("id", "id"),
    )
    pairs, cells = check_labels(given)
    assert (pairs.task, len(pairs.learn), len(pairs.test)) == ("match", 2, 2)
    assert (cells.task, len(cells.learn)) == ("impute", 1)


def test_a_table_of_a_duckdb_file_is_named() -> None:
    with pytest.raises(InputError, match="there is no file"):
        parse_source("none.duckdb:labels")


def test_a_database_without_a_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    duckdb.connect(str(path)).close()
    with pytest.raises(InputError, match=r"x\.duckdb:TABLE"):
        parse_source(str(path))
    with pytest.raises(InputError, match="Table with name labels does not exist"):
        read_label_files([f"match={path}:labels"], [], [], ([], []), ("id", "id"))
