"""Refinement: an expert learns on, round by round, with rows of other data sets beside its own.

Each round adds rows of the same task that lie far from the expert's own (diversity) and are
certain (relevance), goes on from the round before, and counts only if the labels set aside are
answered better.

Paper: MELD §4.3 (sigma rounds, 3 by default) states an information-theoretic objective and gives
no estimate of it; what is done here is the loop itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meld_duckdb.engine.adapters import files_digest
from meld_duckdb.errors import ArtefactMissing
from meld_duckdb.planner.router import Vectors
from meld_duckdb.records import digest
from meld_duckdb.train.lora import VERSION
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.workspace import write_atomic

Score = tuple[float, float]
"""Metric and the negative log-loss that decides between equals; higher is better."""


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """How experts are refined.

    Attributes:
        rounds: Rounds, the paper's sigma; 0 leaves refinement out.
        quota: Rows of other data sets that a round adds, by answer for tasks with two: three of
            four of them have the first, as in the authors' mixtures.
        nearest: Share of the other rows, those most similar to the own ones, that is not drawn
            from.
    """

    rounds: int = 3
    quota: int = 96
    nearest: float = 0.25


@dataclass(frozen=True, slots=True)
class Round:
    """One round: rows added, its score, and whether it is the best so far."""

    number: int
    added: int
    score: Score
    best: bool


def refine(
    start: Path,
    first: Score,
    rounds: Sequence[Sequence[TrainingRow]],
    learn_on: Callable[[int, Path, Sequence[TrainingRow]], Path],
    score: Callable[[Path], Score],
) -> tuple[Path, list[Round]]:
    """Run the rounds.

    Args:
        start: The adapter to begin with.
        first: Its score.
        rounds: Rows that each round adds.
        learn_on: Trains from an adapter with added rows, into the place of a round's number.
        score: Evaluates an adapter on labels that were set aside.

    Returns:
        The best adapter, and what came of each round.
    """
    best, top, last = start, first, start
    log = [Round(0, 0, first, True)]
    for number, rows in enumerate(rounds, 1):
        last = learn_on(number, last, rows)
        found = score(last)
        better = found > top
        log.append(Round(number, len(rows), found, better))
        if better:
            best, top = last, found
    return best, log


def finished_round(out: Path, inputs: Sequence[str], train: Callable[[], object]) -> Path:
    """Train the adapter of a round, or take it as it is where a killed run had finished it.

    Args:
        out: Directory of the adapter; what it was made from is noted in a file beside it.
        inputs: Digests of all that it depends on.
        train: Trains it into ``out``.

    Returns:
        ``out``.
    """
    note = out.with_name(f"{out.name}.made")
    key = digest("round", str(VERSION), *inputs)
    if not note.is_file() or note.read_bytes() != _made(key, out).encode():
        train()
        write_atomic(note, _made(key, out))
    return out


def _made(key: str, out: Path) -> str:
    try:
        return f"{key} {files_digest(out)}"
    except ArtefactMissing:
        return f"{key} nothing"


def diverse_rows(
    own: Vectors,
    others: Sequence[TrainingRow],
    vectors: Vectors,
    settings: RefineSettings,
    positive: str | None,
    seed: int,
) -> list[list[TrainingRow]]:
    """Draw the rows that each round adds; none is drawn twice.

    Args:
        own: Vectors of the expert's own questions, float32 [n, d].
        others: Rows of other data sets, same task.
        vectors: Of their questions, float32 [m, d].
        settings: See `RefineSettings`.
        positive: First answer of a task with two; None for the others.
        seed: Of the draw.

    Returns:
        A list per round; shorter ones where the rows run out.
    """
    if not others or not settings.rounds or not len(own):
        return [[] for _ in range(settings.rounds)]
    nearness = (vectors @ own.T).max(axis=1)
    far = np.argsort(nearness, kind="stable")[
        : max(1, round(len(others) * (1 - settings.nearest)))
    ].tolist()
    # The sure ones first, then by chance that does not depend on the order they came in.
    far.sort(key=lambda i: (-others[i].weight, digest("refine", str(seed), others[i].digest)))
    pools: list[tuple[list[int], int]]
    if positive is None:
        pools = [(far, settings.quota)]
    else:
        yes = [i for i in far if others[i].answer == positive]
        no = [i for i in far if others[i].answer != positive]
        wanted = round(settings.quota * 0.75)
        pools = [(yes, wanted), (no, settings.quota - wanted)]
    return [
        [others[i] for pool, size in pools for i in pool[r * size : (r + 1) * size]]
        for r in range(settings.rounds)
    ]
