"""Entity matching with Splink 5 on the same labels and test pairs as ``meld eval --task match``.

    python tests/bench/peers/splink_match.py --data DIR [--set amazon_google ...] [--json FILE]

DIR holds a folder per set with ``tableA``, ``tableB``, ``fewshot`` and ``test`` (Parquet). Training
sees the two tables and the pairs of ``fewshot``; the labels of ``test`` are read for the score only.
Two models of each set are scored, see README.md: ``documented`` and ``labels``.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from columns import plan, prepare
from model import BLOCKS, MACROS, sameness, settings, smoothed
from splink import DuckDBAPI, Linker, block_on

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

SETS = (
    "abt_buy", "amazon_google", "walmart_amazon", "wdc_all",
    "semi_text_watch", "rel_text", "dblp_acm", "dblp_scholar",
)  # fmt: skip
SEED = 42
DRAWS = 1_000
MAX_PAIRS = 200_000
"""Pairs drawn for u, and at most used by each run of expectation maximisation."""
PACKAGES = ("splink", "duckdb", "sqlglot", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the result: one model of one set. Ratios are in [0, 1]."""

    set: str
    model: str
    n: int
    positives: int
    f1_half: float
    f1: float
    precision: float
    recall: float
    low: float
    high: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labelled pairs of ids, left and right."""

    ids: list[tuple[str, str]]
    labels: BoolArray


@dataclass(frozen=True, slots=True)
class Scores:
    """What Splink says of pairs, in their order.

    Attributes:
        weights: Match weights (log2 of the odds), float64 [n].
        levels: Level of each comparison, -1 where a value is missing, int64 [n] each.
    """

    weights: FloatArray
    levels: dict[str, IntArray]


class Session:
    """The two tables of a set in DuckDB, and linkers over them."""

    def __init__(self, folder: Path) -> None:
        left, right = (read(folder / f"{name}.parquet") for name in ("tableA", "tableB"))
        self.columns = plan(left, right)
        self.connection = duckdb.connect()
        self.connection.execute("set enable_progress_bar = false")
        self.connection.execute(MACROS)
        for name, table in zip("ab", prepare(left, right, self.columns), strict=True):
            self.connection.register("given", table)
            self.connection.execute(f"create table records_{name} as from given")
        self.api = DuckDBAPI(self.connection)
        self.tables = [
            self.api.register(f"records_{name}", dataset_display_name=name) for name in "ab"
        ]

    def linker(self, model: Any) -> Linker:
        """A linker over the two tables."""
        self.api._intermediate_table_cache.clear()
        return Linker(self.tables, model, log_level=logging.ERROR)

    def score(self, linker: Linker, ids: Sequence[tuple[str, str]]) -> Scores:
        """Score given pairs: they are registered as the blocked pairs of ``predict``."""
        distinct = list(dict.fromkeys(ids))
        blocked = pa.table(
            {
                "match_key": ["0"] * len(distinct),
                "join_key_l": [f"a-__-{left}" for left, _ in distinct],
                "join_key_r": [f"b-__-{right}" for _, right in distinct],
            }
        )
        linker.table_management.register_blocked_pairs_for_predict(self.api.register(blocked))
        found = linker.inference.predict(warning_mode="never")
        columns = self.connection.sql(f"from {found.physical_name}").to_arrow_table()
        keys = zip(columns["id_l"].to_pylist(), columns["id_r"].to_pylist(), strict=True)
        at = {key: i for i, key in enumerate(keys)}
        order = [at[key] for key in ids]
        levels = {
            name.removeprefix("gamma_"): columns[name].to_numpy()[order].astype(np.int64)
            for name in columns.column_names
            if name.startswith("gamma_")
        }
        return Scores(columns["match_weight"].to_numpy()[order], levels)


def read(path: Path) -> dict[str, list[Any]]:
    """Columns of a Parquet file."""
    return pq.read_table(path).to_pydict()


def read_pairs(path: Path) -> Pairs:
    """Labelled pairs of a Parquet file."""
    rows = read(path)
    ids = list(zip(rows["ltable_id"], rows["rtable_id"], strict=True))
    return Pairs(ids, np.asarray(rows["label"], dtype=bool))


def train_unlabelled(session: Session) -> Linker:
    """Estimate u by random sampling and m by expectation maximisation over three blockings."""
    linker = session.linker(settings(session.columns))
    linker.training.estimate_u_using_random_sampling(
        max_pairs=MAX_PAIRS, seed=SEED, min_count_per_level=None, num_chunks=1
    )
    for column in BLOCKS:
        try:
            linker.training.estimate_parameters_using_expectation_maximisation(
                block_on(column), max_pairs=MAX_PAIRS
            )
        except ValueError as error:  # m underflows where a blocking finds next to no matches
            print(f"  no estimate by {column}: {str(error)[:80]}", file=sys.stderr)
    return linker


def train_documented(session: Session, linker: Linker, taught: Pairs) -> None:
    """Add the labels as Splink does: m from the labelled matches, prior from a strict rule."""
    matches = [key for key, label in zip(taught.ids, taught.labels, strict=True) if label]
    labels = pa.table(
        {
            "source_dataset_l": ["a"] * len(matches),
            "id_l": [left for left, _ in matches],
            "source_dataset_r": ["b"] * len(matches),
            "id_r": [right for _, right in matches],
        }
    )
    linker.training.estimate_m_from_pairwise_labels(session.api.register(labels))
    rule = sameness(session.columns)
    session.connection.register("taught", labels)
    [(hits,)] = session.connection.execute(
        "select count(*) from taught join records_a l on l.id = id_l "
        f"join records_b r on r.id = id_r where {rule}"
    ).fetchall()
    linker.training.estimate_probability_two_random_records_match(
        [rule], recall=(hits + 1) / (len(matches) + 2)
    )


def models(session: Session, taught: Pairs) -> Iterator[tuple[str, Linker]]:
    """Both trained models: ``labels`` starts from what was estimated without labels."""
    linker = train_unlabelled(session)
    levels = session.score(linker, taught.ids).levels
    start = linker.misc.save_model_to_json()
    train_documented(session, linker, taught)
    yield "documented", linker
    yield "labels", session.linker(smoothed(start, levels, taught.labels))


def best_threshold(weights: FloatArray, labels: BoolArray) -> float:
    """The weight with the best F1 on the labels, halfway to the next below."""
    order = np.argsort(-weights, kind="stable")
    found, wanted = weights[order], labels[order].astype(float)
    f1 = 2 * np.cumsum(wanted) / (np.arange(1, len(found) + 1) + wanted.sum())
    last = np.append(found[1:] != found[:-1], True)
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = found[best + 1] if best + 1 < len(found) else found[best]
    return float((found[best] + below) / 2)


def grade(truth: BoolArray, said: BoolArray) -> tuple[float, float, float]:
    """F1, precision and recall of the matches; 0 where undefined."""
    hits = float((truth & said).sum())
    n_true, n_said = float(truth.sum()), float(said.sum())
    f1 = 2 * hits / (n_true + n_said) if n_true + n_said else 0.0
    return f1, hits / n_said if n_said else 0.0, hits / n_true if n_true else 0.0


def interval(truth: BoolArray, said: BoolArray) -> tuple[float, float]:
    """95 % percentile bootstrap of F1 over the pairs."""
    rng = np.random.default_rng(SEED)
    draws = (rng.integers(0, len(truth), size=len(truth)) for _ in range(DRAWS))
    low, high = np.percentile([grade(truth[d], said[d])[0] for d in draws], [2.5, 97.5])
    return float(low), float(high)


def measure(folder: Path, split: str) -> list[Line]:
    """Train on the labels of ``fewshot`` and score the pairs of ``split``."""
    start = time.perf_counter()
    taught, asked = (read_pairs(folder / f"{name}.parquet") for name in ("fewshot", split))
    session = Session(folder)
    lines = []
    for name, linker in models(session, taught):
        cut = best_threshold(session.score(linker, taught.ids).weights, taught.labels)
        weights = session.score(linker, asked.ids).weights
        seconds = time.perf_counter() - start
        half, _, _ = grade(asked.labels, weights >= 0)
        said = weights >= cut
        f1, precision, recall = grade(asked.labels, said)
        low, high = interval(asked.labels, said)
        n, positives = len(asked.ids), int(asked.labels.sum())
        lines.append(
            Line(folder.name, name, n, positives, half, f1, precision, recall, low, high, seconds)
        )
    return lines


def row(line: Line) -> str:
    """A line in Markdown."""
    return (
        f"| {line.set} | {line.model} | {line.n} | {line.positives} | {line.f1_half:.3f} "
        f"| {line.f1:.3f} | {line.precision:.3f} | {line.recall:.3f} "
        f"| {line.low:.3f} to {line.high:.3f} | {line.seconds:.0f} |"
    )


def main() -> None:
    """Measure the sets, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of data sets")
    parser.add_argument("--set", nargs="+", default=list(SETS), help="names; all eight if left out")
    parser.add_argument("--split", choices=("test", "valid"), default="test")
    parser.add_argument("--json", type=Path, help="file to write")
    given = parser.parse_args()
    print("| set | model | n | positives | F1 at .5 | F1 | precision | recall | 95 % | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    lines = []
    for name in given.set:
        for line in measure(given.data / name, given.split):
            print(row(line), flush=True)
            lines.append(line)
    versions = {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}
    print(", ".join(f"{p} {v}" for p, v in versions.items()))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"versions": versions, "split": given.split, "lines": [asdict(x) for x in lines]}
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
