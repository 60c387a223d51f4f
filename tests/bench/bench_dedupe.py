"""`FROM meld.dedupe` on a large table whose duplicates are known: seconds, memory, quality.

    python -m tests.bench.bench_dedupe [--data DIR] [--rows 50000] [--seed 0] [--runs 2] [--json FILE]

The table is made of real offers and citations; two fifths of its rows are corrupted copies of
others: typing errors, words dropped or swapped, columns emptied or swapped. Real tables hold
duplicates that nobody has marked, so precision is a lower bound; rows of equal words, and citations
that the training pairs give to one paper, count as one entity. Every run is a fresh process with a
fresh workspace.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
COLUMNS = ("title", "maker", "kind", "code", "price")
_SOURCES: Mapping[str, tuple[str, Sequence[str | None]]] = {
    "walmart_amazon": ("tableB", ("title", "brand", "category", "modelno", "price")),
    "dblp_scholar": ("tableB", ("title", "authors", "venue", None, "year")),
    "amazon_google": ("tableB", ("title", "manufacturer", None, None, "price")),
}
_COPIED = 0.4
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Row = list[str | None]


def real_rows(data: Path) -> tuple[list[Row], list[str]]:
    """Rows of the public tables, and the entity of each as far as it is known."""
    rows: list[Row] = []
    entities: list[str] = []
    for name, (file, columns) in _SOURCES.items():
        folder = data / "EM" / name
        known = _known_entities(folder) if name == "dblp_scholar" else {}
        for line in pq.read_table(folder / f"{file}.parquet").to_pylist():
            row: Row = [None if c is None else _text(line[c]) for c in columns]
            words = " ".join(sorted(" ".join(v for v in row if v).lower().split()))
            rows.append(row)
            entities.append(known.get(line["id"]) or f"{name} {words}")
    return rows, entities


def _known_entities(folder: Path) -> dict[Any, str]:
    """Right records that labelled pairs give to one left record."""
    pairs = [
        line
        for part in ("train", "valid")
        for line in pq.read_table(folder / f"{part}.parquet").to_pylist()
        if line["label"] == 1
    ]
    return {line["rtable_id"]: f"paper {line['ltable_id']}" for line in pairs}


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def corrupt(row: Row, rng: np.random.Generator) -> Row:
    """A copy of a row with one to three faults."""
    found = list(row)
    for _ in range(int(rng.integers(1, 4))):
        fault = int(rng.integers(5))
        filled = [i for i, value in enumerate(found) if value]
        if not filled:
            break
        at = 0 if found[0] and rng.random() < 0.6 else int(rng.choice(filled))
        if fault == 0:
            found[at] = _mistype(str(found[at]), rng)
        elif fault in {1, 2}:
            words = str(found[at]).split()
            if len(words) > 2:
                i = int(rng.integers(len(words) - 1))
                words[i : i + 2] = words[i + 1 : i + 2] if fault == 1 else words[i : i + 2][::-1]
                found[at] = " ".join(words)
        elif fault == 3 and len(filled) > 2:
            found[int(rng.choice(filled[1:]))] = None
        elif fault == 4 and len(filled) > 2:
            i, j = rng.choice(filled[1:], 2, replace=False)
            found[i], found[j] = found[j], found[i]
    return found


def _mistype(text: str, rng: np.random.Generator) -> str:
    i = int(rng.integers(len(text)))
    letter = _LETTERS[int(rng.integers(26))]
    kept = text[i + int(rng.integers(2)) :]
    return text[:i] + (letter if rng.random() < 0.7 else "") + kept


def make_table(data: Path, n_rows: int, seed: int) -> tuple[pa.Table, list[str]]:
    """Build the table and, in the order of its ids, the entity of each row."""
    rng = np.random.default_rng(seed)
    rows, entities = real_rows(data)
    n_real = min(len(rows), round(n_rows * (1 - _COPIED)))
    chosen = rng.permutation(len(rows))[:n_real]
    made = [(rows[i], entities[i]) for i in chosen]
    # A third of the real rows is copied, some of them several times.
    copied = rng.choice(chosen[: max(1, n_real // 3)], n_rows - n_real)
    made += [(corrupt(rows[i], rng), entities[i]) for i in copied]
    made = [made[i] for i in rng.permutation(len(made))]
    columns = {name: [row[i] for row, _ in made] for i, name in enumerate(COLUMNS)}
    return pa.table({"id": list(range(len(made))), **columns}), [e for _, e in made]


def quality(clusters: Sequence[int], entities: Sequence[str]) -> dict[str, float]:
    """Pairwise precision, recall and F1 of a clustering."""
    _, found = np.unique(np.asarray(clusters), return_inverse=True)
    _, truth = np.unique(np.asarray(entities), return_inverse=True)
    both = found.astype(np.int64) * (int(truth.max()) + 1) + truth
    hits, said, wanted = (_pairs(x) for x in (both, found, truth))
    precision, recall = hits / max(said, 1), hits / max(wanted, 1)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "pairs": wanted,
        "largest_cluster": int(np.bincount(found).max()),
    }


def _pairs(groups: np.ndarray) -> int:
    counts = np.unique(groups, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def run_once(table: Path, out: Path, workspace: str) -> None:
    """Deduplicate in this process; writes clusters, seconds and peak memory."""
    import duckdb

    import meld_duckdb

    con = duckdb.connect()
    meld_duckdb.register(con, workspace=workspace, progress=False)
    con.execute(f"CREATE TABLE t AS FROM '{table}'")
    started = time.perf_counter()
    found = con.sql("SELECT id, cluster_id FROM meld.dedupe('t') ORDER BY id").fetchall()
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
        "clusters": [c for _, c in found],
    }
    out.write_text(json.dumps(result))


def measure(data: Path, n_rows: int, seed: int, runs: int) -> dict[str, Any]:
    """Build the table, deduplicate it in fresh processes, and grade."""
    with tempfile.TemporaryDirectory() as folder:
        table, entities = make_table(data, n_rows, seed)
        path, out = Path(folder) / "table.parquet", Path(folder) / "out.json"
        pq.write_table(table, path)
        done = []
        for number in range(runs):
            workspace = str(Path(folder) / f"workspace{number}")
            inner = [sys.executable, "-m", "tests.bench.bench_dedupe", "--inner"]
            subprocess.run([*inner, str(path), str(out), workspace], check=True)
            done.append(json.loads(out.read_text()))
    return {
        "rows": n_rows,
        "seed": seed,
        "seconds": [round(one["seconds"], 1) for one in done],
        "cpu_s": [round(one["cpu_s"], 1) for one in done],
        "peak_mb": [round(one["peak_mb"]) for one in done],
        "identical": all(one["clusters"] == done[0]["clusters"] for one in done),
        **{k: round(v, 4) for k, v in quality(done[0]["clusters"], entities).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inner", nargs=3, metavar=("TABLE", "OUT", "WORKSPACE"))
    given = parser.parse_args()
    if given.inner:
        run_once(Path(given.inner[0]), Path(given.inner[1]), given.inner[2])
        return
    text = json.dumps(measure(given.data, given.rows, given.seed, given.runs))
    print(text)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
