"""What KcMF and each of its parts say about the schema-matching sets, and what that costs.

    python -m tests.bench.bench_kcmf --data DIR/SM --keep DIR [--set cms ...] [--labels all|0]
        [--candidates 10] [--variant NAME ...] [--mode choose] [--kb NAME ...] [--json FILE]

Both schemas of a set are indexed and the labels of its training split are taught (``--labels all``)
or none. Tier 0 ranks all pairs of the two schemas; a pair is a candidate if it is among the
``--candidates`` likeliest of either of its columns. KcMF alone (tier 2) answers the test pairs that
are candidates, the others count as mismatches. F1 is over all test pairs, with 95 % bootstrap intervals;
recall of the candidates, engine calls with and without pruning, and the baselines of ``meld eval`` on
the same pairs stand beside it. Variants: all, and all without rules, knowledge, self_indicator,
voting, demonstrations; bare is none of them. ``--keep`` holds the workspaces: a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.evaluate.ablation import kcmf_options
from meld_duckdb.evaluate.asking import load
from meld_duckdb.evaluate.case import Reply
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.labels import ALL, Request
from meld_duckdb.evaluate.layout import DataSet, find_datasets
from meld_duckdb.evaluate.metrics import binary_measures, interval
from meld_duckdb.evaluate.schemas import prepare_schema_match
from meld_duckdb.models import locate
from meld_duckdb.planner.knowing import Knowing
from meld_duckdb.planner.load_known import load_known
from meld_duckdb.planner.options import Options, parse_options
from meld_duckdb.planner.schema_pairs import nearest_pairs
from meld_duckdb.planner.session import Session
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.retrieval.known_bases import known_base
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.kcmf import in_base_order
from meld_duckdb.train import calibrate_match

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "SM"
TASK = "kcmf_schema_match"
SETS = ("imdb_sakila", "cms", "synthea")
_SIDES = ("source", "target")
_FIELDS = ("table", "column", "description", "table_description")
_PARTS = ("rules", "knowledge", "self_indicator", "voting", "demonstrations")
VARIANTS = {
    "all": (),
    **{f"without {part}": (part,) for part in _PARTS},
    "bare": _PARTS,
}


def measure(given: argparse.Namespace, data: DataSet) -> list[dict[str, Any]]:
    """A line per variant of one set."""
    labels = ALL if given.labels == "all" else int(given.labels)
    [case] = prepare_schema_match(data, Request(labels), encoder() if given.encoder else None)
    keep = given.keep / f"{data.name}-{given.labels}"
    started = not keep.exists()
    with fresh_connection(keep) as (connection, workspace):
        load(connection, case.exam)
        if started:
            for statement in case.exam.setup:
                connection.execute(statement).fetchall()
    settings, _ = resolve({"workspace": workspace, "progress": False, "starter": "none"})
    session = LocalService(settings).session
    for base in given.kb:
        add_base(session, base)
    rows = data.rows("pairs")
    sides = [
        list({r.digest: r for r in (record(row, side) for row in rows)}.values()) for side in _SIDES
    ]
    at = [{r.digest: i for i, r in enumerate(side)} for side in sides]
    asked = [row for row in rows if row["split"] == "test"]
    where = [tuple(at[s][record(row, _SIDES[s]).digest] for s in (0, 1)) for row in asked]
    truth = np.array([row["label"] == 1 for row in asked])
    likely = ranked(session, sides)
    near = set(nearest_pairs(likely, given.candidates))
    kept = [i for i, pair in enumerate(where) if pair in near]
    head = {
        "set": data.name,
        "labels": case.labels,
        "n": len(asked),
        "positives": int(truth.sum()),
        "candidates": len(near),
        "of pairs": likely.size,
        "asked": len(kept),
        "recall of candidates": round(float(truth[kept].sum() / max(1, truth.sum())), 4),
        "tier 0": baseline(likely, where, truth),
        "baselines": {
            name: round(binary_f1(rows, case, replies()), 4)
            for name, replies in case.baselines.items()
        },
    }
    print(json.dumps(head), flush=True)
    lines = []
    for name in given.variant:
        options = kcmf_sql(name, given)
        began = time.perf_counter()
        queries = [query(sides, where[i]) for i in kept]
        answers, outcome = session.planner.answer(ASKED[TASK], queries, options)
        shares = np.array([a.probability or 0.0 for a in answers])
        said = np.zeros(len(asked), dtype=bool)
        said[kept] = [a.value == "match" for a in answers]
        votes = [e for a in answers for e in a.evidence if e.kind == "vote"]
        line = {
            "variant": name,
            "mode": given.mode,
            **figures(truth, said),
            "auc of asked": round(calibrate_match.auc(truth[kept].astype(int), shares), 4),
            "votes": len(votes),
            "bad formats": sum(e.text.rpartition(": ")[2] not in ("yes", "no") for e in votes),
            "engine prompts": outcome.engine_prompts,
            "seconds": round(time.perf_counter() - began),
        }
        print(json.dumps(line), flush=True)
        lines.append({**head, **line})
    return lines


def record(row: dict[str, Any], side: str) -> Any:
    """A column as the exam words it."""
    return make_record({name: str(row.get(f"{side}_{name}") or "") for name in _FIELDS})


def query(sides: Any, at: Any) -> Query:
    """Could the source column be stored in the target column? A is the target."""
    return Query((sides[1][at[1]], sides[0][at[0]]))


def ranked(session: Session, sides: Any) -> np.ndarray:
    """Probability of every pair by tier 0, [sources, targets]."""
    pairs = [(i, j) for i in range(len(sides[0])) for j in range(len(sides[1]))]
    queries = [in_base_order(query(sides, pair)) for pair in pairs]
    answers, _ = session.planner.answer(ASKED["schema_match"], queries, Options(tier="t0"))
    likely = np.array([a.probability or 0.0 for a in answers])
    return likely.reshape(len(sides[0]), len(sides[1]))


def baseline(likely: np.ndarray, where: Any, truth: np.ndarray) -> dict[str, Any]:
    """Tier 0 on the test pairs, at the cut of the product and at the best cut."""
    shares = np.array([likely[pair] for pair in where])
    best = max(calibrate_match.f1(truth, shares >= cut) for cut in np.unique(shares))
    return {
        "auc": round(calibrate_match.auc(truth.astype(int), shares), 4),
        "best f1": round(float(best), 4),
    }


def figures(truth: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """F1 with its interval, precision, recall."""
    measures = binary_measures(truth.tolist(), said.tolist())
    low, high = interval(measures[0], 42)
    found: dict[str, Any] = {m.name: round(m.value, 4) for m in measures}
    return {**found, "low": round(low, 4), "high": round(high, 4)}


def binary_f1(rows: Any, case: Any, replies: list[Reply]) -> float:
    """Headline of a baseline."""
    value: float = case.gold.grade(replies)[0].value
    return value


def kcmf_sql(variant: str, given: argparse.Namespace) -> Options:
    """Options of a variant; those of ``meld eval`` are SQL literals."""
    literals = kcmf_options(TASK, VARIANTS[variant], mode=given.mode, has_bases=bool(given.kb))
    values = {name: json.loads(text.replace("'", '"')) for name, text in literals.items()}
    return parse_options(TASK, {**values, "tier": "t2"}, on_error="null")


def encoder() -> Any:
    """The packaged encoder."""
    settings, _ = resolve()
    path = locate(settings.answer.encoder, settings.model_dir, "encoder")
    return Encoder(path, device="cpu").encode


def add_base(session: Session, name: str) -> None:
    """Load a public knowledge base, once."""
    load_known(Knowing(session), known_base(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--set", nargs="*", dest="names", default=list(SETS))
    parser.add_argument("--labels", default="all")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--variant", nargs="*", default=list(VARIANTS))
    parser.add_argument("--mode", default="choose", choices=["choose", "generate"])
    parser.add_argument("--kb", nargs="*", default=[])
    parser.add_argument("--encoder", action="store_true", help="encoder baselines too")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for name in given.names:
        [data] = [d for d in find_datasets(given.data, "schema_match") if d.name == name]
        found += measure(given, data)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
