"""How often a guarantee holds, and how many questions it costs, on real pairs.

    python -m tests.bench.bench_guarantee --data DIR [--scores DIR] [--runs 200] [--set NAME ...]
    python -m tests.bench.bench_guarantee --data DIR --choose     the constants of the plan

The cheap answer is tier 0 with both tables known, fitted without any pair of the data set: sets
that the shipped calibration was fitted on are scored by one that leaves them out, which is fitted
here. The oracle is the gold label. Scores are kept in ``--scores``; the runs differ in their seed.
Beside it: `BARGAIN <https://arxiv.org/abs/2509.02896>`_'s way to accuracy, thresholds from the most
confident tenth down, uniform draws, no correction for the thresholds tried.

``--choose`` compares constants of the plan on training and validation pairs of sets that are not
among those three: the fewest questions, as the geometric mean over the sets.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyarrow import parquet

from meld_duckdb.features import certify as plans
from meld_duckdb.features.audit import Goal, Ledger
from meld_duckdb.features.certify import certify
from meld_duckdb.features.load import Calibration, load_calibration, read_calibration
from meld_duckdb.features.match import PairTables, TableIndex, pair_features, select_features
from meld_duckdb.train.calibrate_match import calibrate, read_table
from tests.bench.bench_sql import DEFAULT_DATA

SETS = ("dblp_scholar", "wdc_all", "dblp_acm")
"""The sets with the most test pairs; rel_text has as many as dblp_acm and holds the same pairs."""

CHOSEN_ON = ("abt_buy", "amazon_google", "walmart_amazon")
GRID = {
    "_FIRST": (0.002, 0.003, 0.005),
    "_PILOT": (32, 64, 96),
    "_PILOT_POWER": (0.25, 0.5),
    "_PRIOR": (2.0, 4.0),
    "_RATIO": (1.08, 1.12),
}
SPLITS = {"test": ("test",), "all": ("train", "valid", "test"), "seen": ("train", "valid")}
THRESHOLD = 0.5
_STEPS = 20
_CHUNK = 10


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Pairs of a set: probability of a match by tier 0, and whether they match."""

    likely: np.ndarray
    match: np.ndarray


@dataclass(frozen=True, slots=True)
class Run:
    """What one run reached and asked."""

    share: float
    n_asked: int
    n_drawn: int


def scored(folder: Path, scores: Path, splits: str) -> Scored:
    """Scores of a set, computed once."""
    path = scores / f"{folder.name}-{splits}.npz"
    if not path.is_file():
        scores.mkdir(parents=True, exist_ok=True)
        likely, match = _score(folder, _calibration(folder, scores), SPLITS[splits])
        np.savez(path, likely=likely, match=match)
    found = np.load(path)
    return Scored(found["likely"], found["match"])


def _calibration(folder: Path, scores: Path) -> Calibration:
    """The shipped calibration, or one fitted without the set."""
    shipped = load_calibration("match")
    if folder.name not in shipped.trained_on:
        return shipped
    path = scores / f"without_{folder.name}.json"
    if not path.is_file():
        path.write_text(json.dumps(calibrate(folder.parent, [folder.name])), "utf-8")
    return read_calibration("match", path.read_text("utf-8"))


def _score(
    folder: Path, calibration: Calibration, splits: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    rows = [row for s in splits for row in parquet.read_table(folder / f"{s}.parquet").to_pylist()]
    at = np.array([(at_left[r["ltable_id"]], at_right[r["rtable_id"]]) for r in rows])
    model = calibration.variant("context").model
    tables = PairTables(TableIndex(left), TableIndex(right))
    alone = pair_features([(left[a], right[b]) for a, b in at], None, tables.weights)
    features = select_features(model.features, alone, tables.context_features(at))
    return model.predict(features), np.array([r["label"] == 1 for r in rows])


def accuracy(pairs: Scored, target: float, delta: float, seed: int) -> Run:
    """One run of our way to a share of right answers."""
    yes = pairs.likely >= THRESHOLD
    wrong = yes != pairs.match
    doubt = np.where(yes, 1.0 - pairs.likely, pairs.likely)
    goal = Goal("accuracy", target, len(wrong))
    verdict = certify(goal, delta, doubt, _asking(wrong), np.random.default_rng(seed))
    share = 1.0 - (wrong.sum() - wrong[verdict.asked].sum()) / len(wrong)
    return Run(float(share), len(verdict.asked), verdict.n_drawn)


def precision(pairs: Scored, target: float, delta: float, seed: int) -> Run:
    """One run of our way to a share of right ones among the pairs returned."""
    returned = np.flatnonzero(pairs.likely >= THRESHOLD)
    wrong = ~pairs.match[returned]
    goal = Goal("precision", target, len(returned))
    doubt = 1.0 - pairs.likely[returned]
    verdict = certify(goal, delta, doubt, _asking(wrong), np.random.default_rng(seed))
    found = int(wrong[verdict.asked].sum())
    share = 1.0 - (wrong.sum() - found) / max(1, len(wrong) - found)
    return Run(float(share), len(verdict.asked), verdict.n_drawn)


def recall(pairs: Scored, target: float, delta: float, seed: int) -> Run:
    """One run of our way to a share of matches that are returned."""
    yes = pairs.likely >= THRESHOLD
    order = np.concatenate([np.flatnonzero(~yes), np.flatnonzero(yes)])
    n_no = int((~yes).sum())
    verdict = certify(
        Goal("recall", target, 0),
        delta,
        pairs.likely[order[:n_no]],
        _asking(pairs.match[order]),
        np.random.default_rng(seed),
        returned=pairs.likely[order[n_no:]],
    )
    found = yes.copy()
    found[order[verdict.asked]] = True
    share = (found & pairs.match).sum() / pairs.match.sum()
    return Run(float(share), len(verdict.asked), verdict.n_drawn)


def bargain(pairs: Scored, target: float, delta: float, seed: int) -> Run:
    """One run of thresholds from the most confident rows down, as in BARGAIN for accuracy."""
    yes = pairs.likely >= THRESHOLD
    doubt = np.where(yes, 1.0 - pairs.likely, pairs.likely)
    order = np.argsort(doubt, kind="stable")
    wrong, n = (yes != pairs.match)[order], len(order)
    rng = np.random.default_rng(seed)
    asked = np.zeros(n, dtype=bool)
    kept = 0
    for end in range(n // _STEPS, n + 1, max(1, n // _STEPS)):
        if not _tail_shown(wrong[:end], asked[:end], Goal("accuracy", target, n), delta, rng):
            break
        kept = end
    by_oracle = asked.copy()
    by_oracle[kept:] = True
    return Run(float(1.0 - wrong[~by_oracle].sum() / n), int(by_oracle.sum()), int(asked.sum()))


def _tail_shown(
    wrong: np.ndarray, asked: np.ndarray, goal: Goal, delta: float, rng: np.random.Generator
) -> bool:
    """Draw from the rows above a threshold until few enough wrong ones are left, or it seems not so.

    Rows asked about for the thresholds before are mended and left out, which is valid: they are
    known before this threshold's draws begin.
    """
    ledger = Ledger(goal, delta)
    rows = rng.permutation(np.flatnonzero(~asked))
    for at, row in enumerate(rows):
        left = float(len(rows) - at)
        if left <= ledger.level - 1 or ledger.missing == 0.0:
            return True
        rate = (ledger.hits + 0.5) / (at + 1)
        if at >= 5 * _CHUNK and rate * len(rows) > ledger.level:
            return False
        gap = max(0.0, ledger.level / left - rate)
        bet = min(gap / (rate * (1 - min(rate, 0.9)) + gap**2) / left, ledger.largest_bet(left))
        ledger.draw(bet, left, left, at_risk=True, is_hit=bool(wrong[row]))
        ledger.enter(at_risk=True, is_hit=bool(wrong[row]), credited=False)
        asked[row] = True
    return True


def _asking(hits: np.ndarray) -> Callable[[np.ndarray], list[int]]:
    return lambda rows: hits[rows].astype(int).tolist()


WAYS = {"accuracy": accuracy, "bargain": bargain, "precision": precision, "recall": recall}


def measure(pairs: Scored, way: str, target: float, delta: float, runs: int) -> dict[str, object]:
    """Many runs that differ in their seed."""
    started = time.perf_counter()
    done = [WAYS[way](pairs, target, delta, seed) for seed in range(runs)]
    asked = np.array([run.n_asked for run in done])
    return {
        "way": way,
        "rows": len(pairs.match),
        "target": target,
        "delta": delta,
        "runs": runs,
        "met": round(float(np.mean([run.share >= target - 1e-12 for run in done])), 4),
        "share_mean": round(float(np.mean([run.share for run in done])), 4),
        "share_min": round(min(run.share for run in done), 4),
        "asked_mean": round(float(asked.mean()), 1),
        "asked_p90": int(np.quantile(asked, 0.9)),
        "drawn_mean": round(float(np.mean([run.n_drawn for run in done])), 1),
        "times_fewer": round(len(pairs.match) / float(asked.mean()), 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def choose(data: Path, scores: Path, runs: int, target: float, delta: float) -> None:
    """Print a JSON line for each combination of constants, those with the fewest questions first."""
    sets = [scored(data / "EM" / name, scores, "seen") for name in CHOSEN_ON]
    found = []
    for values in itertools.product(*GRID.values()):
        for name, value in zip(GRID, values, strict=True):
            setattr(plans, name, value)
        asked = [
            float(str(measure(s, "accuracy", target, delta, runs)["asked_mean"])) for s in sets
        ]
        found.append((float(np.exp(np.mean(np.log(asked)))), values, asked))
    for mean, values, asked in sorted(found):
        print(json.dumps(dict(zip(GRID, values, strict=True)) | {"asked": asked, "mean": mean}))


def main() -> None:
    """Run from the command line; prints a JSON line for each set and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--scores", type=Path, default=Path("bench-results/guarantee"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--set", action="append", metavar="NAME")
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--pairs", choices=SPLITS, default="test")
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    if given.choose:
        choose(given.data, given.scores, given.runs, given.target, given.delta)
        return
    for name in given.set or SETS:
        pairs = scored(given.data / "EM" / name, given.scores, given.pairs)
        yes = pairs.likely >= THRESHOLD
        tier_0 = {
            "accuracy": float((yes == pairs.match).mean()),
            "precision": float(pairs.match[yes].mean()),
            "recall": float(yes[pairs.match].mean()),
        }
        for way in given.way or ("accuracy",):
            own = tier_0.get(way, tier_0["accuracy"])
            found = measure(pairs, way, given.target, given.delta, given.runs)
            print(
                json.dumps({"set": name, "pairs": given.pairs, "tier_0": round(own, 4)} | found),
                flush=True,
            )


if __name__ == "__main__":
    main()
