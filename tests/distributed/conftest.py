from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meld_duckdb.distributed import Cluster, Work, job
from meld_duckdb.distributed.worker import work_here
from tests.scripted import ScriptedBackend

ROOT = Path(__file__).parent.parent.parent
MAKERS = ("canon", "nikon", "sony", "olympus")
SLOW = (
    "SELECT id, meld_impute(t, 'maker', {'options': ['canon', 'sony'], 'tier': 't2'}) AS maker"
    " FROM part AS t"
)
KINDS = ("photo printer", "digital camera", "zoom lens", "tripod", "memory card", "flash")


def offers(n: int, marked: int = 0) -> pa.Table:
    """Offers of a few makers and kinds with a model number; every third one has no maker."""
    rows = [
        {
            "id": i,
            "title": f"{MAKERS[i % 4]} {KINDS[i // 4 % 6]} model {chr(97 + i % 26)}{100 + i // 3}"
            + (" fail-prompt" if marked and i % marked == 1 else ""),
            "maker": None if i % 3 == 0 else MAKERS[i % 4],
        }
        for i in range(n)
    ]
    return pa.Table.from_pylist(rows)


def copies(table: pa.Table, first_id: int) -> pa.Table:
    """The same things, said otherwise."""
    rows = [
        {
            "id": first_id + row["id"],
            "title": " ".join(reversed(row["title"].replace("model", "mod").split())),
            "maker": row["maker"],
        }
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows)


def rows_of(output: Path) -> list[dict[str, object]]:
    """The results of a job, partition by partition."""
    return pq.read_table(sorted(output.glob("*.parquet"))).to_pylist()


def load(con: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """A table of a Parquet file."""
    con.execute(f"CREATE TABLE {name} AS FROM read_parquet('{path}')")


def ray_options() -> dict[str, Any]:
    """How a driver uses Ray: with scripted models in the actors."""
    return {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {
            "worker_process_setup_hook": "tests.distributed.scripted_worker.patch",
            "env_vars": {"PYTHONPATH": str(ROOT), "MELD_PROGRESS": "false"},
        },
    }


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two actors."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=6, include_dashboard=False, **ray_options())
    yield Cluster(actors=2)
    ray.shutdown()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, backend: ScriptedBackend) -> None:
    """The stages one after another in this process, without Ray."""

    def work(stage, numbers, parts, answering, cluster, told):  # type: ignore[no-untyped-def]
        work_here(pickle.loads(pickle.dumps(stage)), numbers, parts, answering, told)

    monkeypatch.setattr(job, "work", work)
    monkeypatch.setattr(job, "running", lambda cluster: nullcontext())


@pytest.fixture
def work(cluster: Cluster) -> Work:
    return Work(cluster, batch_rows=40)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A Parquet file of offers."""
    path = tmp_path / "left.parquet"
    pq.write_table(offers(150), path)
    return path


@pytest.fixture
def right(tmp_path: Path) -> Path:
    path = tmp_path / "right.parquet"
    pq.write_table(copies(offers(130), 1000), path)
    return path
