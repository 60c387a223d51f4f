"""What is read from files and calls: taken, or refused with an error of this product."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click
import duckdb
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meld_duckdb.cli.label_sources import read_label_files
from meld_duckdb.cli.main import cli
from meld_duckdb.errors import ConfigError, MeldError
from meld_duckdb.planner.cache import AnswerCache, _decode, _encode
from meld_duckdb.planner.options import ALLOWED
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.schema import decode_query, decode_record, encode_query, encode_record
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.tasks.base import Answer, Evidence, Query
from meld_duckdb.train.label_files import check_labels
from meld_duckdb.workspace import Workspace, open_workspace, read_manifest
from tests.fuzz.tables import TEXT

MANY = settings(max_examples=150, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=40, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=15, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
LINES = st.lists(
    st.lists(TEXT | st.sampled_from(["1", "0", "match", "a", "x,y"]), min_size=1, max_size=5).map(
        ",".join
    ),
    max_size=5,
).map("\n".join)


def csv_files(*headers: str) -> st.SearchStrategy[bytes]:
    """Bytes of a file: any, or lines below one of some headers."""
    lines = st.builds(lambda h, rest: f"{h}\n{rest}".encode(), st.sampled_from(headers), LINES)
    return st.binary(max_size=80) | lines


# Settings


@given(
    content=st.binary(max_size=60) | TEXT.map(str.encode) | JSON.map(lambda x: f"a = {x}".encode())
)
@MANY
def test_any_file_of_settings_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meld.toml").write_bytes(content)
    with contextlib.suppress(ConfigError):
        resolve({"workspace": tmp_path}, {})


_NAMES = [name for name in Settings.__dataclass_fields__ if name not in {"workspace", "answer"}]
_VALUES = (
    TEXT
    | st.integers().map(str)
    | st.sampled_from(
        ["\u00b2", "\u0663", "1_000", "+1", " 1", "true", "none", "http://[", "9" * 5000]
    )
    | st.floats().map(str)
)


@given(name=st.sampled_from(_NAMES), value=_VALUES)
@MANY
def test_any_value_of_a_setting_is_taken_or_refused_with_its_name(
    tmp_path: Path, name: str, value: str
) -> None:
    """From the environment, and the same from a file."""
    workspace = str(tmp_path / "w")
    try:
        found, _ = resolve({}, {f"MELD_{name.upper()}": value, "MELD_WORKSPACE": workspace})
    except ConfigError as error:
        assert name in str(error) or repr(value)[1:-1] in str(error)
        return
    again, _ = resolve({name: value, "workspace": workspace}, {})
    assert again == found


# Options


_OPTION = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.sampled_from(["t0", "t1", "auto", "fail", "null", "", "0.5", "none", "choose"])
    | st.lists(st.sampled_from(["a", "", "b"]), max_size=3)
    | st.just({"x": 1})
)


@pytest.mark.parametrize("task", ["match", "impute", "schema_match"])
@given(data=st.data())
@SOME
def test_any_options_are_taken_or_refused(
    con: duckdb.DuckDBPyConnection, task: str, data: st.DataObject
) -> None:
    names = st.sampled_from([*sorted(ALLOWED[task]), "thresold"])
    options = data.draw(st.dictionaries(names, _OPTION, min_size=1, max_size=3))
    arguments = {
        "match": "'a b', 'b a'",
        "impute": "{'a': 'x', 'b': NULL}, 'b'",
        "schema_match": "{'column': 'a'}, {'column': 'b'}",
    }
    try:
        rows = con.execute(f"SELECT meld_{task}_detail({arguments[task]}, ?)", [options]).fetchall()
    except duckdb.Error as error:
        assert "[MELD-E00" in str(error) or "Python exception" not in str(error), error
    else:
        assert len(rows) == 1


# Labels


_LABELS = csv_files(
    "a,b,label",
    "ltable_id,rtable_id,label",
    "row,column,value,split",
    "left_name,right_name,label",
    "id,column,answer",
)


@given(content=_LABELS, task=st.sampled_from(["match", "impute", "detect_error", "link_entity"]))
@SOME
def test_any_file_of_labels_is_read_or_refused(tmp_path: Path, content: bytes, task: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with contextlib.suppress(MeldError):
        checked = check_labels(read_label_files([str(file)], [], [task], ([], []), ("id", "id")))
        for found in checked:
            digests = [query.digest for query, _ in found.learn]
            assert len(digests) == len(set(digests))


_GIVEN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["a", "", "match", "c"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["a", "b", "row", "column", "c"]), inner, min_size=1, max_size=3
        )
    ),
    max_leaves=5,
)


@given(
    task=st.sampled_from(["match", "impute", "detect_error", "annotate_column", "x"]),
    query=_GIVEN,
    answer=_GIVEN,
)
@FEW
def test_any_label_is_learned_or_refused(
    con: duckdb.DuckDBPyConnection, task: str, query: object, answer: object
) -> None:
    try:
        [(stored,)] = con.execute("SELECT meld_learn(?, ?, ?)", [task, query, answer]).fetchall()
    except duckdb.Error as error:
        assert "[MELD-E00" in str(error) or "Python exception" not in str(error), error
    else:
        assert stored in (True, None)


# Files of commands


def run(*arguments: str) -> None:
    """Run a command, which may refuse what it is given."""
    found = CliRunner().invoke(cli, list(arguments), standalone_mode=False)
    if found.exception is not None and not isinstance(
        found.exception, MeldError | click.ClickException | SystemExit
    ):
        raise found.exception


@given(content=csv_files("ord,condition,then,else", "condition,then", "ord,condition,then,check"))
@SOME
def test_any_file_of_rules_is_added_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rules.csv"
    file.write_bytes(content)
    given_ = ["--task", "schema_match", "--workspace", str(tmp_path / "w")]
    run("kcmf", "rules", "add", "x", str(file), "--replace", *given_)
    run("kcmf", "rules", "list", "--workspace", str(tmp_path / "w"))


@given(content=JSON.map(json.dumps).map(str.encode) | st.binary(max_size=40))
@SOME
def test_any_stored_rules_are_listed_and_shown_or_refused(tmp_path: Path, content: bytes) -> None:
    folder = open_workspace(tmp_path / "w").rules_path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.schema_match.json").write_bytes(content)
    where = ["--workspace", str(tmp_path / "w")]
    listed = CliRunner().invoke(cli, ["kcmf", "rules", "list", *where])
    assert listed.exit_code == 0 and "x" in listed.output
    run("kcmf", "rules", "show", "x", *where)


@given(content=csv_files("term,relation,object", "term,relation,object,text", "term,object"))
@FEW
def test_any_file_of_facts_is_added_or_refused(
    backend: object, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "facts.csv"
    file.write_bytes(content)
    where = ["--workspace", str(tmp_path / "w")]
    run("kb", "add", "x", str(file), "--replace", *where)
    run("kb", "find", "x", "a", *where)


@given(content=JSON.map(json.dumps).map(str.encode) | st.binary(max_size=40))
@MANY
def test_any_manifest_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    workspace = Workspace(tmp_path)
    workspace.manifest_path.write_bytes(content)
    with contextlib.suppress(MeldError):
        assert isinstance(read_manifest(workspace)["schema_version"], int)


# Round trips


RECORDS: st.SearchStrategy[Record] = st.dictionaries(
    TEXT, st.none() | TEXT, min_size=1, max_size=4
).map(make_record)
QUERIES = st.builds(
    Query,
    st.lists(RECORDS, min_size=1, max_size=2).map(tuple),
    st.none() | TEXT,
    domain=st.none() | st.lists(TEXT, min_size=1, max_size=3, unique=True).map(tuple),
)
SHARES = st.none() | st.floats(0, 1)
ANSWERS = st.builds(
    Answer,
    st.none() | TEXT,
    SHARES,
    st.none() | st.integers(0, 2),
    st.lists(st.builds(Evidence, TEXT, TEXT, st.floats(-9, 9)), max_size=2).map(tuple),
    st.lists(TEXT, max_size=2).map(tuple),
    st.none() | TEXT,
    ranking=st.lists(st.tuples(TEXT, st.floats(0, 1)), max_size=2).map(tuple),
)


@given(record=RECORDS, query=QUERIES)
@MANY
def test_what_is_stored_comes_back(record: Record, query: Query) -> None:
    back = decode_record(encode_record(record))
    assert (back, list(back.fields.items())) == (record, list(record.fields.items()))
    again = decode_query(encode_query(query))
    assert again == query and again.digest == query.digest


@given(answer=ANSWERS, at=st.integers(0, 10_000), flip=st.integers(1, 255))
@MANY
def test_a_stored_answer_comes_back_or_counts_as_not_stored(
    answer: Answer, at: int, flip: int
) -> None:
    text = _encode(answer, "match")
    assert _decode(text) == answer
    content = bytearray(text.encode())
    content[at % len(content)] ^= flip
    assert _decode(content.decode("utf-8", "replace")) in (None, answer)


@given(answers=st.lists(ANSWERS, max_size=4))
@FEW
def test_answers_go_through_the_file(tmp_path: Path, answers: list[Answer]) -> None:
    stored = {str(i): answer for i, answer in enumerate(answers)}
    cache = AnswerCache(tmp_path / "cache.sqlite")
    cache.put(stored, "match")
    assert cache.get(stored) == stored
    assert cache.summary(10) is not None
