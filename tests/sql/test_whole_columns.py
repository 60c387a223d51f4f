"""What is asked, and what is held, when a function answers a whole column."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import duckdb
import pytest

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.planner.batch import Batch
from meld_duckdb.planner.plan import PART
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import ScriptedBackend, first_choice
from tests.sql.query import one


@pytest.fixture
def sizes(backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each call of the engine got."""
    found: list[int] = []
    complete = ScriptedBackend.complete

    def counted(
        self: ScriptedBackend, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        found.append(len(prompts))
        return complete(self, prompts, adapter)

    monkeypatch.setattr(ScriptedBackend, "complete", counted)
    return found


def names(con: duckdb.DuckDBPyConnection, n: int, distinct: int) -> None:
    con.execute(f"""CREATE TABLE t AS SELECT range AS id, 'thing ' || range % {distinct} AS name,
        'colour ' || range % 3 AS colour FROM range({n})""")


def test_rows_that_differ_in_their_keys_alone_are_asked_about_once(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    names(con, 60, 6)
    found = con.sql("SELECT meld_match(a, b, {'tier': 't2'}) FROM t a JOIN t b ON b.id = a.id + 1")
    assert found.fetchall() == [(True,)] * 59
    assert len(backend.asked) == len(set(backend.asked)) <= 12
    prompts = one(con, "SELECT engine_prompts FROM meld.stats()")
    assert prompts == len(backend.asked)


def test_a_row_that_shares_a_failed_prompt_fails_too(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    def script(prompt: Prompt) -> Completion:
        if "thing 1" in prompt.question:
            return Completion(None, error="broken: it is")
        return first_choice(prompt)

    backend.script = script
    con.execute("CREATE TABLE t AS SELECT range AS id, 'thing ' || range % 2 AS name FROM range(6)")
    found = con.sql("SELECT meld_match_detail(t, 'x', {'tier': 't2'}).error FROM t ORDER BY id")
    assert [bool(error) for (error,) in found.fetchall()] == [False, True] * 3
    assert len(backend.asked) == len(set(backend.asked)) <= 4  # two rows, in two orders


def test_table_functions_ask_about_equal_pairs_once(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    con.execute("CREATE TABLE t AS SELECT 'thing ' || range % 4 AS name FROM range(40)")
    con.execute("CREATE VIEW v AS SELECT rowid AS n, name FROM t")
    con.execute("CREATE VIEW plain AS SELECT name, name AS id FROM t")
    rows = con.sql("FROM meld.join('plain', 'plain', k := 39, tier := 't2', threshold := 0.0)")
    assert len(rows.fetchall()) > 1000
    [(n_rows, n_distinct, evaluations)] = con.sql(
        "SELECT rows, distinct_inputs, evaluations FROM meld.stats() WHERE function = 'meld.join'"
    ).fetchall()
    assert n_rows > 1000 and n_distinct == evaluations == 10  # 4 + 6 unordered pairs of names
    assert len(backend.asked) == 10


def test_prompts_are_made_and_asked_a_part_at_a_time(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, sizes: list[int]
) -> None:
    n = 2 * PART + 40
    names(con, n, n)
    con.sql(
        "FROM meld.find_errors('t', columns := 'name', tier := 't2', threshold := 0.0)"
    ).fetchall()
    assert sizes == [PART, PART, 40]


def test_of_a_large_column_no_features_and_prompts_are_held(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    most = 0

    def script(prompt: Prompt) -> Completion:
        nonlocal most
        if len(backend.asked) % PART == 0:
            held = {id(b.queries) for b in gc.get_objects() if type(b) is Batch}
            most = max(most, len(held))
        return first_choice(prompt)

    backend.script = script
    n = 4 * PART
    names(con, n, n)
    con.sql("FROM meld.find_errors('t', columns := 'name', tier := 't2')").fetchall()
    assert len(backend.asked) == n and most == 1


def test_answers_of_a_join_have_no_evidence_and_those_of_cells_have(
    con: duckdb.DuckDBPyConnection,
) -> None:
    from meld_duckdb.planner.options import Options
    from meld_duckdb.records import make_record
    from meld_duckdb.retrieval.methods import Blocking
    from meld_duckdb.service import _SESSIONS

    names(con, 12, 12)
    rows = con.sql("FROM meld.find_errors('t', threshold := 0.0)").fetchall()
    assert all(row[-1] for row in rows)
    session = next(reversed(_SESSIONS.values()))
    records = [make_record({"name": f"thing {i}"}) for i in range(12)]
    found = session.block(records, records, Blocking(3, "lexical"), same=True)
    answers, outcome = session.join(records, records, found, Options(tier="t0"))
    assert answers and all(a.probability is not None and not a.evidence for a in answers)
    assert list(outcome.tiers) == [0] * len(outcome.evaluated)
