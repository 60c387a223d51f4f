"""Budgets hold through the engine: those of a call, and those of a client's settings."""

from __future__ import annotations

from pathlib import Path

import meld_duckdb
from meld_duckdb.register import begin_statement
from tests.daemon.conftest import Start

ASKED = (
    "SELECT count(meld_match({'t': 'sony ' || i}, {'t': 'tv'}, {'tier': 't2'%s})) "
    "FROM range(10) AS r(i)"
)


def test_a_budget_holds_in_the_engine_and_is_each_clients_own(start: Start, tmp_path: Path) -> None:
    start(workspace=tmp_path)
    con = meld_duckdb.connect(workspace=tmp_path, engine="required", max_calls=3)
    for n_answered in (3, 6, 8):
        begin_statement(con)
        option = ", 'max_calls': 2" if n_answered == 8 else ""
        assert con.execute(ASKED % option).fetchall() == [(n_answered,)]
    [(code, n)] = con.execute(
        'SELECT code, sum("count") FROM meld.errors() GROUP BY ALL'
    ).fetchall()
    assert (code, n) == ("over_budget", 7 + 4 + 2)
    other = meld_duckdb.connect(workspace=tmp_path, engine="required")
    assert other.execute(ASKED % "").fetchall() == [(10,)]
