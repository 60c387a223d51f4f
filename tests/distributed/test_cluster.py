from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meld_duckdb.distributed import Work, dedupe, join, map_rows
from meld_duckdb.errors import EngineError
from tests.distributed.conftest import copies, load, offers, rows_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Ray


def test_a_statement_says_what_one_process_says(
    con: duckdb.DuckDBPyConnection, work: Work, left: Path, tmp_path: Path
) -> None:
    statement = (
        "SELECT id, meld_match_prob(title, maker) AS p, meld_impute(t, 'maker',"
        " {'options': ['canon', 'sony'], 'tier': 't2'}) AS maker FROM part AS t"
    )
    report = map_rows(statement, left, tmp_path / "out", work)
    assert (report.rows, report.partitions, report.computed, report.failures) == (150, 4, 4, 0)
    load(con, "part", left)
    alone = con.sql(statement).to_arrow_table().to_pylist()
    assert rows_of(report.output) == alone
    manifest = json.loads((report.output / "manifest.json").read_text())
    assert [p["rows"] for p in manifest["partitions"]] == [40, 40, 40, 30]
    # What actors answered is in the cache of the workspace.
    again = con.sql(
        "SELECT sum(evaluations), sum(cache_hits) FROM meld.stats() WHERE function = 'meld_impute'"
    ).fetchall()
    assert again[0][0] == 0 and again[0][1] > 0


def test_bad_rows_and_bad_partitions_harm_no_others(
    con: duckdb.DuckDBPyConnection, work: Work, tmp_path: Path
) -> None:
    path = tmp_path / "marked.parquet"
    pq.write_table(offers(120, marked=30), path)
    statement = (
        "SELECT id, meld_impute_detail(t, 'maker', {'options': ['canon', 'sony'], 'tier': 't2'})"
        " AS d FROM part AS t"
    )
    report = map_rows(statement, path, tmp_path / "out", work)
    assert (report.rows, report.failures) == (120, 4)
    assert "this prompt fails" in report.first_failure
    found = {row["id"]: row["d"] for row in rows_of(report.output)}
    assert sorted(i for i, d in found.items() if d["error"]) == [1, 31, 61, 91]
    assert all(d["answer"] for d in found.values() if not d["error"])

    broken = "SELECT id, CASE WHEN id = 50 THEN error('no') ELSE id END AS x FROM part"
    with pytest.raises(EngineError, match=r"1 of 3 partitions of map are not finished.*no"):
        map_rows(broken, path, tmp_path / "broken", work)
    assert len(rows_of(tmp_path / "broken")) == 80
    assert not (tmp_path / "broken" / "manifest.json").exists()


def test_a_join_finds_what_one_process_finds(
    con: duckdb.DuckDBPyConnection, work: Work, left: Path, right: Path, tmp_path: Path
) -> None:
    load(con, "l", left)
    load(con, "r", right)
    alone = con.sql("FROM meld.join('l', 'r', k := 4) ORDER BY l_id, r_id").fetchall()
    assert len(alone) > 50
    report = join(left, right, tmp_path / "out", work, k=4)
    found = sorted(tuple(row.values()) for row in rows_of(report.output))
    assert found == alone


def test_clusters_are_those_of_one_process(
    con: duckdb.DuckDBPyConnection, work: Work, tmp_path: Path
) -> None:
    path = tmp_path / "both.parquet"
    blank = pa.Table.from_pylist([{"id": 900 + i, "title": None, "maker": None} for i in range(2)])
    some = offers(60)
    parts = [some, copies(some, 100), blank, some.set_column(0, "id", pa.array(range(300, 360)))]
    pq.write_table(pa.concat_tables(parts, promote_options="permissive"), path)
    load(con, "t", path)
    alone = sorted(con.sql("FROM meld.dedupe('t', k := 5)").fetchall())
    assert 60 < len({row[1] for row in alone}) < 150
    report = dedupe(path, tmp_path / "out", work, k=5)
    assert sorted(tuple(row.values()) for row in rows_of(report.output)) == alone
