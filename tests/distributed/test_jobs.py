from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld_duckdb.distributed import Work, block, dedupe, join, map_rows
from meld_duckdb.distributed.chunks import Chunks, texts_of, write_chunks
from meld_duckdb.distributed.clustering import connected
from meld_duckdb.distributed.parts import Parts
from meld_duckdb.errors import ConfigError, EngineError, InputError
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.clusters import agreeing_groups, connected_groups
from meld_duckdb.retrieval.lexical import LexicalSearch
from tests.distributed.conftest import copies, load, offers, rows_of

WORK = Work(batch_rows=40)


def test_a_finished_job_is_not_done_again(in_process: None, left: Path, tmp_path: Path) -> None:
    statement = "SELECT id, upper(title) AS title FROM part"
    first = map_rows(statement, left, tmp_path / "out", WORK)
    before = {p.name: p.stat().st_mtime_ns for p in first.output.glob("*.parquet")}
    again = map_rows(statement, left, tmp_path / "out", WORK)
    assert (again.computed, again.rows) == (0, 150)
    assert {p.name: p.stat().st_mtime_ns for p in again.output.glob("*.parquet")} == before
    # Another row: its partition alone is done again, and what it was is gone.
    changed = pq.read_table(left).to_pylist()
    changed[50]["title"] = "another thing"
    pq.write_table(pa.Table.from_pylist(changed), left)
    third = map_rows(statement, left, tmp_path / "out", WORK)
    assert (third.computed, third.partitions) == (1, 4)
    titles = [row["title"] for row in rows_of(third.output)]
    assert len(titles) == 150 and titles[50] == "ANOTHER THING"
    with pytest.raises(ConfigError, match="another job"):
        map_rows("SELECT id FROM part", left, tmp_path / "out", WORK)


def test_a_mistake_does_not_take_the_folder(in_process: None, left: Path, tmp_path: Path) -> None:
    statement = "SELECT id FROM part"
    with pytest.raises(InputError, match="names no file"):
        map_rows(statement, "nowhere.parquet", tmp_path / "out", WORK)
    with pytest.raises(InputError, match="the statement fails"):
        map_rows("SELECT nothing FROM part", left, tmp_path / "out", WORK)
    assert map_rows(statement, left, tmp_path / "out", WORK).rows == 150


def test_a_table_of_duckdb(in_process: None, tmp_path: Path, left: Path) -> None:
    file = tmp_path / "shop.duckdb"
    name = "my offers'; DROP TABLE x --"
    with duckdb.connect(str(file)) as connection:
        connection.execute(f"CREATE VIEW \"{name}\" AS FROM read_parquet('{left}')")
    report = map_rows("SELECT count(*) AS n FROM part", f"{file}:{name}", tmp_path / "out", WORK)
    assert [row["n"] for row in rows_of(report.output)] == [40, 40, 40, 30]
    with pytest.raises(InputError, match="nothing"):
        map_rows("SELECT 1 FROM part", f"{file}:nothing", tmp_path / "other", WORK)


def test_shards_find_what_one_search_finds(
    in_process: None, left: Path, right: Path, tmp_path: Path
) -> None:
    sharded = Work(batch_rows=20, shard_rows=40, sharded=True)
    for a, b in ((left, right), (left, left)):
        texts = [texts_of(pq.read_table(path)) for path in (a, b)]
        search = LexicalSearch(texts[0], texts[0] if a == b else texts[1])
        alone = search.candidates(5)
        report = block(a, b, tmp_path / f"{a.stem}-{b.stem}", sharded, k=5)
        found = rows_of(report.output)
        ids = [pq.read_table(path)["id"].to_numpy() for path in (a, b)]
        assert [row["l_id"] for row in found] == ids[0][alone.left].tolist()
        assert [row["r_id"] for row in found] == ids[1][alone.right].tolist()
        assert [row["rank"] for row in found] == alone.rank.tolist()
        assert [row["score"] for row in found] == alone.score.tolist()


def test_a_neighbourhood_is_nearly_the_whole_table(
    in_process: None, left: Path, right: Path, tmp_path: Path
) -> None:
    pairs = {}
    for context in ("whole", "neighbourhood"):
        how = Work(batch_rows=50, context=context)
        report = join(left, right, tmp_path / context, how, k=4)
        pairs[context] = {(row["l_id"], row["r_id"]) for row in rows_of(report.output)}
    both = pairs["whole"] & pairs["neighbourhood"]
    assert len(both) > 0.8 * len(pairs["whole"] | pairs["neighbourhood"])


def test_chunks_hold_every_row_once(tmp_path: Path) -> None:
    rows = offers(95)

    def written(name: str, stamp: str = "a") -> Chunks:
        return write_chunks(rows.to_batches(7), rows.schema, tmp_path / name, 10, stamp)

    chunks = written("one")
    assert chunks.whole().to_pylist() == rows.to_pylist()
    assert [len(chunks.chunk(i)) for i in range(10)] == [10] * 9 + [5]
    assert written("two").digests == chunks.digests
    assert write_chunks([], rows.schema, tmp_path / "one", 10, "a") == chunks
    assert len(write_chunks([], rows.schema, tmp_path / "one", 10, "b")) == 0


@pytest.mark.parametrize(
    "arguments",
    [{"context": "all"}, {"batch_rows": 0}],
)
def test_arguments_are_checked(
    in_process: None, left: Path, right: Path, tmp_path: Path, arguments: dict[str, object]
) -> None:
    how = Work(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        join(left, right, tmp_path / "out", how)


def test_budgets_are_of_statements(in_process: None, left: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="budgets"):
        map_rows("SELECT 1 FROM part", left, tmp_path / "out", WORK, max_calls=5)
    with pytest.raises(InputError, match="names no file"):
        map_rows("SELECT 1 FROM part", tmp_path / "none.parquet", tmp_path / "out2", WORK)


def test_the_cache_takes_answers_in(in_process: None, left: Path, tmp_path: Path) -> None:
    statement = "SELECT meld_match_prob(title, maker) AS p FROM part"
    map_rows(statement, left, tmp_path / "out", WORK, workspace=tmp_path / "own")
    assert AnswerCache(tmp_path / "own" / "cache.sqlite").count() > 90
    assert list((tmp_path / "out" / ".meld-job").rglob("answers/*")) == []


def test_an_actor_that_dies_again_and_again_ends_its_partition(
    in_process: None, left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parts, "count_try", lambda self, number, key: 5 if number == 2 else 1)
    with pytest.raises(EngineError, match=r"1 of 4 partitions .* 4 actors died at this partition"):
        map_rows("SELECT id FROM part", left, tmp_path / "out", WORK)
    assert len(rows_of(tmp_path / "out")) == 110
    monkeypatch.undo()


def test_of_two_that_write_a_partition_the_first_wins(tmp_path: Path) -> None:
    parts = Parts(*(tmp_path / name for name in ("files", "entries", "answers", "tries")))
    parts.make_folders()
    (tmp_path / "files" / ".part-000003-k.parquet.dead.part").write_text("half")
    first = parts.publish(3, "k", pa.table({"x": [1, 2]}))
    second = parts.publish(3, "k", pa.table({"x": [1, 2, 3]}))
    assert second == first == parts.find(3, "k")
    assert parts.read(first)["x"].to_pylist() == [1, 2]
    # Killed between the file and its entry: the file that is there counts.
    (tmp_path / "entries" / "000003-k.json").unlink()
    third = parts.publish(3, "k", pa.table({"x": [9]}))
    assert (third.rows, third.digest) == (2, first.digest)
    parts.make_folders()
    assert sorted(p.name for p in (tmp_path / "files").iterdir()) == [first.file]


@given(
    st.integers(2, 14),
    st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13), st.floats(0, 1)), max_size=40),
    st.integers(1, 4),
)
def test_groups_by_component_are_those_of_one_pass(
    n_rows: int, edges: list[tuple[int, int, float]], k: int
) -> None:
    chosen = {(min(a, b), max(a, b)): p for a, b, p in edges if a != b and max(a, b) < n_rows}
    pairs = np.array(sorted(chosen), dtype=np.int64).reshape(-1, 2)
    likely = np.array([chosen[pair] for pair in sorted(chosen)])
    for linkage in ("majority", "components"):
        if linkage == "majority":
            alone = agreeing_groups(n_rows, pairs, likely, 0.5, k)
        else:
            alone = connected_groups(n_rows, pairs, likely, 0.5)
        found = connected(n_rows, pairs, likely, likely >= 0.5, k, linkage)
        assert (found[:, None] == found).tolist() == (alone[:, None] == alone).tolist()


def test_clusters_of_shards(
    con: duckdb.DuckDBPyConnection, in_process: None, tmp_path: Path
) -> None:
    path = tmp_path / "both.parquet"
    some = offers(60)
    pq.write_table(pa.concat_tables([some, copies(some, 100)]), path)
    load(con, "t", path)
    alone = sorted(con.sql("FROM meld.dedupe('t', k := 5)").fetchall())
    for context in ("whole", "neighbourhood"):
        how = Work(batch_rows=25, shard_rows=50, sharded=True, context=context)
        report = dedupe(path, tmp_path / context, how, k=5)
        found = sorted(tuple(row.values()) for row in rows_of(report.output))
        assert [row[0] for row in found] == [row[0] for row in alone]
        same = [a == b for a, b in zip(found, alone, strict=True)]
        assert sum(same) > 0.7 * len(alone)  # the search of large tables, and less context


def test_clusters_along_chains(
    con: duckdb.DuckDBPyConnection, in_process: None, tmp_path: Path
) -> None:
    path = tmp_path / "both.parquet"
    pq.write_table(pa.concat_tables([offers(60), copies(offers(60), 100)]), path)
    load(con, "t", path)
    alone = sorted(con.sql("FROM meld.dedupe('t', k := 5, linkage := 'components')").fetchall())
    report = dedupe(path, tmp_path / "out", WORK, k=5, linkage="components")
    assert sorted(tuple(row.values()) for row in rows_of(report.output)) == alone
