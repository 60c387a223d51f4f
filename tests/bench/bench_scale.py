"""Blocking from ten thousand to a million rows: seconds, peak memory, recall, and peers.

    python -m tests.bench.bench_scale [--rows 10000 100000 1000000] [--method ranked ...] [--json FILE]

Both tables have that many rows and are made of real ones (`tests.bench.scale_tables`). Every size and
method is a fresh process; its peak memory is that of the whole process, its seconds those of the
query. Peers: TF-IDF of character 3-grams (sklearn) with the best products (sparse_dot_topn), and
MinHash of words with locality-sensitive hashing (datasketch), which gives candidates without order.
CPU seconds are told beside the seconds: they change little with what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.bench.scale_tables import make_tables

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
K = 10
_LIMITS = {"tfidf": 100_000, "minhash": 100_000}
"""Rows up to which a peer is asked."""

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray, float | None]


def meld(method: str) -> Callable[[Path, Path], Pairs]:
    """``FROM meld.block`` by a method: positions, ranks and the estimate."""

    def run(left: Path, right: Path) -> Pairs:
        import duckdb

        import meld_duckdb

        con = duckdb.connect()
        with tempfile.TemporaryDirectory() as workspace:
            meld_duckdb.register(con, workspace=workspace, progress=False)
            con.execute(f"CREATE TABLE l AS FROM '{left}'; CREATE TABLE r AS FROM '{right}'")
            found = con.sql(
                f"FROM meld.block('l', 'r', k := {K}, method := '{method}')"
            ).to_arrow_table()
        a, b, rank = (found[name].to_numpy() for name in ("l_id", "r_id", "rank"))
        estimate = found["recall_estimate"][0].as_py() if len(found) else None
        return a, b, rank, estimate

    return run


def _texts(path: Path) -> list[str]:
    table = pq.read_table(path)
    columns = [table[name].to_pylist() for name in table.column_names if name != "id"]
    return [" ".join(v for v in row if v) for row in zip(*columns, strict=True)]


def tfidf(left: Path, right: Path) -> Pairs:
    """Plain TF-IDF of 3-grams and exact best products."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sparse_dot_topn import sp_matmul_topn

    texts = _texts(left), _texts(right)
    model = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), dtype=np.float32)
    model.fit(texts[0] + texts[1])
    a, b = (model.transform(side) for side in texts)
    found = sp_matmul_topn(a, b.T.tocsr(), K, sort=True, n_threads=os.cpu_count())
    row = np.repeat(np.arange(len(texts[0])), np.diff(found.indptr))
    return row, found.indices, np.arange(len(row)) - found.indptr[:-1][row] + 1, None


def minhash(left: Path, right: Path) -> Pairs:
    """MinHash of words, 64 permutations, Jaccard threshold one half."""
    from datasketch import MinHash, MinHashLSH

    def sketches(path: Path) -> Any:
        sets = [{word.encode() for word in text.split()} for text in _texts(path)]
        return MinHash.bulk(sets, num_perm=64, seed=1)

    index = MinHashLSH(threshold=0.5, num_perm=64)
    with index.insertion_session() as session:
        for i, sketch in enumerate(sketches(right)):
            session.insert(i, sketch)
    found = [index.query(sketch) for sketch in sketches(left)]
    row = np.repeat(np.arange(len(found)), [len(one) for one in found])
    return row, np.array([i for one in found for i in one], dtype=np.int64), np.ones(len(row)), None


METHODS: dict[str, Callable[[Path, Path], Pairs]] = {
    **{name: meld(name) for name in ("ranked", "lexical", "static", "union")},
    "tfidf": tfidf,
    "minhash": minhash,
}


def run_once(method: str, left: Path, right: Path, out: Path) -> None:
    """Block in this process; writes seconds, memory and recall."""
    truth = np.load(left.with_name("truth.npy"))
    started, load = time.perf_counter(), os.getloadavg()[0]
    a, b, rank, estimate = METHODS[method](left, right)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    hit, n_matches = truth[a] == b, int((truth >= 0).sum())
    result = {
        "seconds": round(seconds, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gb": round(used.ru_maxrss / 1024**2, 2),
        "recall@1": round(float((hit & (rank == 1)).sum() / n_matches), 4),
        "recall@10": round(float(hit.sum() / n_matches), 4),
        "estimate": None if estimate is None else round(estimate, 4),
        "pairs_a_row": round(len(a) / len(truth), 1),
        "load_before": round(load, 1),
    }
    if method == "minhash":
        result["recall@1"] = None
    out.write_text(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inner", nargs=4, metavar=("METHOD", "LEFT", "RIGHT", "OUT"))
    given = parser.parse_args()
    if given.inner:
        run_once(given.inner[0], *map(Path, given.inner[1:]))
        return
    lines = []
    for n_rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            left, right, out = (Path(folder) / name for name in ("l.parquet", "r.parquet", "out"))
            first, second, truth = make_tables(given.data, n_rows, given.seed)
            pq.write_table(first, left)
            pq.write_table(second, right)
            np.save(left.with_name("truth.npy"), truth)
            del first, second, truth
            for method in given.method:
                if n_rows > _LIMITS.get(method, n_rows):
                    continue
                inner = [sys.executable, "-m", "tests.bench.bench_scale", "--inner"]
                subprocess.run([*inner, method, str(left), str(right), str(out)], check=True)
                line = {"rows": n_rows, "method": method, **json.loads(out.read_text())}
                lines.append(line)
                print(json.dumps(line), flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
