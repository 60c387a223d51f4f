"""Pseudo-labels: answers taken from the nearest neighbour where nothing comes close to it.

Paper: MELD §4.1, self-annotation: an unlabelled record and its most similar entry are taken for a
match, without a threshold. We ask more: the two are each other's nearest, similar enough, and the
second nearest of both is clearly further away. What that costs in wrong labels is measured; see
`estimate_noise` and ``docs/design/013-pseudo-labels.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meld_duckdb.errors import TrainingError
from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import Record, is_missing
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import NOTHING, HeldOut, question_key
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow

MINED = "mined"
"""Origin of a mismatch taken from the neighbours of a pair."""

THRESHOLD = 0.85
MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Scored:
    """Candidate pairs with a score: positions in both tables, in any order.

    Attributes:
        left: Positions in the left table, int [n].
        right: Positions in the right table, int [n].
        score: Cosine, lexical score or probability of a match, float [n].
    """

    left: np.ndarray
    right: np.ndarray
    score: np.ndarray

    @property
    def turned(self) -> Scored:
        """The same pairs with the sides exchanged."""
        return Scored(self.right, self.left, self.score)


@dataclass(frozen=True, slots=True)
class Mutual:
    """Two rows that are each other's nearest.

    Attributes:
        left: Position in the left table.
        right: Position in the right table.
        score: The lower of the scores in both directions.
        margin: Distance to the second nearest of either side, the smaller of both.
    """

    left: int
    right: int
    score: float
    margin: float


def mutual_nearest(
    forward: Scored,
    backward: Scored,
    threshold: float = THRESHOLD,
    margin: float = MARGIN,
    *,
    same: bool = False,
) -> list[Mutual]:
    """Find the pairs of rows that are each other's nearest, with a distance to all others.

    A row with a single candidate has its whole score as margin. Equal best scores leave no margin;
    with ``margin`` 0 they go to the lower position.

    Args:
        forward: At least the two best right rows of every left row.
        backward: At least the two best left rows of every right row, ``left`` and ``right`` as in
            ``forward``.
        threshold: Least score.
        margin: Least distance of the score to that of the second nearest, on both sides.
        same: Both are one table: a row is no partner of itself, and a pair counts once.

    Returns:
        Pairs by their left position.

    Raises:
        TrainingError: A threshold or margin is negative.
    """
    if threshold < 0 or margin < 0:
        raise TrainingError(f"threshold {threshold} and margin {margin} must not be negative")
    right_of = _nearest(forward, same)
    left_of = _nearest(backward.turned, same)
    found: list[Mutual] = []
    for left, (right, score, gap) in sorted(right_of.items()):
        back, back_score, back_gap = left_of.get(right, (-1, 0.0, 0.0))
        one = Mutual(left, right, min(score, back_score), min(gap, back_gap))
        if back == left and one.score >= threshold and one.margin >= margin:
            if not same or left < right:
                found.append(one)
    return found


def annotate_pairs(
    left: Sequence[Record],
    right: Sequence[Record],
    forward: Scored,
    backward: Scored,
    *,
    threshold: float = THRESHOLD,
    margin: float = MARGIN,
    held_out: HeldOut = NOTHING,
    negatives: int = 4,
    ceiling: float | None = None,
    weight: float | None = None,
    task: str = "match",
    same: bool = False,
) -> list[TrainingRow]:
    """Label the mutual nearest pairs of two tables as matches, and their rivals as mismatches.

    A pair held out gives no row, nor do its records become the match of another row because of
    that: who is nearest is decided before.

    Args:
        left: Left table.
        right: Right table.
        forward: See `mutual_nearest`.
        backward: See `mutual_nearest`.
        threshold: Least score.
        margin: Least distance to the second nearest.
        held_out: Pairs of test splits.
        negatives: Most mismatches made of each match: the best other partners of either record.
        ceiling: Highest score of a mismatch; None for any. Where a table holds an entity several
            times, the best other partners are matches too.
        weight: Of every row; None for the score of the match, cut to [0, 1].
        task: ``"match"`` or ``"schema_match"``.
        same: Both are one table.

    Returns:
        Matches with origin ``"self-annotated"``, each followed by its mismatches with origin
        ``"mined"``, whose source is the digest of the match.
    """
    mutual = mutual_nearest(forward, backward, threshold, margin, same=same)
    chosen = {(one.left, one.right) for one in mutual}
    rivals = _Rivals(forward, backward)
    found: dict[str, TrainingRow] = {}
    for one in mutual:
        query = _pair(task, left[one.left], right[one.right])
        if query is None or held_out.covers(query):
            continue
        weighs = min(max(one.score, 0.0), 1.0) if weight is None else weight
        match = _own(TrainingRow(task, query, "match", SELF_ANNOTATED, weight=weighs))
        found[query.digest] = match
        mined = 0
        for a, b, score in rivals.of(one):
            if mined == negatives:
                break
            if ceiling is not None and score > ceiling:
                continue
            if (a, b) in chosen or (same and ((b, a) in chosen or a == b)):
                continue
            other = _pair(task, left[a], right[b])
            if other is not None and other.digest not in found and not held_out.covers(other):
                row = TrainingRow(task, other, "mismatch", MINED, match.digest, weighs)
                found[other.digest] = row
                mined += 1
    return list(found.values())


def annotate_choices(
    task: str,
    queries: Sequence[Query],
    option_scores: Sequence[Mapping[str, float] | Sequence[tuple[str, float]]],
    threshold: float,
    margin: float,
    *,
    held_out: HeldOut = NOTHING,
    weight: float | None = None,
) -> list[TrainingRow]:
    """Label questions with their best option where it is good and clearly ahead of the second.

    Serves types, relations and entities with any scores of the options, and missing values with
    the votes of the nearest rows (`vote_values`).

    Args:
        task: Name of the task.
        queries: The questions; where one has a domain, only its options count.
        option_scores: Scores of the options of each question, in the same order.
        threshold: Least score of the best option.
        margin: Least distance to the second; a single option has its whole score as margin.
        held_out: Questions and records of test splits.
        weight: Of every row; None for the score of the option, cut to [0, 1].
    """
    rows: list[TrainingRow] = []
    for query, scores in zip(queries, option_scores, strict=True):
        pairs = scores.items() if isinstance(scores, Mapping) else scores
        allowed = None if query.domain is None else set(query.domain)
        ranked = sorted(
            ((score, option) for option, score in pairs if allowed is None or option in allowed),
            key=lambda item: -item[0],
        )
        if not ranked or is_missing(ranked[0][1]) or held_out.covers(query):
            continue
        best, option = ranked[0]
        second = ranked[1][0] if len(ranked) > 1 else 0.0
        if best >= threshold and best - second >= margin:
            weighs = min(max(best, 0.0), 1.0) if weight is None else weight
            rows.append(_own(TrainingRow(task, query, option, SELF_ANNOTATED, weight=weighs)))
    return rows


def vote_values(
    neighbours: Iterable[Sequence[tuple[str | None, float]]],
) -> list[list[tuple[str, float]]]:
    """Let the nearest rows vote on the value that is missing.

    Paper: MELD's authors rank the known values of the attribute by the similarity of their rows.
    A value counts its summed similarity; we share the total out, so that a margin means how far
    the neighbours agree.

    Args:
        neighbours: Of each question the values of its nearest rows with their similarities; rows
            without a value do not vote, nor does a similarity below zero.

    Returns:
        Of each question the values with their shares, best first, summing to 1; empty where
        nobody votes.
    """
    found: list[list[tuple[str, float]]] = []
    for near in neighbours:
        votes: dict[str, float] = {}
        for value, similarity in near:
            if value is not None and not is_missing(value) and similarity > 0:
                votes[value] = votes.get(value, 0.0) + similarity
        total = sum(votes.values())
        found.append(
            sorted(((v, s / total) for v, s in votes.items()), key=lambda x: (-x[1], x[0]))
        )
    return found


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """How many pseudo-labels a labelled sample says are wrong.

    Attributes:
        n_rows: Pseudo-labels given.
        n_checked: Those whose very question is labelled.
        n_wrong: Those of them with another answer.
        n_contradicted: Pseudo-matches, not among the checked, one of whose records a label
            matches with another record: wrong if an entity has one record in each table.
        rate: Wrong among checked, in [0, 1]; NaN where none could be checked.
        low: Lower end of the 95 % Wilson interval of ``rate``; 0 where none could be checked.
        high: Upper end; 1 where none could be checked.
    """

    n_rows: int
    n_checked: int
    n_wrong: int
    n_contradicted: int
    rate: float
    low: float
    high: float

    @property
    def metrics(self) -> dict[str, float]:
        """For the record of a stage."""
        if not self.n_checked:
            return {"checked": 0}
        return {
            "checked": self.n_checked,
            "wrong": self.n_wrong,
            "noise_low": round(self.low, 3),
            "noise_high": round(self.high, 3),
        }

    @property
    def one_to_one(self) -> float:
        """Wrong or contradicted among checked or contradicted; NaN where there are none."""
        checked = self.n_checked + self.n_contradicted
        return (self.n_wrong + self.n_contradicted) / checked if checked else float("nan")


def estimate_noise(
    rows: Iterable[TrainingRow], labelled: Iterable[TrainingRow], origin: str = SELF_ANNOTATED
) -> NoiseEstimate:
    """Estimate the share of wrong answers among pseudo-labels from a labelled sample.

    A pseudo-label is checked if its question is labelled, whatever the options and, for pairs,
    the order. The sample decides what the rate means: labelled pairs of a benchmark come from
    blocking, so a wrong pseudo-match nobody thought of as a candidate is not checked, unless a
    label matches one of its records with another record. Those are counted apart, because tables
    with several records of an entity may have both.

    Args:
        rows: Pseudo-labels; only rows with ``origin`` count.
        labelled: Labelled rows of the same tasks, never of a test split.
        origin: The origin checked; `MINED` checks the mismatches.
    """
    known: dict[tuple[str, str], str] = {}
    matched: set[tuple[str, str]] = set()
    for row in labelled:
        known[row.task, question_key(row.query)] = row.answer
        if row.answer == "match" and len(row.query.records) == 2:
            matched.update((row.task, record.digest) for record in row.query.records)
    n_rows = n_checked = n_wrong = n_contradicted = 0
    for row in rows:
        if row.origin != origin:
            continue
        n_rows += 1
        answer = known.get((row.task, question_key(row.query)))
        if answer is not None:
            n_checked += 1
            n_wrong += answer != row.answer
        elif row.answer == "match":
            ends = ((row.task, record.digest) for record in row.query.records)
            n_contradicted += any(end in matched for end in ends)
    low, high = wilson_interval(n_wrong, n_checked)
    rate = n_wrong / n_checked if n_checked else float("nan")
    return NoiseEstimate(n_rows, n_checked, n_wrong, n_contradicted, rate, low, high)


def wilson_interval(n_hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share; (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share, spread = n_hits / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _nearest(scored: Scored, same: bool) -> dict[int, tuple[int, float, float]]:
    """Of every left row the nearest right row, its score, and how far the second is behind."""
    order = np.lexsort((scored.right, -scored.score, scored.left))
    found: dict[int, tuple[int, float, float]] = {}
    for i in order.tolist():
        left, right, score = int(scored.left[i]), int(scored.right[i]), float(scored.score[i])
        if same and left == right:
            continue
        if left not in found:
            found[left] = (right, score, np.inf)
        elif found[left][0] != right and np.isinf(found[left][2]):
            best, top, _ = found[left]
            found[left] = (best, top, top - score)
    return {a: (b, s, s if np.isinf(gap) else gap) for a, (b, s, gap) in found.items()}


class _Rivals:
    """The next best partners of both records of a pair."""

    def __init__(self, forward: Scored, backward: Scored) -> None:
        self._of_left = _ranked(forward)
        self._of_right = _ranked(backward.turned)

    def of(self, pair: Mutual) -> list[tuple[int, int, float]]:
        """All other pairs with one of its records and their scores, best first."""
        scores: dict[tuple[int, int], float] = {}
        for right, score in self._of_left.get(pair.left, ()):
            scores[pair.left, right] = score
        for left, score in self._of_right.get(pair.right, ()):
            known = scores.get((left, pair.right), score)
            scores[left, pair.right] = max(score, known)
        scores.pop((pair.left, pair.right), None)
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        return [(left, right, score) for (left, right), score in ranked]


def _ranked(scored: Scored) -> dict[int, list[tuple[int, float]]]:
    found: dict[int, list[tuple[int, float]]] = {}
    rows = zip(scored.left.tolist(), scored.right.tolist(), scored.score.tolist(), strict=True)
    for left, right, score in rows:
        found.setdefault(left, []).append((right, score))
    return found


def _pair(task: str, a: Record, b: Record) -> Query | None:
    built = build_query(task, (dict(a.fields), dict(b.fields)))
    return built if isinstance(built, Query) else None


def _own(row: TrainingRow) -> TrainingRow:
    return replace(row, source=row.digest)
