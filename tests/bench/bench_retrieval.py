"""What training does for retrieval and matching, with the few-shot labels of every matching data set.

    python -m tests.bench.bench_retrieval --data DIR [--set NAME ...] [--keep DIR] [--json FILE]
        [--match]

For each set: a fresh workspace is taught the labels of ``meld eval`` and trained
(``meld train --stages retrieval``) with the test pairs held out. Then the gold pairs of all splits
that are no label are sought: recall@1 and @10 of the lexical search, of the encoder as it is, of the
encoder as tuned, and of both lists together (reciprocal ranks summed). A hit is the right row or
one of equal content. With ``--match`` the test pairs are answered with tier 0 and with what the
training decided, F1 with 95 % bootstrap intervals. A workspace kept with ``--keep`` is gone on with.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.evaluate.asking import load
from meld_duckdb.evaluate.case import TIER, Case, Reply
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.labels import Request
from meld_duckdb.evaluate.layout import DataSet, find_datasets
from meld_duckdb.evaluate.metrics import interval
from meld_duckdb.evaluate.run import prepare
from meld_duckdb.evaluate.training import train
from meld_duckdb.features.context import comparable_text
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.blocking import find_candidates
from meld_duckdb.service import LocalService
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.serialise import embedding_text

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "EM"
_DEPTH = 100


def measure(data: DataSet, keep: Path | None, with_match: bool) -> dict[str, Any]:
    """Train on one data set and measure it."""
    [case] = prepare("match", data, Request(), None)
    with fresh_connection(keep) as (connection, workspace):
        load(connection, case.exam)
        for statement in case.exam.setup:
            connection.execute(statement).fetchall()
        started = time.perf_counter()
        lines = train(
            connection, workspace, "match", case.exam, lambda line: print(line, flush=True)
        )
        seconds = time.perf_counter() - started
        found = {
            "set": data.name,
            "labels": case.labels,
            "training seconds": round(seconds),
            "stages": lines,
            **recalls(data, workspace),
        }
        if with_match:
            found |= {f"match {tier}": f1(case, connection, tier) for tier in ("t0", "auto", "t1")}
    return found


def recalls(data: DataSet, workspace: Path) -> dict[str, Any]:
    """Recall of the gold pairs that are no label, by each way to search."""
    at_left, left = _table(data, "tableA")
    at_right, right = _table(data, "tableB")
    gold = _gold(data, at_left, at_right)
    contents = [comparable_text(r) for r in right]
    settings, _ = resolve({"workspace": workspace, "progress": False})
    session = LocalService(settings).session
    limit = settings.answer.max_record_chars
    ranked = {"lexical": _lexical(left, right)}
    ranked["untuned"] = _dense(
        *(
            _kept(
                workspace / f"untuned-{side}.npy",
                lambda table=table: session.untuned_encoder.encode(
                    [embedding_text(r, limit) for r in table]
                ),
            )
            for side, table in (("left", left), ("right", right))
        )
    )
    if session.encoder is not session.untuned_encoder:
        # The workspace has these vectors already.
        ranked["tuned"] = _dense(session.embed(left, "tableA"), session.embed(right, "tableB"))
    for name in ("untuned", "tuned"):
        if name in ranked:
            ranked[f"lexical + {name}"] = _fused(ranked["lexical"], ranked[name])
    return {
        name: {
            f"recall@{k}": round(
                float(
                    np.mean([contents[b] in {contents[j] for j in rows[a][:k]} for a, b in gold])
                ),
                4,
            )
            for k in (1, 10)
        }
        for name, rows in ranked.items()
    } | {"gold pairs": len(gold)}


def _table(data: DataSet, name: str) -> tuple[dict[str, int], list[Record]]:
    rows = data.rows(name)
    return {str(r["id"]): i for i, r in enumerate(rows)}, [make_record(r) for r in rows]


def _gold(data: DataSet, left: dict[str, int], right: dict[str, int]) -> list[tuple[int, int]]:
    labelled = {(str(r["ltable_id"]), str(r["rtable_id"])) for r in data.rows("fewshot")}
    pairs = {
        (str(r["ltable_id"]), str(r["rtable_id"])): None
        for part in ("train", "valid", "test")
        if data.has(part)
        for r in data.rows(part)
        if r["label"] == 1
    }
    return [(left[a], right[b]) for a, b in pairs if (a, b) not in labelled]


def _lexical(left: Sequence[Record], right: Sequence[Record]) -> list[list[int]]:
    found = find_candidates(left, right, _DEPTH, vectors=None, lexical=True, same=False)
    rows: list[list[int]] = [[] for _ in left]
    for a, b in zip(found.left.tolist(), found.right.tolist(), strict=True):
        rows[a].append(b)
    return rows


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What was made before, or is made now."""
    if not path.is_file():
        np.save(path, make())
    found: np.ndarray = np.load(path)
    return found


def _dense(left: np.ndarray, right: np.ndarray) -> list[list[int]]:
    rows = []
    for start in range(0, len(left), 512):
        scores = left[start : start + 512] @ right.T
        rows.extend(np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH].tolist())
    return rows


def _fused(one: list[list[int]], two: list[list[int]]) -> list[list[int]]:
    """Reciprocal rank fusion with the usual constant 60."""
    fused = []
    for lists in zip(one, two, strict=True):
        score: dict[int, float] = {}
        for ranking in lists:
            for rank, row in enumerate(ranking):
                score[row] = score.get(row, 0.0) + 1 / (60 + rank + 1)
        fused.append(sorted(score, key=lambda row: (-score[row], row)))
    return fused


def f1(case: Case, connection: Any, tier: str) -> dict[str, Any]:
    """Answer the test pairs with one tier and grade them."""
    replies = [Reply()] * case.exam.n
    asked = connection.execute(case.exam.ask.replace(TIER, f"'{tier}'")).fetchall()
    for n, answer, probability, ranking, settled, error in asked:
        replies[n] = Reply(answer, probability, tuple(ranking or ()), settled, error)
    headline = case.gold.grade(replies)[0]
    low, high = interval(headline, 42)
    tiers = [r.tier for r in replies]
    return {
        "f1": round(headline.value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "by tier 1": tiers.count(1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", nargs="*", dest="names")
    parser.add_argument("--keep", type=Path, help="directory of workspaces to keep and go on with")
    parser.add_argument("--match", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = []
    for data in find_datasets(given.data, "match"):
        if given.names and data.name not in given.names:
            continue
        print(f"== {data.name}", flush=True)
        keep = None if given.keep is None else given.keep / data.name
        found.append(measure(data, keep, given.match))
        print(json.dumps(found[-1], indent=1), flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
