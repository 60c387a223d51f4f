"""Measure whether the language model adds to tier 0, and write ``calibration/tiers.json``.

    python -m meld_duckdb.train.calibrate_tiers --data DIR [--model NAME] [--rows N] [--tasks T ...]
        [--out FILE]

On labelled rows of training or validation splits (never test) that tier 0 is unsure of, both tiers
answer the same questions. The model answers with the starter's expert of the task, if there is one
for it, which learned from none of the rows. The model is used for a task only if it is right more
often there, for a task with two answers only if its F1 is higher, also than that of saying yes to
all, with 95 % bootstrap confidence.
Entries of other models in the file are kept.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from meld_duckdb.planner.cascade import UNSURE
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.session import Session
from meld_duckdb.settings import DEFAULT_MODEL, resolve
from meld_duckdb.starter import BUILT_IN
from meld_duckdb.tasks import ASKED
from meld_duckdb.train import calibrate_schema_match
from meld_duckdb.train.calibrate_match import DATA_SETS
from meld_duckdb.train.calibration import SEED, write_json
from meld_duckdb.train.cross_dataset import DrawSettings, left_out_rows
from meld_duckdb.train.starter_stages import DRAWN
from meld_duckdb.train.training_rows import SOURCES, Labelled, receiving_rows

_LOG = logging.getLogger(__name__)


def unlearned(data: Path, task: str) -> list[list[Labelled]]:
    """Questions of data sets that the starter's expert of a task has not learned from, a list each.

    Validation rows where there are some, since tier 0 learned from training rows; for tasks with
    one data set, rows of it that the expert has not learned from.
    """
    drawn = DRAWN[task]
    if task in _VALIDATED:
        found = zip(_VALIDATED[task], SOURCES[task](data), strict=True)
        return [labelled for name, labelled in found if name in drawn.leave_out]
    rows = left_out_rows(data, task, drawn.leave_out, DrawSettings(quota=drawn.quota), _ALL)
    sets: dict[str, list[Labelled]] = {}
    for row in rows:
        sets.setdefault(row.origin, []).append((row.query, row.answer))
    return list(sets.values())


MEASURED: dict[str, Callable[[Path], Iterable[list[Labelled]]]] = {
    **{task: functools.partial(unlearned, task=task) for task in SOURCES},
    "kcmf_schema_match": receiving_rows,
    "kcmf_entity_match": SOURCES["match"],
}
"""Every task to the function that reads its questions, a list per data set."""

_ALL = 1_000_000
_VALIDATED = {"match": DATA_SETS, "schema_match": calibrate_schema_match.DATASETS}

ROWS = 120
"""Questions asked per task."""

LEAST_ACCURACY = 0.5
"""An open task uses generated values only if so many of them are right."""


def measure(
    session: Session, task: str, sets: Sequence[list[Labelled]], rows: int
) -> dict[str, object]:
    """Compare the tiers on unsure rows of several data sets.

    Returns:
        The entry for ``tiers.json``: ``use``, the band ``low`` to ``high``, ``reason``, figures.
    """
    chosen, tier0 = _unsure_rows(session, task, sets, rows)
    queries = {query.digest: query for query, _ in chosen}
    answers, _ = session.planner.answer(ASKED[task], list(queries.values()), Options(tier="t2"))
    said = dict(zip(queries, answers, strict=True))
    first = np.array([a == y for a, (_, y) in zip(tier0, chosen, strict=True)], dtype=float)
    second = np.array([said[q.digest].value == y for q, y in chosen], dtype=float)
    reason = (
        f"on {len(chosen)} labelled rows that tier 0 was unsure of, tier 0 was right on "
        f"{first.mean():.0%} and this model on {second.mean():.0%}"
    )
    entry = {
        "low": UNSURE[0],
        "high": UNSURE[1],
        "adapted": any(card.task == task for card in session.mixture.cards.values()),
        "n": len(chosen),
        "tier0_accuracy": round(float(first.mean()), 4),
        "tier2_accuracy": round(float(second.mean()), 4),
    }
    labels = ASKED[task].labels
    if labels is None:
        gains = _resampled(len(chosen), lambda at: float((second - first)[at].mean()))
        use = np.quantile(gains, 0.025) > 0 and second.mean() >= LEAST_ACCURACY
        return {**entry, "use": bool(use), "reason": reason}
    # Where few rows match, a no to every one is mostly right, and of no use; where most do, a yes.
    values = (tier0, [said[q.digest].value for q, _ in chosen])
    before, after = (np.array([v == labels[0] for v in each]) for each in values)
    truth = np.array([y == labels[0] for _, y in chosen])
    use = all(
        np.quantile(_resampled(len(chosen), functools.partial(_gain, truth, other, after)), 0.025)
        > 0
        for other in (before, np.ones_like(truth))
    )
    f1 = {"tier0_f1": round(_f1(truth, before), 4), "tier2_f1": round(_f1(truth, after), 4)}
    always = round(_f1(truth, np.ones_like(truth)), 4)
    reason += (
        f", F1 {f1['tier0_f1']:.2f} and {f1['tier2_f1']:.2f}, {always:.2f} by always saying "
        f"{labels[0]}"
    )
    return {**entry, **f1, "always_f1": always, "use": bool(use), "reason": reason}


def _gain(truth: np.ndarray, before: np.ndarray, after: np.ndarray, at: np.ndarray) -> float:
    """What the F1 of some rows rises by."""
    return _f1(truth[at], after[at]) - _f1(truth[at], before[at])


def _f1(truth: np.ndarray, found: np.ndarray) -> float:
    return float(2 * (truth & found).sum() / max(1, truth.sum() + found.sum()))


def _unsure_rows(
    session: Session, task: str, sets: Sequence[list[Labelled]], rows: int
) -> tuple[list[Labelled], list[str | None]]:
    """Rows of several data sets that tier 0 is unsure of, as many of each, and what it says."""
    rng = random.Random(SEED)
    chosen: list[Labelled] = []
    tier0: list[str | None] = []
    for labelled in sets:
        sample = rng.sample(labelled, min(len(labelled), 20 * rows))
        answers, _ = session.planner.answer(ASKED[task], [q for q, _ in sample], Options(tier="t0"))
        unsure = [
            (pair, answer.value)
            for pair, answer in zip(sample, answers, strict=True)
            if answer.value is None or UNSURE[0] < (answer.probability or 0.0) < UNSURE[1]
        ][: rows // len(sets)]
        chosen += [pair for pair, _ in unsure]
        tier0 += [value for _, value in unsure]
    return chosen, tier0


def _resampled(n: int, gain: Callable[[np.ndarray], float]) -> np.ndarray:
    """A gain on 2,000 bootstrap samples of n rows, each given by its positions."""
    picks = np.random.default_rng(SEED).integers(0, n, size=(2_000, n))
    return np.array([gain(at) for at in picks])


def main() -> None:
    """Measure one model on all tasks and write its entries."""
    default = Path(__file__).parent.parent / "calibration" / "tiers.json"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of the benchmark data")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="base model to measure")
    parser.add_argument("--rows", type=int, default=ROWS, help="questions per task")
    parser.add_argument("--tasks", nargs="*", choices=list(MEASURED), help="tasks to measure; all")
    parser.add_argument("--out", type=Path, default=default, help="file to write")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    content = json.loads(given.out.read_text("utf-8")) if given.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        settings, _ = resolve({"workspace": folder, "model": given.model, "starter": BUILT_IN})
        session = Session(settings, lambda text: _LOG.info("%s", text))
        for task in given.tasks or MEASURED:
            entry = measure(session, task, list(MEASURED[task](given.data)), given.rows)
            _LOG.info("%s: %s", task, entry)
            content.setdefault(task, {})[given.model] = entry
            write_json(given.out, content)


if __name__ == "__main__":
    main()
