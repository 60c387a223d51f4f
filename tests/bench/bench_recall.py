"""The recall of a union and its estimate without labels, on real tables with labels.

    python -m tests.bench.bench_recall [--data DIR] [--set NAME ...]

Matches are those of the train and valid files; test files are not opened. Tables are searched as
``method := 'union'`` does, with static vectors. ``by_labels`` is the same estimator told which pairs
match, without strata: what is left of its error is the dependence of the two searches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb import models
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.recall import estimate_recall, recapture
from meld_duckdb.retrieval.static import StaticEmbedding, open_static
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.retrieval.union import find_union
from meld_duckdb.settings import DEFAULT_ENCODER, default_model_dir

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
SETS = ("abt_buy", "amazon_google", "walmart_amazon")


def static_model() -> StaticEmbedding:
    cache = default_model_dir()
    encoder = models.locate(DEFAULT_ENCODER, cache, "encoder")
    name = models.model_digest(encoder)
    return open_static(Encoder(encoder).encode, encoder, name, cache, print)


def load(folder: Path) -> tuple[TableRows, TableRows, np.ndarray]:
    """Both tables, and the matching pairs as left position times right rows plus right position."""
    sides, places = [], []
    for file in ("tableA", "tableB"):
        rows = pq.read_table(folder / f"{file}.parquet").to_pylist()
        sides.append(TableRows([make_record(row) for row in rows]))
        places.append({row["id"]: i for i, row in enumerate(rows)})
    gold = {
        places[0][row["ltable_id"]] * len(sides[1]) + places[1][row["rtable_id"]]
        for part in ("train", "valid")
        for row in pq.read_table(folder / f"{part}.parquet").to_pylist()
        if row["label"] == 1
    }
    return sides[0], sides[1], np.array(sorted(gold))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", nargs="+", choices=SETS, default=SETS)
    given = parser.parse_args()
    model = static_model()
    for name in given.set:
        left, right, gold = load(given.data / "EM" / name)
        vectors = model.encode_tables(left.texts, right.texts)
        for k in (10, 3):
            found, union = find_union(left, right, vectors, k)
            pairs = union.left * len(right) + union.right
            match = np.isin(pairs, gold)
            whole = np.zeros(len(pairs), dtype=int)
            labelled = recapture(match, union.lexical, union.dense, union.kept, whole)
            kept = np.isin(gold, found.left * len(right) + found.right)
            lists = {"words": union.lexical, "vectors": union.dense}
            line = {
                "recall": kept.mean(),
                **{which: (match & listed).sum() / len(gold) for which, listed in lists.items()},
                "estimate": estimate_recall(left, right, union),
                "by_labels": labelled,
            }
            rounded = {key: None if v is None else round(float(v), 4) for key, v in line.items()}
            print(json.dumps({"set": name, "k": k, "matches": len(gold), **rounded}), flush=True)


if __name__ == "__main__":
    main()
