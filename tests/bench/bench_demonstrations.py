"""How many different demonstration sets, so prompt prefixes, a hundred questions need.

    python -m tests.bench.bench_demonstrations [--data DIR] [--set NAME] [--queries N]

Labels are the few-shot pairs, questions are validation pairs: no test row is read. Beside the sets
chosen now stands one set per nearest label. A JSON line for each count of questions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb.models import locate
from meld_duckdb.planner.demonstrations import Demonstrator, query_text
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import Record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.store import Label, Store
from meld_duckdb.settings import DEFAULT_ENCODER, AnswerSettings, default_model_dir
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration, Query
from meld_duckdb.train.calibrate_match import read_table

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"


def questions(folder: Path, part: str) -> list[tuple[Query, str]]:
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")

    def question(a: Record, b: Record) -> Query:
        query = build_query("match", (dict(a.fields), dict(b.fields)))
        assert isinstance(query, Query)
        return query

    return [
        (
            question(left[at_left[row["ltable_id"]]], right[at_right[row["rtable_id"]]]),
            "match" if int(row["label"]) else "mismatch",
        )
        for row in pq.read_table(folder / f"{part}.parquet").to_pylist()
    ]


def n_sets(shown: list[tuple[Demonstration, ...]]) -> int:
    return len({tuple(d.query.digest for d in one) for one in shown})


def likeness(
    encoder: Encoder, queries: list[Query], shown: list[tuple[Demonstration, ...]]
) -> float:
    """Mean cosine of a question and what it is shown."""
    limit = AnswerSettings().max_record_chars
    asked = encoder.encode([query_text(q, limit) for q in queries])
    found = [
        float((encoder.encode([query_text(d.query, limit) for d in one]) @ vector).mean())
        for one, vector in zip(shown, asked, strict=True)
    ]
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", default="amazon_google")
    parser.add_argument("--queries", type=int, default=500)
    given = parser.parse_args()
    folder = given.data / "EM" / given.set
    labels = questions(folder, "fewshot")
    asked = [query for query, _ in questions(folder, "valid")][: given.queries]
    task = TASKS["match"]
    encoder = Encoder(locate(DEFAULT_ENCODER, default_model_dir(), "encoder"))
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "index.lance", encoder.dimension)
        catalogue = Catalogue(Path(directory) / "catalogue.sqlite")
        store.add_labels([Label("match", query, answer) for query, answer in labels])
        catalogue.set_labels("match", {query.digest: answer for query, answer in labels})
        chooser = Demonstrator(AnswerSettings(), catalogue, lambda: store, lambda: encoder)
        encoder.encode([query_text(q, AnswerSettings().max_record_chars) for q in asked])
        chooser.neighbours(task, asked[:1])
        for n in dict.fromkeys((100, 256, len(asked))):
            start = time.perf_counter()
            shown = chooser.demonstrations(task, asked[:n])
            seconds = time.perf_counter() - start
            nearest = chooser.neighbours(task, asked[:n], 1)
            leaders = [near[0].demonstration.query for near in nearest]
            own = {q.digest: q for q in leaders}
            per_label = dict(
                zip(own, (chooser._around(task, chooser._vectors([q]), None) for q in own.values()), strict=True)
            )  # fmt: skip
            before = [per_label[q.digest] for q in leaders]
            line = {
                "set": given.set,
                "labels": len(labels),
                "questions": n,
                "sets": n_sets(shown),
                "sets_per_nearest_label": n_sets(before),
                "likeness": round(likeness(encoder, asked[:n], shown), 4),
                "likeness_per_nearest_label": round(likeness(encoder, asked[:n], before), 4),
                "seconds": round(seconds, 2),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
