"""Answers with a guarantee: what is asked, what is kept, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import ScriptedBackend, first_choice
from tests.sql.query import one

SAYING = "SELECT certified, target, delta, oracle FROM meld.certificates()"
PAIRS = "SELECT l_id, r_id FROM meld.join('l', 'r', {}) ORDER BY ALL"
ALL_PAIRS = "SELECT count(*) FROM meld.join('l', 'r', threshold := 0.0)"


def truth(prompt: Prompt) -> Completion:
    """Say yes where the two numbers after "part" are the same."""
    first, second, *_ = re.findall(r"part (\d+)", prompt.question)
    yes = first == second
    return Completion(
        prompt.choices[0 if yes else 1], (0.9, 0.1) if yes else (0.1, 0.9), 0.9, prompt_tokens=10
    )


@pytest.fixture
def parts(con: duckdb.DuckDBPyConnection, backend: ScriptedBackend) -> duckdb.DuckDBPyConnection:
    """Two tables of 80 rows: most pairs are easy, those of the same colour and size are not."""
    backend.script = truth
    for name, end in (("l", "steel"), ("r", "steel grade a")):
        con.execute(f"""CREATE TABLE {name} AS
            SELECT i AS id, 'part ' || (1000 + i * 37) || ' ' || ['bolt', 'nut', 'washer', 'rod'][1 + i % 4]
                   || ' {end} ' || ['red', 'blue', 'green'][1 + i % 3] AS title
            FROM range(80) AS t(i)""")
    return con


def index_both(con: duckdb.DuckDBPyConnection) -> None:
    for name in ("l", "r"):
        con.execute(f"FROM meld.index('{name}', embed := false)").fetchall()


def test_a_join_reaches_its_accuracy_with_few_questions(
    parts: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    n_pairs = one(parts, ALL_PAIRS)
    found = parts.execute(PAIRS.format("accuracy := 0.9")).fetchall()
    n_asked = len(backend.asked)
    assert 20 <= n_asked < n_pairs / 4
    wrong = sum(a != b for a, b in found) + 80 - sum(a == b for a, b in found)
    assert wrong <= 0.1 * n_pairs
    assert parts.execute(SAYING).fetchall() == [(True, 0.9, 0.05, "language model")]
    rows, sample, escalated = one(
        parts, 'SELECT "rows", sample, escalated FROM meld.certificates()'
    )
    assert (rows, sample + escalated) == (n_pairs, n_asked)
    assert parts.execute(PAIRS.format("accuracy := 0.9")).fetchall() == found
    assert len(backend.asked) == n_asked


def test_precision_and_recall_hold_together(
    parts: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    found = parts.execute(PAIRS.format('"precision" := 0.9, recall := 0.8')).fetchall()
    right = sum(a == b for a, b in found)
    assert right / len(found) >= 0.9
    assert right / 80 >= 0.8
    goals = parts.execute("SELECT goal, target FROM meld.certificates() ORDER BY ALL").fetchall()
    assert goals == [("precision", 0.9), ("recall", 0.8)]
    assert parts.execute(PAIRS.format('"precision" := 0.9, recall := 0.8')).fetchall() == found


def test_a_plain_function_uses_the_certificate_of_its_tables(
    parts: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    index_both(parts)
    made = parts.execute(
        "SELECT goal, certified, to_label, tables FROM meld.certify('match', 'l', 'r', accuracy := 0.9)"
    ).fetchall()
    assert made == [("accuracy", True, [], made[0][3])]
    assert sorted(made[0][3]) == ["l", "r"]
    n_asked = len(backend.asked)
    joined = parts.execute(PAIRS.format("accuracy := 0.9")).fetchall()
    parts.execute("CREATE TABLE c AS SELECT l_id, r_id FROM meld.join('l', 'r', threshold := 0.0)")
    candidates = "c JOIN l ON l.id = c.l_id JOIN r ON r.id = c.r_id"
    plain = parts.execute(
        f"SELECT l.id, r.id FROM {candidates} WHERE meld.match(l, r, accuracy := 0.85) ORDER BY ALL"
    ).fetchall()
    assert plain == joined
    assert len(backend.asked) == n_asked
    n_by_oracle = one(
        parts,
        "SELECT count(*) FROM (SELECT meld_match_detail(l, r, {'accuracy': 0.9}) AS d "
        f"FROM {candidates}) WHERE d.tier = 2 AND d.evidence[1].kind = 'oracle'",
    )
    assert n_by_oracle == n_asked


def test_without_its_certificate_a_plain_function_refuses(
    parts: duckdb.DuckDBPyConnection,
) -> None:
    ask = "SELECT meld_match(l, r, {'accuracy': %s}) FROM l, r WHERE l.id = r.id"
    index_both(parts)
    with pytest.raises(
        duckdb.Error, match=r"no certificate.*meld\.certify\('match', 'l', 'r', acc"
    ):
        parts.execute(ask % 0.9).fetchall()
    parts.execute("FROM meld.certify('match', 'l', 'r', accuracy := 0.9)").fetchall()
    assert len(parts.execute(ask % 0.9).fetchall()) == 80
    for stricter in ("0.95", "0.9, 'delta': 0.01", "0.9, 'threshold': 0.7"):
        with pytest.raises(duckdb.Error, match="no certificate"):
            parts.execute(ask % stricter).fetchall()
    parts.execute(
        "SELECT meld_learn('match', {'a': l, 'b': r}, true) FROM l, r WHERE l.id = 0 AND r.id = 0"
    ).fetchall()
    with pytest.raises(duckdb.Error, match="have changed since"):
        parts.execute(ask % 0.9).fetchall()


def test_a_row_of_other_tables_has_no_answer_and_harms_no_other(
    parts: duckdb.DuckDBPyConnection,
) -> None:
    index_both(parts)
    parts.execute("FROM meld.certify('match', 'l', 'r', accuracy := 0.9)").fetchall()
    details = parts.execute(
        "SELECT meld_match_detail(a, {'id': 1, 'title': b}, {'accuracy': 0.9}) FROM (VALUES "
        "((SELECT l FROM l WHERE id = 1), (SELECT title FROM r WHERE id = 1)), "
        "((SELECT l FROM l WHERE id = 1), 'a row of no table')) AS t(a, b)"
    ).fetchall()
    assert [d["error"] is None for (d,) in details] == [True, False]
    assert details[1][0]["error"].startswith("not_certified")


def test_what_cannot_be_certified_is_refused_with_what_could_be(
    parts: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(
        duckdb.Error,
        match=r"0\.99 .*label_budget = 60: 60 answers show 0\.\d\d.*a target of 0\.\d\d",
    ):
        parts.execute(PAIRS.format("accuracy := 0.99, label_budget := 60")).fetchall()
    assert parts.execute(SAYING).fetchall() == []
    with pytest.raises(duckdb.Error, match="max_calls = 30 are used up"):
        parts.execute(PAIRS.format("accuracy := 0.9, max_calls := 30")).fetchall()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("accuracy := 1.0", "cannot be certified"),
        ("recall := 0.0", "above 0"),
        ("delta := 0.1", "without a target"),
        ("label_budget := 100", "without a target"),
        ("accuracy := 0.9, recall := 0.9", "together with another target"),
        ("accuracy := 0.9, tier := 't2'", "nothing to guarantee"),
        ("accuracy := 0.9, delta := 0.0", "above 0 and below 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    parts: duckdb.DuckDBPyConnection, options: str, message: str
) -> None:
    with pytest.raises(duckdb.Error, match=message):
        parts.execute(PAIRS.format(options)).fetchall()


def test_labels_of_the_user_are_asked_for_and_then_certify(
    parts: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    index_both(parts)
    parts.execute("CREATE TABLE gold (l_id INTEGER, r_id INTEGER, answer BOOLEAN)")
    certify = "FROM meld.certify('match', 'l', 'r', accuracy := 0.9, labels := 'gold')"
    for _ in range(60):
        [line] = parts.execute(f"SELECT certified, to_label {certify}").fetchall()
        if line[0]:
            break
        assert parts.execute(SAYING).fetchall() == []
        assert line[1]
        parts.executemany(
            "INSERT INTO gold VALUES (?, ?, ?)",
            [(x["l_id"], x["r_id"], x["l_id"] == x["r_id"]) for x in line[1]],
        )
    assert line[0]
    assert backend.asked == []
    n_given = one(parts, "SELECT count(*) FROM gold")
    assert one(parts, "SELECT sample + escalated FROM meld.certificates()") == n_given
    found = parts.execute(
        "SELECT l.id = r.id, meld_match(l, r, {'accuracy': 0.9}) FROM l, r "
        "JOIN gold AS g ON g.r_id = r.id WHERE g.l_id = l.id"
    ).fetchall()
    assert len(found) == n_given
    assert all(is_same == answer for is_same, answer in found)


def test_labels_with_other_columns_are_refused(parts: duckdb.DuckDBPyConnection) -> None:
    parts.execute("CREATE TABLE gold AS SELECT 1 AS a, 2 AS b")
    with pytest.raises(duckdb.Error, match="l_id, r_id, answer"):
        parts.execute(
            "FROM meld.certify('match', 'l', 'r', accuracy := 0.9, labels := 'gold')"
        ).fetchall()


def test_a_row_that_the_oracle_cannot_answer_is_null_and_counts_as_wrong(
    parts: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    def failing(prompt: Prompt) -> Completion:
        broken = "part 1000 " in prompt.question
        return Completion(None, error="broken: on purpose") if broken else truth(prompt)

    backend.script = failing
    index_both(parts)
    parts.execute("FROM meld.certify('match', 'l', 'r', accuracy := 0.9)").fetchall()
    errors = parts.execute(
        "SELECT d.error, d.answer FROM (SELECT meld_match_detail(l, r, {'accuracy': 0.9}) AS d"
        " FROM l, r WHERE abs(l.id - r.id) < 9) WHERE d.error IS NOT NULL"
    ).fetchall()
    assert all(error.startswith("no_answer") and answer is None for error, answer in errors)
    assert one(parts, "SELECT count(*) FROM meld.certificates()") == 1


def test_cells_and_columns_have_guarantees_too(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    backend.script = first_choice
    con.execute("""CREATE TABLE people AS SELECT i AS id,
        CASE WHEN i % 29 = 4 THEN 'Hambxrg' WHEN i % 3 = 0 THEN 'Berlin' ELSE 'Munich' END AS city,
        CASE WHEN i % 3 = 0 THEN '10115' ELSE '80331' END AS zip FROM range(120) AS t(i)""")
    con.execute("FROM meld.index('people', embed := false)").fetchall()
    line = con.execute(
        "SELECT task, certified, \"rows\" FROM meld.certify('detect_error', 'people', accuracy := 0.8)"
    ).fetchall()
    assert line == [("detect_error", True, 240)]
    cells = con.execute("SELECT id, \"column\" FROM meld.find_errors('people', accuracy := 0.8)")
    wrong = set(cells.fetchall())
    assert len(wrong) >= 0.8 * 240  # the scripted model calls every cell an error
    for column in ("city", "zip"):
        plain = con.execute(
            f"SELECT id FROM people AS p WHERE meld.detect_error(p, '{column}', accuracy := 0.8)"
        ).fetchall()
        assert {(i, column) for (i,) in plain} == {cell for cell in wrong if cell[1] == column}
    matched = con.execute(
        "SELECT count(*) FROM meld.match_schemas('people', 'people', accuracy := 0.8, k := 3)"
    ).fetchall()
    assert matched == [(6,)]
    tasks = con.execute("SELECT DISTINCT task FROM meld.certificates() ORDER BY 1").fetchall()
    assert tasks == [("detect_error",), ("schema_match",)]


def test_tasks_that_cannot_be_certified_are_named(parts: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match=r"unknown task.*repair.*match, detect_error"):
        parts.execute("FROM meld.certify('repair', 'l', accuracy := 0.9)").fetchall()
    with pytest.raises(duckdb.Error, match="without a target"):
        parts.execute("FROM meld.certify('match', 'l')").fetchall()
    with pytest.raises(duckdb.Error, match="unknown option 'accuracy'"):
        parts.execute("SELECT meld_impute(l, 'title', {'accuracy': 0.9}) FROM l").fetchall()


def test_a_certificate_that_was_changed_is_refused_by_name(
    parts: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    parts.execute(PAIRS.format("accuracy := 0.9")).fetchall()
    [path] = (tmp_path / "workspace" / "calibration" / "certificates").glob("*.json")
    path.write_text(path.read_text("utf-8").replace('"target": 0.9', '"target": 0.99'), "utf-8")
    with pytest.raises(duckdb.Error, match=rf"{path.name}.*no certificate"):
        meld_duckdb.connect(max_pairs=12345).execute("FROM meld.certificates()").fetchall()
