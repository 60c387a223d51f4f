"""A call that was answered before is answered as a whole, until something changes."""

from __future__ import annotations

import subprocess
import sys

import duckdb
import pytest

from meld_duckdb.planner.plan import Planner
from meld_duckdb.settings import resolve
from tests.scripted import ScriptedBackend
from tests.sql.query import one

PAIRS = (
    "SELECT meld_match_detail({'t': 'sony tv ' || i}, {'t': 'tv sony'}) AS d FROM range(50) AS r(i)"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of questions that reach the planner."""
    found: list[int] = []
    answer = Planner.answer

    def counted(self, task, queries, *given):  # type: ignore[no-untyped-def]
        found.append(len(queries))
        return answer(self, task, queries, *given)

    monkeypatch.setattr(Planner, "answer", counted)
    return found


def test_the_same_call_does_no_work(con: duckdb.DuckDBPyConnection, asked: list[int]) -> None:
    first = con.sql(PAIRS).fetchall()
    n_asked = len(asked)
    assert con.sql(PAIRS).fetchall() == first
    assert len(asked) == n_asked
    rows, hits, evaluations = one(
        con, "SELECT sum(rows), sum(cache_hits), sum(evaluations) FROM meld.stats()"
    )
    assert (rows, evaluations) == (100, 50)
    assert hits in (0, 50)  # 0 where both calls count as one statement
    con.sql(PAIRS.replace("range(50)", "range(51)")).fetchall()
    assert len(asked) == n_asked + 1


def test_a_label_changes_the_answer(con: duckdb.DuckDBPyConnection, asked: list[int]) -> None:
    con.sql(PAIRS).fetchall()
    con.sql(
        "SELECT meld_learn('match', {'a': {'t': 'sony tv 7'}, 'b': {'t': 'tv sony'}}, false)"
    ).fetchall()
    found = con.sql(PAIRS).fetchall()
    assert found[7][0]["answer"] is False
    assert found[7][0]["evidence"][0]["kind"] == "label"


def test_a_label_of_another_process_changes_it_too(
    con: duckdb.DuckDBPyConnection, asked: list[int], backend: ScriptedBackend
) -> None:
    con.sql(PAIRS).fetchall()
    n_asked = len(asked)
    workspace = resolve()[0].workspace
    program = (
        "import sys, sqlite3; c = sqlite3.connect(sys.argv[1]);"
        "c.execute(\"INSERT INTO labels (task, query, answer) VALUES ('match', 'x', 'match')\");"
        "c.commit()"
    )
    subprocess.run([sys.executable, "-c", program, str(workspace / "catalogue.sqlite")], check=True)
    with pytest.raises(duckdb.Error, match="lost"):  # it has no query: but it was seen
        con.sql(PAIRS).fetchall()
    assert len(asked) == n_asked + 1


def test_an_indexed_table_changes_it(con: duckdb.DuckDBPyConnection, asked: list[int]) -> None:
    con.sql(PAIRS).fetchall()
    n_asked = len(asked)
    con.execute("CREATE TABLE t AS SELECT 'sony tv ' || i AS t FROM range(50) AS r(i)")
    con.execute("FROM meld.index('t')").fetchall()
    con.sql(PAIRS).fetchall()
    assert len(asked) > n_asked


def test_what_has_no_answer_is_asked_again(
    con: duckdb.DuckDBPyConnection, asked: list[int]
) -> None:
    sql = "SELECT meld_impute({'a': i, 'b': NULL}, 'b') FROM range(3) AS r(i)"
    con.sql(sql).fetchall()
    n_asked = len(asked)
    con.sql(sql).fetchall()
    assert len(asked) == n_asked + 1
    assert one(con, "SELECT sum(failures) FROM meld.stats()") == 6


def test_without_the_cache_nothing_is_remembered(
    backend: ScriptedBackend, asked: list[int]
) -> None:
    import meld_duckdb

    con = meld_duckdb.connect(cache=False)
    con.sql(PAIRS).fetchall()
    n_asked = len(asked)
    con.sql(PAIRS).fetchall()
    assert len(asked) == 2 * n_asked
