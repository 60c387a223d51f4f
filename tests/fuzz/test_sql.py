"""What holds for every table, through SQL, on the scripted models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import meld_duckdb
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Completion, Prompt
from tests.fuzz.tables import put, tables
from tests.scripted import ScriptedBackend

MANY = settings(max_examples=40, suppress_health_check=list(HealthCheck))
CALLS = {
    "match": "{f}(t, (SELECT t FROM t WHERE n = 0), {{'tier': '{tier}'}})",
    "schema_match": "{f}({{'column': t.c0::VARCHAR}}, {{'column': 'city'}}, {{'tier': '{tier}'}})",
    "detect_error": "{f}(t, 'c0', {{'tier': '{tier}'}})",
    "impute": "{f}(t, 'c0', {{'tier': '{tier}', 'options': ['x', 'y', 'z']}})",
    "annotate_column": "{f}([t.c0::VARCHAR], ['city', 'name'], {{'tier': '{tier}'}})",
    "link_entity": "{f}(t.c0::VARCHAR, t, ['a', 'b', t.c0::VARCHAR], {{'tier': '{tier}'}})",
    "extract_attribute": "{f}(t, 'c0', {{'tier': '{tier}', 'options': ['x', 'y']}})",
}
TASKS = st.sampled_from(list(CALLS))
TIERS = st.sampled_from(["t0", "t2"])


def scripted(prompt: Prompt) -> Completion:
    """Answer by the question alone, now this, now that; some questions are not answered."""
    number = int(digest(prompt.question)[:8], 16)
    if number % 11 == 0:
        return Completion(None, prompt_tokens=3, error="refused: by the script")
    if not prompt.choices:
        return Completion(f"value {number % 5}", probability=0.7, prompt_tokens=3)
    weights = [1 + (number >> i) % 7 for i in range(len(prompt.choices))]
    shares = tuple(weight / sum(weights) for weight in weights)
    best = shares.index(max(shares))
    return Completion(prompt.choices[best], shares, shares[best], prompt_tokens=3)


@pytest.fixture
def both(backend: ScriptedBackend) -> Iterator[tuple[duckdb.DuckDBPyConnection, ...]]:
    """A connection that looks answers up and keeps them, and one that computes all anew."""
    backend.script = scripted
    with meld_duckdb.connect() as kept, meld_duckdb.connect(cache=False) as fresh:
        yield kept, fresh


@pytest.fixture
def fresh(both: tuple[duckdb.DuckDBPyConnection, ...]) -> duckdb.DuckDBPyConnection:
    return both[1]


def call(task: str, tier: str, form: str = "_detail") -> str:
    return CALLS[task].format(f=f"meld_{task}{form}", tier=tier)


def ask(
    con: duckdb.DuckDBPyConnection, select: str, where: str = "true", order: str = "n"
) -> list[Any]:
    """One value per row of ``t``, in order of the rows."""
    rows = con.sql(f"SELECT n, {select} AS d FROM t WHERE {where} ORDER BY {order}").fetchall()
    return [value for _, value in sorted(rows, key=lambda row: row[0])]


@given(table=tables(), task=TASKS, tier=TIERS)
@MANY
def test_every_row_has_an_answer_a_reason_or_is_null(
    both: tuple[duckdb.DuckDBPyConnection, ...], table: pa.Table, task: str, tier: str
) -> None:
    """`_detail` and the plain form agree, with the cache and without, asked once and twice."""
    for con in both:
        put(con, table)
    kept, fresh = both
    details = ask(fresh, call(task, tier))
    assert len(details) == len(table)
    for found in details:
        if found is None:
            continue
        assert (found["error"] is None) or (found["answer"] is None and ": " in found["error"])
        likely = found["probability"]
        assert likely is None or (math.isfinite(likely) and 0 <= likely <= 1)
        assert found["error"] is not None or likely is not None
    for con in (fresh, kept, kept):
        assert ask(con, call(task, tier)) == details
        plain = ask(con, call(task, tier, ""))
        assert plain == [None if found is None else found["answer"] for found in details]
    if task in {"match", "detect_error", "schema_match"}:
        likely = [None if found is None else found["probability"] for found in details]
        assert ask(kept, call(task, tier, "_prob")) == likely


@given(table=tables(most_rows=12), task=TASKS, tier=TIERS, data=st.data())
@MANY
def test_an_answer_is_its_rows_alone(
    fresh: duckdb.DuckDBPyConnection,
    backend: ScriptedBackend,
    table: pa.Table,
    task: str,
    tier: str,
    data: st.DataObject,
) -> None:
    """Whatever rows come along, in whatever order and in batches of whatever size."""
    put(fresh, table)
    whole = ask(fresh, call(task, tier))
    backend.batch_size = data.draw(st.integers(1, 5))
    part = data.draw(st.sets(st.integers(0, len(table) - 1), min_size=1))
    where = f"n IN ({', '.join(map(str, part))})"
    assert ask(fresh, call(task, tier), where) == [whole[i] for i in sorted(part)]
    for order in ("n DESC", "hash(n + 7)"):
        fresh.execute(f"CREATE OR REPLACE TABLE t AS FROM t ORDER BY {order}")
        assert ask(fresh, call(task, tier)) == whole


@given(table=tables(), task=st.sampled_from(["match", "annotate_column"]), tier=TIERS)
@MANY
def test_equal_rows_have_equal_answers(
    fresh: duckdb.DuckDBPyConnection,
    backend: ScriptedBackend,
    table: pa.Table,
    task: str,
    tier: str,
) -> None:
    put(fresh, table)
    call_ = call(task, tier).replace("(t,", "(struct_pack(c := t.c0),")
    asked_before = len(backend.asked)
    rows = fresh.sql(f"SELECT t.c0::VARCHAR, {call_} FROM t").fetchall()
    by_content: dict[Any, list[Any]] = {}
    for content, found in rows:
        by_content.setdefault(content, []).append(found)
    for group in by_content.values():
        assert all(found == group[0] for found in group)
    # A prompt that is too long is asked again, cut to half.
    assert len(backend.asked) - asked_before <= 5 * len(by_content)


@given(table=tables(), tier=TIERS)
@MANY
def test_match_is_symmetric(fresh: duckdb.DuckDBPyConnection, table: pa.Table, tier: str) -> None:
    put(fresh, table)
    pairs = f"""SELECT meld_match_detail(a, b, {{'tier': '{tier}'}}) AS there,
        meld_match_detail(b, a, {{'tier': '{tier}'}}) AS back FROM t AS a, t AS b"""
    for there, back in fresh.sql(pairs).fetchall():
        for name in ("answer", "probability", "error"):
            assert there[name] == back[name]


@given(table=tables(), task=TASKS, tier=TIERS, nulls=st.sets(st.integers(0, 7)))
@MANY
def test_null_in_null_out(
    fresh: duckdb.DuckDBPyConnection, table: pa.Table, task: str, tier: str, nulls: set[int]
) -> None:
    """A record that is NULL has no answer, and changes none beside it."""
    put(fresh, table)
    whole = ask(fresh, call(task, tier))
    gone = f"n IN ({', '.join(map(str, [-1, *nulls]))})"
    absent = call(task, tier).replace("(t,", f"(CASE WHEN NOT {gone} THEN t END,")
    absent = absent.replace("[t.c0::VARCHAR]", f"CASE WHEN NOT {gone} THEN [t.c0::VARCHAR] END")
    absent = absent.replace(
        "{'column': t.c0::VARCHAR}", f"CASE WHEN NOT {gone} THEN {{'column': t.c0::VARCHAR}} END"
    )
    absent = absent.replace(
        "(t.c0::VARCHAR, t,", f"(CASE WHEN NOT {gone} THEN t.c0::VARCHAR END, t,"
    )
    found = ask(fresh, absent)
    assert found == [None if n in nulls else answer for n, answer in enumerate(whole)]


@given(table=tables(), task=TASKS, tier=TIERS, cached=st.booleans())
@MANY
def test_statistics_add_up(
    both: tuple[duckdb.DuckDBPyConnection, ...],
    backend: ScriptedBackend,
    table: pa.Table,
    task: str,
    tier: str,
    cached: bool,
) -> None:
    con = both[0 if cached else 1]
    put(con, table)
    con.sql("FROM meld.stats()").fetchall()  # later calls count on new lines
    n_before, errors_before = (
        len(backend.asked),
        sum(n for *_, n in con.sql("FROM meld.errors()").fetchall()),
    )
    details = ask(con, call(task, tier))
    names = con.sql("FROM meld.stats()").columns
    line = dict(zip(names, con.sql("FROM meld.stats()").fetchall()[-1], strict=True))
    assert line["function"] == f"meld_{task}_detail"
    assert line["rows"] % len(table) == 0  # DuckDB may call a function more than once
    assert line["distinct_inputs"] == line["cache_hits"] + line["evaluations"]
    assert line["tier0"] + line["tier1"] + line["tier2"] == line["evaluations"]
    failed = sum(found is not None and found["error"] is not None for found in details)
    assert line["failures"] * len(table) == failed * line["rows"]
    errors = sum(n for *_, n in con.sql("FROM meld.errors()").fetchall())
    assert errors - errors_before == line["failures"]
    assert line["engine_prompts"] <= len(backend.asked) - n_before
    assert (line["tier2"] == 0) or tier == "t2"
