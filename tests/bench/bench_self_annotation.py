"""How many pairs self-annotation labels, and how many of them wrongly.

    python -m tests.bench.bench_self_annotation [--data DIR] [--set NAME ...] [--score NAME ...]
        [--keep DIR]
    python -m tests.bench.bench_self_annotation --imputation [--data DIR]

The two tables of an entity-matching set are labelled without a label. Test pairs are held out:
only their ids are read. Errors are counted by the train and valid labels. A JSON line for each
set, score, threshold and margin. ``--keep`` keeps the embeddings between runs. With
``--imputation`` known values of training rows are voted on by the five nearest other rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb.models import locate
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.settings import DEFAULT_ENCODER, default_model_dir
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.calibrate_impute import TARGETS
from meld_duckdb.train.calibrate_match import read_columns, read_table
from meld_duckdb.train.calibration import read_rows
from meld_duckdb.train.held_out import HeldOut, hold_out
from meld_duckdb.train.pair_scores import Directions, candidate_scores, match_probabilities
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow
from meld_duckdb.train.self_annotate import (
    MINED,
    Scored,
    annotate_choices,
    annotate_pairs,
    estimate_noise,
    mutual_nearest,
    vote_values,
)

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
SETS = (
    "abt_buy", "amazon_google", "dblp_acm", "dblp_scholar", "rel_text", "semi_text_watch",
    "walmart_amazon", "wdc_all",
)  # fmt: skip
SCORES = {
    "lexical": ((0.4, 0.5, 0.6, 0.7, 0.8), (0.0, 0.05, 0.1, 0.2)),
    "cosine": ((0.7, 0.8, 0.85, 0.9, 0.95), (0.0, 0.02, 0.05, 0.1)),
    "t0": ((0.5, 0.7, 0.8, 0.85, 0.9, 0.95), (0.0, 0.05, 0.1, 0.2, 0.5)),
    "both": ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.0, 0.05, 0.1, 0.2)),
}

MINED_AT = {"both": (0.4, 0.1), "lexical": (0.6, 0.1), "cosine": (0.85, 0.05), "t0": (0.85, 0.2)}
"""Threshold and margin at which mined mismatches are checked too."""


def question(a: Record, b: Record) -> Query:
    query = build_query("match", (dict(a.fields), dict(b.fields)))
    assert isinstance(query, Query)
    return query


class Set:
    """One data set: tables, labels of train and valid, and the test pairs without labels."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        at_left, self.left = read_table(folder, "tableA")
        at_right, self.right = read_table(folder, "tableB")

        def pairs(columns: dict[str, list[str]]) -> list[Query]:
            return [
                question(self.left[at_left[a]], self.right[at_right[b]])
                for a, b in zip(columns["ltable_id"], columns["rtable_id"], strict=True)
            ]

        ids = pq.read_table(folder / "test.parquet", columns=["ltable_id", "rtable_id"])
        self.held_out: HeldOut = hold_out(pairs(ids.to_pydict()))
        self.labelled: list[TrainingRow] = []
        for part in ("train", "valid"):
            columns = read_columns(folder, part)
            for query, label in zip(pairs(columns), columns["label"], strict=True):
                if not self.held_out.covers(query):
                    answer = "match" if int(label) else "mismatch"
                    self.labelled.append(TrainingRow("match", query, answer))


def embedded(records: list[Record], keep: Path | None, name: str) -> np.ndarray:
    path = keep / f"{name}.npy" if keep else None
    if path is not None and path.is_file():
        found: np.ndarray = np.load(path)
        return found
    encoder = Encoder(locate(DEFAULT_ENCODER, default_model_dir(), "encoder"))
    vectors = encoder.encode([embedding_text(r) for r in records])
    if path is not None:
        np.save(path, vectors)
    return vectors


def scores(one: Set, kind: str, keep: Path | None) -> Directions:
    if kind == "cosine":
        sides = (one.left, one.right)
        vectors = [embedded(s, keep, f"{one.name}-{i}") for i, s in enumerate(sides)]
        return candidate_scores(one.left, one.right, vectors=(vectors[0], vectors[1]))
    directions = candidate_scores(one.left, one.right)
    if kind == "lexical":
        return directions
    scored, _ = match_probabilities(one.left, one.right, directions)
    if kind == "both":  # the probability times the lexical score
        lexical: dict[tuple[int, int], float] = {}
        for d in directions:
            lexical.update(
                zip(
                    zip(d.left.tolist(), d.right.tolist(), strict=True),
                    d.score.tolist(),
                    strict=True,
                )
            )
        pairs = zip(scored.left.tolist(), scored.right.tolist(), strict=True)
        scored = Scored(
            scored.left, scored.right, scored.score * np.array([lexical[p] for p in pairs])
        )
    return scored, scored


def measure(one: Set, kind: str, keep: Path | None) -> None:
    start = time.perf_counter()
    directions = scores(one, kind, keep)
    seconds = round(time.perf_counter() - start, 1)
    thresholds, margins = SCORES[kind]
    found = []
    for pair in mutual_nearest(*directions, min(thresholds), min(margins)):
        query = question(one.left[pair.left], one.right[pair.right])
        if not one.held_out.covers(query):
            found.append((pair, TrainingRow("match", query, "match", SELF_ANNOTATED)))
    near = {r.digest for _, row in found for r in row.query.records}
    labelled = [
        row for row in one.labelled if any(r.digest in near for r in row.query.records)
    ]  # others say nothing about a pseudo-label
    for threshold in thresholds:
        for margin in margins:
            rows = [r for p, r in found if p.score >= threshold and p.margin >= margin]
            noise = estimate_noise(rows, labelled)
            line = {
                "set": one.name,
                "score": kind,
                "threshold": threshold,
                "margin": margin,
                "pseudo": noise.n_rows,
                "checked": noise.n_checked,
                "wrong": noise.n_wrong,
                "contradicted": noise.n_contradicted,
                "error": round(noise.rate, 4),
                "low": round(noise.low, 4),
                "high": round(noise.high, 4),
                "error_one_to_one": round(noise.one_to_one, 4),
                "seconds": seconds,
            }
            print(json.dumps(line), flush=True)
    threshold, margin = MINED_AT[kind]
    for ceiling in (None, 0.5, 0.3):
        rows = annotate_pairs(
            one.left, one.right, *directions,
            threshold=threshold, margin=margin, ceiling=ceiling, held_out=one.held_out,
        )  # fmt: skip
        noise = estimate_noise(rows, one.labelled, MINED)
        line = {
            "set": one.name,
            "score": kind,
            "threshold": threshold,
            "margin": margin,
            "ceiling": ceiling,
            "mined": noise.n_rows,
            "mined_checked": noise.n_checked,
            "mined_wrong": noise.n_wrong,
            "mined_error": round(noise.rate, 4),
        }
        print(json.dumps(line), flush=True)


def impute(data: Path, name: str, column: str) -> None:
    """Vote on known values of training rows, each left out in turn, by the five nearest rows."""
    rows = read_rows(data / "DI" / name / "train.parquet")
    records = [make_record({k: v or None for k, v in row.items() if k != "id"}) for row in rows]
    blank = [make_record({**r.fields, column: None}) for r in records]
    forward, _ = candidate_scores(blank, blank, same=True)
    near: dict[int, list[tuple[str | None, float]]] = {}
    for i, j, score in zip(
        forward.left.tolist(), forward.right.tolist(), forward.score.tolist(), strict=True
    ):
        near.setdefault(i, []).append((records[j].fields[column], score))
    known = [i for i, r in enumerate(records) if r.fields[column]]
    queries, labelled = [], []
    for i in known:
        query = build_query("impute", (dict(blank[i].fields), column))
        assert isinstance(query, Query)
        queries.append(query)
        labelled.append(TrainingRow("impute", query, str(records[i].fields[column])))
    votes = vote_values(near.get(i, []) for i in known)
    for threshold in (0.0, 0.5, 0.7, 0.9, 1.0):
        for margin in (0.0, 0.3):
            found = annotate_choices("impute", queries, votes, threshold, margin)
            noise = estimate_noise(found, labelled)
            line = {"set": f"{name}.{column}", "score": "vote", "threshold": threshold}
            line |= {"margin": margin, "pseudo": noise.n_rows, "wrong": noise.n_wrong}
            line |= {"of": len(known), "error": round(noise.rate, 4)}
            print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", action="append", metavar="NAME", choices=SETS)
    parser.add_argument("--score", action="append", metavar="NAME", choices=tuple(SCORES))
    parser.add_argument("--keep", type=Path, help="directory for the embeddings")
    parser.add_argument("--imputation", action="store_true", help="votes on missing values")
    given = parser.parse_args()
    if given.imputation:
        for name, columns in TARGETS.items():
            for column in columns:
                impute(given.data, name, column)
        return
    for name in given.set or SETS:
        one = Set(given.data / "EM" / name)
        for kind in given.score or SCORES:
            measure(one, kind, given.keep)


if __name__ == "__main__":
    main()
