"""The jobs: a statement over a table, candidates, a join, clusters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from meld_duckdb.distributed.blocking import (
    Counts,
    GatherStage,
    PairFiles,
    PairStage,
    Sides,
    TermFiles,
    TermStage,
    WholeStage,
)
from meld_duckdb.distributed.chunks import Chunks
from meld_duckdb.distributed.cluster import Cluster
from meld_duckdb.distributed.job import Job, Report, Tell, started
from meld_duckdb.distributed.lists import Lists, write_array
from meld_duckdb.distributed.mapping import MapStage
from meld_duckdb.distributed.matching import RIVAL_RANK, JoinStage, NameStage
from meld_duckdb.distributed.sources import find_source
from meld_duckdb.errors import ConfigError, InputError, unknown_name
from meld_duckdb.planner.options import Options
from meld_duckdb.records import digest
from meld_duckdb.retrieval.methods import Blocking, by_rare_words
from meld_duckdb.service import LocalService

BATCH_ROWS = 10_000
"""Rows of a partition: what is lost at most when an actor dies."""

SHARD_ROWS = 1_000_000
"""Rows of the right table that an actor holds to search them."""

CONTEXT_ROWS = 200_000
"""Rows of both tables up to which every actor holds them whole as context, some 10 KB a row."""

CONTEXTS = ("auto", "whole", "neighbourhood")


@dataclass(frozen=True, slots=True)
class Work:
    """How a job is done; its results do not follow from it, but for ``context``.

    Attributes:
        cluster: Who does it.
        batch_rows: Rows of a partition.
        shard_rows: Rows of the right table that are searched at once.
        sharded: Whether tables are searched in shards; None to decide by size, as one process does.
        context: ``"whole"`` tables, the ``"neighbourhood"`` of a partition, or ``"auto"`` by size.
        tell: Is told how far it is.
    """

    cluster: Cluster = field(default_factory=Cluster)
    batch_rows: int = BATCH_ROWS
    shard_rows: int = SHARD_ROWS
    sharded: bool | None = None
    context: str = "auto"
    tell: Tell = lambda stage, finished, total: None

    def holds_whole(self, n_rows: int) -> bool:
        """Whether actors hold tables of so many rows whole.

        Raises:
            ConfigError: The context is unknown.
        """
        if self.context not in CONTEXTS:
            what, hint = unknown_name("context", self.context, CONTEXTS)
            raise ConfigError(what, hint=hint)
        return self.context == "whole" or (self.context == "auto" and n_rows <= CONTEXT_ROWS)


def map_rows(
    statement: str,
    source: str | Path,
    output: str | Path,
    how: Work | None = None,
    **settings: object,
) -> Report:
    """Run a SELECT over every partition of a table.

    Args:
        statement: A SELECT from ``part``, which stands for the rows of one partition.
        source: Parquet files, or ``FILE.duckdb:TABLE``.
        output: Folder of the results.
        how: How it is done.
        **settings: Settings, as of `meld_duckdb.register`.

    Raises:
        InputError: The source or the statement cannot be used.
        ConfigError: An argument cannot be, or the folder is of another job.
        EngineError: Some partitions could not be computed.
    """
    how = how or Work()
    task = _task("map", source, statement=statement)
    with _started(output, task, how, settings) as job:
        chunks = job.chunks(find_source(source), "rows")
        stage = MapStage(statement, chunks, job.answering, job.identity)
        stage.check()
        entries = job.run(stage, range(len(chunks.digests)), final=True)
        return job.finish(entries, stage.name)


def block(
    left: str | Path,
    right: str | Path,
    output: str | Path,
    how: Work | None = None,
    *,
    k: int = 10,
    method: str = "lexical",
    l_id: str = "id",
    r_id: str = "id",
    **settings: object,
) -> Report:
    """Find the ``k`` rows of a table that are most likely the same thing as each of another.

    Args:
        left: Every row of it gets candidates.
        right: Where they are; the same text as ``left`` to look for duplicates.
        output: Folder of the results: l_id, r_id, rank, score.
        how: How it is done.
        k: Candidates of a row.
        method: As of ``meld.block``; tables too large for one process are searched by
            ``"lexical"`` only.
        l_id: Column that names the rows of ``left``.
        r_id: Column that names the rows of ``right``.
        **settings: Settings, as of `meld_duckdb.register`.

    Raises:
        InputError, ConfigError, EngineError: As `map_rows`.
    """
    how = how or Work()
    task = _task("block", left, right, k=k, method=method, ids=[l_id, r_id])
    with _started(output, task, how, settings) as job:
        sides = _sides(job, left, right, (l_id, r_id))
        pairs = find_pairs(job, sides, Blocking(k, method), how)
        stage = NameStage(sides, pairs, (l_id, r_id))
        entries = job.run(stage, range(len(sides.left.digests)), final=True)
        return job.finish(entries, stage.name)


def join(
    left: str | Path,
    right: str | Path,
    output: str | Path,
    how: Work | None = None,
    *,
    k: int = 10,
    method: str = "lexical",
    threshold: float | None = None,
    tier: str | None = None,
    l_id: str = "id",
    r_id: str = "id",
    **settings: object,
) -> Report:
    """Find the pairs of rows that match: candidates, judged with both tables as context.

    Args:
        left: One table.
        right: The other; the same text as ``left`` to look for duplicates.
        output: Folder of the results: l_id, r_id, probability, tier, blocking_score.
        how: How it is done.
        k: Candidates of a row.
        method: As of `block`.
        threshold: Probability from which a pair matches; None for the calibrated one.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every pair.
        l_id: Column that names the rows of ``left``.
        r_id: Column that names the rows of ``right``.
        **settings: Settings, as of `meld_duckdb.register`.

    Raises:
        InputError, ConfigError, EngineError: As `map_rows`.
    """
    how = how or Work()
    given = {"threshold": threshold, "tier": tier}
    task = _task("join", left, right, k=k, method=method, ids=[l_id, r_id], **given)
    with _started(output, task, how, settings) as job:
        sides = _sides(job, left, right, (l_id, r_id))
        pairs = find_pairs(job, sides, Blocking(k, method), how)
        rivals = None
        if not how.holds_whole(len(sides.left) + len(sides.right)):
            rivals = lists_of(job, pairs, "right", "left", len(sides.right), RIVAL_RANK)
        options = match_options(job, given)
        stage = JoinStage(sides, pairs, options, job.identity, (l_id, r_id), rivals)
        entries = job.run(stage, range(len(sides.left.digests)), final=True)
        return job.finish(entries, stage.name)


def find_pairs(job: Job, sides: Sides, blocking: Blocking, how: Work) -> PairFiles:
    """Find candidates, in shards if the tables are too large for one process.

    Raises:
        ConfigError: The method does not serve tables of this size.
    """
    sharded = by_rare_words(sides.left, sides.right) if how.sharded is None else how.sharded
    if not sharded:
        whole = WholeStage(sides, blocking, job.identity)
        return PairFiles(sides.left, job.parts(whole.name), tuple(job.run(whole, [0])))
    if blocking.method != "lexical":
        raise ConfigError(
            f"method {blocking.method!r} is not for tables of {len(sides.left)} and "
            f"{len(sides.right)} rows",
            hint="method lexical",
        )
    terms = [_terms(job, sides.left, "left")]
    terms.append(terms[0] if sides.same else _terms(job, sides.right, "right"))
    files = [
        write_array(job.folder / "counts" / f"{side.digest}.bin", found.count)
        for side, found in zip((sides.left, sides.right), terms, strict=True)
    ]
    n_texts = len(sides.left) + (0 if sides.same else len(sides.right))
    gather = GatherStage(
        sides,
        (terms[0], terms[1]),
        Counts(files[0], files[1], n_texts),
        max(1, how.shard_rows // how.batch_rows),
        blocking.k,
        max(1, int(how.cluster.cpus)),
    )
    gathered = job.run(gather, gather.numbers)
    stage = PairStage(gather, job.parts(gather.name), tuple(gathered))
    entries = job.run(stage, range(len(sides.left.digests)))
    return PairFiles(sides.left, job.parts(stage.name), tuple(entries))


def lists_of(job: Job, pairs: PairFiles, owner: str, item: str, n_rows: int, rank: int) -> Lists:
    """Candidates by row of one side, of a rank or a better one."""
    with duckdb.connect(config={"temp_directory": str(job.folder / "spilled")}) as connection:

        def batches() -> pa.RecordBatchReader:
            rows = connection.read_parquet(pairs.paths).filter(f"rank <= {rank}")
            return rows.project(f'"{owner}", "{item}"').order("1, 2").to_arrow_reader(16_384)

        name = digest(pairs.digest, owner, item, str(rank))
        return Lists.write(batches, n_rows, job.folder / "lists", name)


def match_options(job: Job, given: Mapping[str, object]) -> Options:
    """The options of matching, checked."""
    chosen = {name: value for name, value in given.items() if value is not None}
    return LocalService(job.settings).options("match", chosen)


def _terms(job: Job, chunks: Chunks, side: str) -> TermFiles:
    stage = TermStage(chunks, f"terms-{side}")
    entries = job.run(stage, range(len(chunks.digests)))
    return TermFiles(job.parts(stage.name), tuple(entries))


def _sides(job: Job, left: str | Path, right: str | Path, ids: tuple[str, str]) -> Sides:
    """Both tables in chunks; equal texts are one table.

    Raises:
        InputError: A table has no such column.
    """
    first = job.chunks(find_source(left), "left")
    same = str(left) == str(right)
    sides = Sides(first, first if same else job.chunks(find_source(right), "right"), same)
    for chunks, name in zip((sides.left, sides.right), ids, strict=True):
        check_column(chunks, name)
    return sides


def check_column(chunks: Chunks, name: str) -> None:
    """Refuse a column that a table has not.

    Raises:
        InputError: It has none of this name.
    """
    names = chunks.chunk(0).schema.names
    if name not in names:
        what, hint = unknown_name("column", name, names)
        raise InputError(what, hint=hint)


def _task(job: str, *sources: str | Path, **arguments: object) -> dict[str, object]:
    return {"job": job, "sources": [str(source) for source in sources], **arguments}


def _started(
    output: str | Path, task: Mapping[str, object], how: Work, settings: Mapping[str, object]
) -> AbstractContextManager[Job]:
    return started(Path(output), task, how.cluster, how.batch_rows, settings, how.tell)
