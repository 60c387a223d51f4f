"""An estimate beside the run, with the real language model: what is counted is what is asked."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import meld_duckdb
from meld_duckdb.register import estimate
from meld_duckdb.settings import DEFAULT_ENCODER, DEFAULT_MODEL
from tests.integration.embedded import path_of

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parent.parent.parent / "examples" / "data"
COUNTS = (
    "rows",
    "distinct_inputs",
    "cache_hits",
    "evaluations",
    "tier0",
    "tier1",
    "tier2",
    "engine_prompts",
    "prompt_tokens",
)
JOINED = "FROM %s JOIN dblp d ON d.id = l_id JOIN acm a ON a.id = r_id"
SCORED = f"SELECT meld_match(d, a, {{'tier': 't2'}}) {JOINED}"
STATEMENTS = {
    "tier 0": f"SELECT meld_match(d, a) {JOINED % 'pairs'}",
    "join": "FROM meld.join('dblp', 'acm', k := 1)",
    "scored": SCORED % "few",
    "generated": (
        "SELECT meld_impute(d, 'venue', {'tier': 't2'}) FROM (FROM dblp ORDER BY id LIMIT 3) AS d"
    ),
    "long": (
        "SELECT meld_match({'t': repeat(d.title || ' ', 200)}, a, {'tier': 't2'}) "
        f"{JOINED % '(FROM pairs LIMIT 2)'}"
    ),
}


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """Two bibliographies, candidate pairs, and a few of these, some twice, some answered before."""
    path_of(DEFAULT_MODEL, "language model")
    path_of(DEFAULT_ENCODER, "encoder")
    con = meld_duckdb.connect(
        workspace=tmp_path_factory.mktemp("w"), progress=False, max_prompt_tokens=400
    )
    for name in ("dblp", "acm"):
        con.execute(f"CREATE TABLE {name} AS FROM '{SAMPLES / name}.csv'")
    con.execute(
        "CREATE TABLE pairs AS SELECT l_id, r_id FROM meld.block('dblp', 'acm', k := 5) "
        "ORDER BY hash(l_id || r_id) LIMIT 300"
    )
    con.execute("CREATE TABLE few AS (FROM pairs LIMIT 12) UNION ALL (FROM pairs LIMIT 4)")
    con.execute(SCORED % "(FROM few LIMIT 3)").fetchall()
    return con


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_is_counted_is_what_is_asked(con: duckdb.DuckDBPyConnection, name: str) -> None:
    con.execute("FROM meld.stats()").fetchall()  # closes the lines of what came before
    told = [line for line in estimate(con, STATEMENTS[name]) if line.rows is not None]
    con.execute(STATEMENTS[name]).fetchall()
    real = con.execute(
        f"SELECT function, {', '.join(COUNTS)}, seconds FROM meld.stats() WHERE statement = "
        "(SELECT max(statement) FROM meld.stats())"
    ).fetchall()
    assert [(x.function, *(getattr(x, c) for c in COUNTS)) for x in told] == [r[:-1] for r in real]
    assert all(line.exact for line in told)
    if name == "scored":
        assert [(line.distinct_inputs, line.cache_hits, line.engine_prompts) for line in told] == [
            (12, 3, 9)
        ]
    print(name, [line.seconds for line in told], [line[-1] for line in real])
