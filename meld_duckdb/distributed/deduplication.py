"""The job that puts the rows of a table that describe the same thing into clusters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from meld_duckdb.distributed.blocking import PairFiles, Sides
from meld_duckdb.distributed.chunks import Chunks, write_chunks
from meld_duckdb.distributed.clustering import ContentStage, connected, number_contents, rows_at
from meld_duckdb.distributed.job import Job, Report, started
from meld_duckdb.distributed.matching import RIVAL_RANK, ScoreStage
from meld_duckdb.distributed.parts import Entry
from meld_duckdb.distributed.run import Work, check_column, find_pairs, lists_of, match_options
from meld_duckdb.distributed.sources import find_source
from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.planner.clusters import LINKAGES
from meld_duckdb.planner.options import Options
from meld_duckdb.records import digest
from meld_duckdb.retrieval.methods import Blocking

_STREAM = 16_384
_PAIRS = pa.schema([("a", pa.int64()), ("b", pa.int64())])
_NAME = "dedupe"


def dedupe(
    source: str | Path,
    output: str | Path,
    how: Work | None = None,
    *,
    k: int = 10,
    method: str = "lexical",
    threshold: float | None = None,
    linkage: str = "majority",
    tier: str | None = None,
    id: str = "id",
    **settings: object,
) -> Report:
    """Put the rows of a table that describe the same thing into clusters.

    Args:
        source: The table: Parquet files, or ``FILE.duckdb:TABLE``.
        output: Folder of the results: every row with id, cluster_id (the least id of its
            cluster), cluster_size.
        how: How it is done.
        k: Candidates of a row.
        method: As of `block`.
        threshold: Probability from which a pair matches; None for the calibrated one.
        linkage: ``"majority"``, or ``"components"`` to join along chains of matches.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every pair.
        id: Column that names the rows.
        **settings: Settings, as of `meld_duckdb.register`.

    Raises:
        InputError, ConfigError, EngineError: As `map_rows`.
    """
    how = how or Work()
    if linkage not in LINKAGES:
        what, hint = unknown_name("linkage", linkage, LINKAGES)
        raise ConfigError(what, hint=hint)
    given = {"threshold": threshold, "tier": tier}
    task = {"job": _NAME, "sources": [str(source)], "k": k, "method": method, "id": id}
    task |= {"linkage": linkage, **given}
    with started(Path(output), task, how.cluster, how.batch_rows, settings, how.tell) as job:
        chunks = job.chunks(find_source(source), "rows")
        check_column(chunks, id)
        spilled = {"temp_directory": str(job.folder / "spilled")}
        with duckdb.connect(config=spilled) as connection:
            distinct = _distinct(job, chunks, connection)
            options = match_options(job, given)
            scored = _judge(job, distinct, Blocking(k, method), options, how, connection)
            group = _groups(job, distinct, scored, k, linkage)
            entries = _write(job, chunks, group, id, scored, connection, linkage)
        return job.finish(entries, _NAME)


def _distinct(job: Job, chunks: Chunks, connection: duckdb.DuckDBPyConnection) -> Chunks:
    """The distinct contents of a table, as a table."""
    stage = ContentStage(chunks)
    entries = job.run(stage, range(len(chunks.digests)))
    parts = job.parts(stage.name)
    number_contents(connection, [str(parts.path(entry)) for entry in entries])
    at = connection.execute("SELECT row FROM firsts ORDER BY number").fetchnumpy()["row"]
    folder = job.folder / "tables" / "distinct"
    return write_chunks(
        rows_at(chunks, np.asarray(at)),
        chunks.chunk(0).schema,
        folder,
        job.batch_rows,
        chunks.digest,
    )


def _judge(
    job: Job,
    distinct: Chunks,
    blocking: Blocking,
    options: Options,
    how: Work,
    connection: duckdb.DuckDBPyConnection,
) -> tuple[ScoreStage, list[Entry]]:
    """Judge the pairs of which each row is a candidate of the other."""
    found = find_pairs(job, Sides(distinct, distinct, True), blocking, how)
    near = None
    if not how.holds_whole(len(distinct)):
        near = lists_of(job, found, "left", "right", len(distinct), RIVAL_RANK)
    stage = ScoreStage(distinct, _mutual(job, found, connection), options, job.identity, near)
    return stage, job.run(stage, range(len(stage.pairs.digests)))


def _mutual(job: Job, found: PairFiles, connection: duckdb.DuckDBPyConnection) -> Chunks:
    """See `clusters.mutual_pairs`."""
    connection.read_parquet(found.paths).create_view("candidates")
    reader = connection.sql(
        'SELECT least("left", "right") AS a, greatest("left", "right") AS b FROM candidates'
        " GROUP BY ALL HAVING count(*) = 2 ORDER BY a, b"
    ).to_arrow_reader(_STREAM)
    return write_chunks(
        reader, _PAIRS, job.folder / "tables" / "mutual", job.batch_rows, found.digest
    )


def _groups(
    job: Job, distinct: Chunks, scored: tuple[ScoreStage, list[Entry]], k: int, linkage: str
) -> np.ndarray:
    stage, entries = scored
    parts = job.parts(stage.name)
    rows = pa.concat_tables([parts.read(entry) for entry in entries])
    return connected(
        len(distinct),
        np.column_stack([rows["a"].to_numpy(), rows["b"].to_numpy()]),
        rows["probability"].to_numpy(),
        rows["matches"].to_numpy(),
        k,
        linkage,
    )


def _write(
    job: Job,
    chunks: Chunks,
    group: np.ndarray,
    column: str,
    scored: tuple[ScoreStage, list[Entry]],
    connection: duckdb.DuckDBPyConnection,
    linkage: str,
) -> list[Entry]:
    """Write every row with its cluster; the driver does so, there is nothing to compute."""
    _number_clusters(chunks, group, column, connection)
    parts = job.parts(_NAME, final=True)
    parts.make_folders()
    failed = [entry for entry in scored[1] if entry.failures]
    key = digest(_NAME, chunks.digest, column, linkage, *(entry.key for entry in scored[1]))
    entries: list[Entry] = []
    for number in range(len(chunks.digests)):
        entry = parts.find(number, key)
        if entry is None:
            start, stop = chunks.bounds(number)
            rows = connection.sql(
                "SELECT id, cluster_id, cluster_size FROM named JOIN sizes USING (cluster)"
                f" WHERE row >= {start} AND row < {stop} ORDER BY row"
            ).to_arrow_table()
            told: Mapping[str, object] = {}
            if number == 0 and failed:
                n_failures = sum(e.failures for e in failed)
                told = {"failures": n_failures, "first_failure": failed[0].first_failure}
            entry = parts.publish(number, key, rows, **told)  # type: ignore[arg-type]
            job.computed += 1
        entries.append(entry)
    return entries


def _number_clusters(
    chunks: Chunks, group: np.ndarray, column: str, connection: duckdb.DuckDBPyConnection
) -> None:
    """Make the tables ``named`` (row, id, cluster) and ``sizes`` (cluster, id, size)."""
    connection.register("__groups", pa.table({"number": np.arange(len(group)), "cluster": group}))
    for i in range(len(chunks.digests)):
        rows = np.arange(*chunks.bounds(i))
        connection.register("__ids", pa.table({"row": rows, "id": chunks.chunk(i)[column]}))
        begin = "INSERT INTO" if i else "CREATE TABLE"
        connection.execute(f"{begin} ids {'' if i else 'AS '}SELECT * FROM __ids")
    # A row without content is a cluster of its own, with a number that no group has.
    connection.execute(
        "CREATE TABLE named AS SELECT row, id, coalesce(g.cluster, -1 - row) AS cluster"
        " FROM ids JOIN numbered USING (row) LEFT JOIN __groups AS g USING (number)"
    )
    connection.execute(
        "CREATE TABLE sizes AS SELECT cluster, min(id) AS cluster_id, count(*) AS cluster_size"
        " FROM named GROUP BY cluster"
    )
