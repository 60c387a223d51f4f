"""What a statement will cost where experts of tier 1 and adapters have a part in it."""

from __future__ import annotations

import pytest

import meld_duckdb
from meld_duckdb.planner import session
from meld_duckdb.planner.expert_card import expert_key
from meld_duckdb.records import make_record
from meld_duckdb.register import estimate
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Query
from meld_duckdb.workspace import open_workspace
from tests.scripted import ScriptedBackend
from tests.sql import test_estimate
from tests.sql.test_estimate import counted, told
from tests.sql.test_mixture import add_expert
from tests.unit.test_experts import Opinion, card, workspace_of

untried = test_estimate.untried  # the fixture

TITLES = "{'title': 'canon eos ' || i}, {'title': 'canon eos camera ' || (i + i % 2)}"


@pytest.mark.parametrize("tier", ["t1", "auto"])
def test_experts_of_tier_1_are_counted_and_not_run(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    opinion = Opinion(2.0)
    monkeypatch.setattr(session, "expert_loader", lambda *given: opinion.load)
    workspace = resolve()[0].workspace
    key = expert_key("match", Query((make_record({"title": "x"}), make_record({"title": "y"}))), ())
    open_workspace(workspace)
    workspace_of(workspace, card(key=key, encoder_digest="scripted", low=0.0, high=1.0))
    con = meld_duckdb.connect()
    sql = f"SELECT meld_match({TITLES}, {{'tier': '{tier}'}}) FROM range(20) AS r(i)"
    expected = told(con, sql)
    assert (expected[0][6], expected[0][-1]) == (20, True)
    assert opinion.loaded == 0
    con.execute(sql).fetchall()
    assert counted(con) == expected
    assert len(opinion.asked) == 20
    [line] = [x for x in estimate(con, sql.replace("range(20)", "range(25)")) if x.rows is not None]
    assert line.seconds is not None
    assert len(opinion.asked) == 20
    large = meld_duckdb.connect(model="other-7b")  # what tier 1 says decides if tier 2 is asked
    assert told(large, sql)[0][-1] is (tier == "t1")


def test_prompts_for_adapters_are_counted_and_none_is_merged(
    backend: ScriptedBackend,
) -> None:
    workspace = resolve()[0].workspace
    open_workspace(workspace)
    add_expert(workspace, "cameras", "match | canon eos camera title")
    add_expert(workspace, "wines", "match | chateau margaux wine title", demonstrations=2)
    con = meld_duckdb.connect(experts=2)
    sql = f"SELECT meld_match({TITLES}, {{'tier': 't2'}}) FROM range(9) AS r(i)"
    expected = told(con, sql)
    assert sorted(path.name for path in (workspace / "adapters").iterdir()) == ["cameras", "wines"]
    con.execute(sql).fetchall()
    assert counted(con) == expected
    assert len(backend.asked) == 9
