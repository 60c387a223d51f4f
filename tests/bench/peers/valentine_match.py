"""Schema matching with Valentine on the same pairs as ``meld eval --task schema_match``.

    python tests/bench/peers/valentine_match.py --data DIR [--set cms ...] [--json FILE]

DIR holds a folder per set with ``pairs`` (Parquet). Every source table is matched with every target
table by the names of their columns. Labels of ``train`` and ``valid`` set a threshold and nothing
else; the labels of ``test`` are read for the score only. Valentine downloads WordNet and the stop
words for Cupid and for descriptions unless NLTK has them (``NLTK_DATA``).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import rankdata
from splink_match import BoolArray, FloatArray, best_threshold, grade, interval
from valentine import MatcherResults, valentine_match
from valentine.algorithms import BaseMatcher, ColumnPair, Coma, Cupid, SimilarityFlooding
from valentine.algorithms.cupid import cupid_model

SETS = ("cms", "synthea", "imdb_sakila")
NEAR = 5
PACKAGES = ("valentine", "pandas", "nltk", "networkx", "rapidfuzz", "numpy", "scipy", "pyarrow")

Scores = Mapping[ColumnPair, float]
Schema = dict[str, dict[str, str]]
"""Description of each column, by table and column."""


class OpenCupid(Cupid):
    """Cupid that keeps every pair of columns: the same scores, without ``th_accept`` at the end.

    A lower ``th_accept`` would change the structural similarity as well.
    """

    def get_matches(self, source_input: Any, target_input: Any) -> dict[ColumnPair, float]:
        name, keep = "mapping_generation_leaves", cupid_model.mapping_generation_leaves

        def everything(source: Any, target: Any, sims: Any, _: float) -> dict[ColumnPair, float]:
            return keep(source, target, sims, 0.0)

        with patch.object(cupid_model, name, everything):
            return super().get_matches(source_input, target_input)


@dataclass(frozen=True, slots=True)
class Matcher:
    """A matcher of Valentine.

    Attributes:
        plain: Makes it with the settings of the documentation.
        open: Makes it such that pairs it would leave out have their score as well.
        reads_descriptions: Descriptions are the only value of their column; else names alone.
    """

    plain: Callable[[], BaseMatcher]
    open: Callable[[], BaseMatcher]
    reads_descriptions: bool = False


MATCHERS = {
    "Coma": Matcher(Coma, partial(Coma, delta=1.0)),
    "Coma, descriptions": Matcher(
        partial(Coma, use_instances=True), partial(Coma, use_instances=True, delta=1.0), True
    ),
    "Cupid": Matcher(Cupid, OpenCupid),
    "SimilarityFlooding": Matcher(SimilarityFlooding, SimilarityFlooding),
}


@dataclass(frozen=True, slots=True)
class Pairs:
    """The labelled pairs of a set, and its tables."""

    keys: list[ColumnPair]
    truth: BoolArray
    split: npt.NDArray[np.str_]
    sources: Schema
    targets: Schema


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the result: one matcher on one set. Ratios are in [0, 1]."""

    set: str
    matcher: str
    n: int
    positives: int
    f1: float
    precision: float
    recall: float
    low: float
    high: float
    f1_output: float
    f1_one_to_one: float
    auc: float
    recall_at_5: float
    mrr: float
    seconds: float
    predictions: list[tuple[bool, float, bool]] = field(repr=False)
    """Label, score and answer of each test pair, in the order of the file."""


def read_pairs(path: Path) -> Pairs:
    """Read the labelled pairs of a set."""
    rows = pq.read_table(path).to_pylist()
    schemas: dict[str, Schema] = {"source": {}, "target": {}}
    for row, side in product(rows, schemas):
        columns = schemas[side].setdefault(row[f"{side}_table"], {})
        columns.setdefault(row[f"{side}_column"], row[f"{side}_description"])
    return Pairs(
        [ColumnPair(*(row[part] for part in ColumnPair._fields)) for row in rows],
        np.array([row["label"] == 1 for row in rows]),
        np.array([row["split"] for row in rows]),
        schemas["source"],
        schemas["target"],
    )


def match(pairs: Pairs, make: Callable[[], BaseMatcher], reads_descriptions: bool) -> Scores:
    """Match every source table with every target table.

    A matcher is made for each pair of tables because Cupid adds a table that it has seen before to
    its tree a second time (valentine 1.0.1).
    """
    if same := pairs.sources.keys() & pairs.targets.keys():
        raise ValueError(f"tables of both sides have a name that tells them apart, got {same}")
    found: dict[ColumnPair, float] = {}
    for (source, left), (target, right) in product(pairs.sources.items(), pairs.targets.items()):
        frames = [
            pd.DataFrame([columns] if reads_descriptions else [], columns=list(columns))
            for columns in (left, right)
        ]
        found.update(valentine_match(frames, make(), df_names=[source, target]))
    return found


def auc(scores: FloatArray, truth: BoolArray) -> float:
    """Area under the ROC curve, ties count half."""
    hits, n = int(truth.sum()), len(truth)
    above = rankdata(scores)[truth].sum() - hits * (hits + 1) / 2
    return float(above / (hits * (n - hits)))


def ranks(pairs: Pairs, scores: FloatArray) -> npt.NDArray[np.int64]:
    """Rank of each right test pair among the wrong pairs of its source column; ties count against.

    As in ``meld eval``, pairs of ``valid`` compete and pairs of ``train`` do not.
    """
    wrong: dict[tuple[str, str], list[float]] = {}
    asked = pairs.split != "train"
    for i in np.flatnonzero(asked & ~pairs.truth):
        wrong.setdefault(pairs.keys[i].source, []).append(scores[i])
    return np.array(
        [
            1 + int((np.array(wrong.get(pairs.keys[i].source, [])) >= scores[i]).sum())
            for i in np.flatnonzero(pairs.truth & (pairs.split == "test"))
        ]
    )


def measure(name: str, pairs: Pairs, label: str, matcher: Matcher) -> Line:
    """Match the tables of a set and grade the test pairs.

    Seconds are those of the plain matcher.
    """
    start = time.perf_counter()
    output = match(pairs, matcher.plain, matcher.reads_descriptions)
    seconds = time.perf_counter() - start
    found = output
    if matcher.open is not matcher.plain:
        found = match(pairs, matcher.open, matcher.reads_descriptions)
        if any(abs(found[pair] - score) > 1e-12 for pair, score in output.items()):
            raise RuntimeError(f"{label}: other scores where nothing is left out")
    one_to_one = MatcherResults(dict(output)).one_to_one_hungarian()
    scores = np.array([found.get(key, 0.0) for key in pairs.keys])
    is_test = pairs.split == "test"
    truth = pairs.truth[is_test]
    said = scores[is_test] >= best_threshold(scores[~is_test], pairs.truth[~is_test])
    f1, precision, recall = grade(truth, said)

    def f1_of(kept: Scores) -> float:
        return grade(truth, np.array([key in kept for key in pairs.keys])[is_test])[0]

    placed = ranks(pairs, scores)
    asked = zip(truth.tolist(), scores[is_test].round(6).tolist(), said.tolist(), strict=True)
    return Line(
        name, label, len(truth), int(truth.sum()), f1, precision, recall, *interval(truth, said),
        f1_of(output), f1_of(one_to_one), auc(scores[is_test], truth),
        float((placed <= NEAR).mean()), float((1 / placed).mean()), seconds, list(asked),
    )  # fmt: skip


def row(line: Line) -> str:
    """A line in Markdown."""
    return (
        f"| {line.set} | {line.matcher} | {line.n:,} | {line.positives} "
        f"| {line.f1:.3f} ({line.low:.3f} to {line.high:.3f}) | {line.precision:.3f} "
        f"| {line.recall:.3f} | {line.f1_output:.3f} | {line.f1_one_to_one:.3f} | {line.auc:.3f} "
        f"| {line.recall_at_5:.3f} | {line.mrr:.3f} | {line.seconds:.0f} |"
    )


def main() -> None:
    """Measure the sets, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of data sets")
    parser.add_argument("--set", nargs="+", default=list(SETS), help="names; all three if left out")
    parser.add_argument("--json", type=Path, help="file to write")
    given = parser.parse_args()
    paths = {name: given.data / name / "pairs.parquet" for name in given.set}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        parser.error(f"no file {', '.join(missing)}")
    head = (
        "set", "matcher", "pairs", "matches", "F1", "precision", "recall", "F1 of output",
        "F1 one to one", "AUC", "recall@5", "MRR", "seconds",
    )  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
    lines = []
    for name, path in paths.items():
        pairs = read_pairs(path)
        for label, matcher in MATCHERS.items():
            lines.append(measure(name, pairs, label, matcher))
            print(row(lines[-1]), flush=True)
    versions = {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}
    print(", ".join(f"{p} {v}" for p, v in versions.items()))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"versions": versions, "lines": [asdict(x) for x in lines]}
        given.json.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
