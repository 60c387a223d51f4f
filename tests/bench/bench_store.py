"""The store: recall of its vector index, writing, files of many small operations.

    python -m tests.bench.bench_store [--rows 120000] [--learns 200] [--part recall|write|learn]

Seconds depend on the machine and on what else it does; processor seconds stand beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from meld_duckdb.planner.ledger import Ledger
from meld_duckdb.records import make_record
from meld_duckdb.retrieval import lance
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.store import Label, Store, StoredTable
from meld_duckdb.tasks.base import Query
from meld_duckdb.workspace import open_workspace

DIMENSION = 384
QUERIES = 200


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return round(time.perf_counter() - wall, 2), round(time.process_time() - cpu, 2)


def vectors(kind: str, n: int) -> np.ndarray:
    """Unit vectors, without structure or around n / 50 centres."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((n, DIMENSION), dtype=np.float32)
    if kind == "clustered":
        centres = generator.standard_normal((n // 50, DIMENSION), dtype=np.float32)
        noise = centres[generator.integers(0, len(centres), n)] + 0.5 * noise
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return noise


def recall(folder: Path, kind: str, n: int) -> dict[str, object]:
    """Recall at 10 against the exact search, for queries near stored rows."""
    store = Store(folder / kind / "index.lance", DIMENSION, "e")
    store.lance.path.parent.mkdir(parents=True, exist_ok=True)
    rows = vectors(kind, n)
    record = make_record({"name": "x"})
    for start in range(0, n, 20_000):
        part = rows[start : start + 20_000]
        store.add_entries("t", start, [record] * len(part), part, fresh=True)
    store.put_table(StoredTable("t", "t", n, 1, "e"))
    generator = np.random.default_rng(1)
    asked = rows[generator.integers(0, n, QUERIES)]
    asked = asked + 0.02 * generator.standard_normal(asked.shape, dtype=np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    exact = np.argsort(-(asked @ rows.T), axis=1)[:, :10]
    result: dict[str, object] = {}
    made = []
    for name in ("exact", "indexed", "indexed again"):
        if name != "exact":
            table = store.lance.open("entries")
            assert table is not None
            if name == "indexed again":
                table.drop_index("vector_idx")
            built = timed(lambda: store.lance.optimise("entries", force=True))
            result[f"{name}: s, processor s to build"] = built
        found: list[list[int]] = []
        seconds = timed(
            lambda f=found: f.extend(
                [e.position for e in near] for near in store.search_entries(asked, 10)
            )
        )
        hits = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact.tolist(), strict=True)]
        result[f"{name}: recall@10"] = round(float(np.mean(hits)), 4)
        result[f"{name}: ms a query"] = round(1000 * seconds[0] / QUERIES, 1)
        made.append(found)
    same = sum(a == b for a, b in zip(made[1], made[2], strict=True))
    result["queries with the same rows after building anew"] = f"{same} of {QUERIES}"
    return result


def write(folder: Path, n: int) -> dict[str, object]:
    """Append against upsert of a fresh table, without vectors, and embedded parts of 512 rows."""
    records = [make_record({"id": i, "name": f"apple phone {i}"}) for i in range(n)]
    rows = vectors("random", 20_480)
    result: dict[str, object] = {}
    for fresh in (True, False):
        store = Store(folder / f"write{fresh}" / "index.lance", DIMENSION, "e")
        store.lance.path.parent.mkdir(parents=True, exist_ok=True)

        def plain(store: Store = store, fresh: bool = fresh) -> None:
            for start in range(0, n, 20_000):
                part = records[start : start + 20_000]
                store.add_entries("t", start, part, None, fresh=fresh)

        def embedded(store: Store = store, fresh: bool = fresh) -> None:
            for start in range(0, len(rows), 512):
                part = slice(start, start + 512)
                store.add_entries("e", start, records[part], rows[part], fresh=fresh)

        name = "append" if fresh else "merge_insert"
        result[f"{name}: {n} rows, s, processor s"] = timed(plain)
        result[f"{name}: 20480 vectors by 512, s, processor s"] = timed(embedded)
    return result


def files(folder: Path) -> dict[str, int]:
    """Number of files and bytes below a directory."""
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {"files": len(found), "kilobytes": sum(p.stat().st_size for p in found) // 1000}


def learn(folder: Path, n: int, compacted: bool) -> dict[str, object]:
    """Files after many small operations, with and without upkeep."""
    workspace = open_workspace(folder / f"learn{compacted}")
    catalogue = Catalogue(workspace.catalogue_path, workspace.lance_path)
    ledger = Ledger(workspace, catalogue, print)
    lance._GRACE_S = 0.001
    lance.SMALL_FRAGMENTS = 24 if compacted else 10**9
    store = ledger.open_store(DIMENSION, "e")

    def work() -> None:
        for i in range(n):
            query = Query((make_record({"n": i}), make_record({"n": "x"})))
            ledger.learn(store, [Label("match", query, "match")])

    seconds = timed(work)
    table = workspace.lance_path / "labels.lance"
    result: dict[str, object] = {"s, processor s": seconds, **files(table)}
    result["data files"] = len(list((table / "data").iterdir()))
    result["read all, s"] = timed(lambda: store.labels("match"))[0]
    if compacted:
        ledger.compact(1)
        result["after compact"] = files(table)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--learns", type=int, default=200)
    parser.add_argument("--part", choices=["recall", "write", "learn"], action="append")
    given = parser.parse_args()
    parts = given.part or ["recall", "write", "learn"]
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "write" in parts:
            result["write"] = write(folder, given.rows)
        if "learn" in parts:
            result["learn, files left alone"] = learn(folder, given.learns, compacted=False)
            result["learn"] = learn(folder, given.learns, compacted=True)
        if "recall" in parts:
            for kind in ("random", "clustered"):
                result[f"recall, {kind}"] = recall(folder, kind, given.rows)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
