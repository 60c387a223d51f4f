"""Error detection and repair of a table, fitted to what is labelled of it.

The weights of the candidates' features (`features.repair`) start from `PRIOR` and are moved by the
labelled cells of all columns together, each described as if its row were not labelled. So a
handful of labelled rows suffices, and none at all still gives an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb.features.choose import fit_weights, probabilities
from meld_duckdb.features.columns import TableProfile
from meld_duckdb.features.repair import (
    FEATURES,
    OTHER,
    ColumnRepairs,
    FloatArray,
    Question,
    rareness,
)
from meld_duckdb.features.repair_labels import CellLabel, ColumnLabels
from meld_duckdb.records import Record, digest

Odd = Callable[[Sequence[Record], Sequence[str]], Sequence[float]]
"""Log-odds of cells (records, their columns) to be wrong, without labels."""

PRIOR: Mapping[str, float] = {
    "keeps": 1.6,
    "other": 1.6,
    "right same value": 0.3,
    "right same format": 0.9,
    "right column": 0.5,
    "wrong same value": 1.6,
    "wrong same format": 1.1,
    "wrong column": 0.8,
    "other in wrong format": 0.0,
    "odd value": 0.3,
    "usual value": 0.3,
    "odd value where errors are rare": 2.7,
    "usual value where errors are rare": 0.4,
    "errors are rare": -0.3,
    "program same value": 0.1,
    "program same format": 0.0,
    "program same rest": 1.5,
    "program same range": 0.4,
    "program anywhere": 0.5,
    "program": 2.7,
    "dependency share": 3.4,
    "dependency mean": -2.5,
    "dependency": 2.0,
    "no dependency agrees": -0.4,
    "spelling": 1.7,
    "spelling rows": 0.5,
    "spelling distance": -4.5,
    "letters known wrong": 0.8,
    "rows": 0.0,
    "new value": -2.2,
    "blank": -1.6,
}
"""Weights without any label. Fitted to tables with known errors (`train.calibrate_repair`), then
rounded."""

PRIOR_DIGEST = digest(*(f"{name} {weight}" for name, weight in PRIOR.items()))
"""Digest of the weights; part of what decides an answer."""

_MOST_LABELS = 4_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about a cell.

    Attributes:
        ranking: Candidate values with their probabilities, most probable first; `OTHER` left out.
        wrong: Probability that the standing value is wrong.
        reason: Where the most probable value comes from.
    """

    ranking: tuple[tuple[str, float], ...]
    wrong: float
    reason: str


class FittedRepairs:
    """Says of every cell of a table what should stand there.

    Args:
        profile: Statistics of the table; None if it is not known.
        labels: Labelled cells by column.
        odd: Error detection without labels.
        prior: Weights to start from, in the order of `FEATURES`; `PRIOR` if None.
    """

    def __init__(
        self,
        profile: TableProfile | None,
        labels: Mapping[str, Sequence[CellLabel]],
        odd: Odd,
        prior: FloatArray | None = None,
    ) -> None:
        self._profile = profile
        self._labels = labels
        self._odd = odd
        self._columns: dict[str, ColumnRepairs] = {}
        cells = [x for given in labels.values() for x in given]
        self._rareness = rareness(sum(x.wrong for x in cells), len(cells))
        start = np.array([PRIOR[f] for f in FEATURES]) if prior is None else prior
        questions, right = self.labelled_questions()
        self.weights = fit_weights([q.features for q in questions], right, start)

    def labelled_questions(self) -> tuple[list[Question], list[int]]:
        """The questions about labelled cells, each without its own row, and their answers."""
        cells = [x for given in self._labels.values() for x in given[:_MOST_LABELS]]
        columns = [c for c, given in self._labels.items() for _ in given[:_MOST_LABELS]]
        records = [x.record for x in cells]
        if not cells:
            return [], []
        questions = self.questions(records, columns, [r.digest for r in records])
        return questions, [answer_of(q, x) for q, x in zip(questions, cells, strict=True)]

    def questions(
        self,
        records: Sequence[Record],
        columns: Sequence[str],
        skip: Sequence[str | None] | None = None,
    ) -> list[Question]:
        """Describe cells; see `ColumnRepairs.questions`.

        Args:
            records: One record per cell.
            columns: The cell's column, same order.
            skip: Digest of the labelled record that does not count as evidence, per cell.

        Returns:
            One question per cell, in order.
        """
        odd = self._odd(records, columns)
        left_out = skip or [None] * len(records)
        by_column: dict[str, list[int]] = {}
        for i, column in enumerate(columns):
            by_column.setdefault(column, []).append(i)
        found: dict[int, Question] = {}
        for column, at in by_column.items():
            asked = self._column(column).questions(
                [records[i] for i in at], [odd[i] for i in at], [left_out[i] for i in at]
            )
            found.update(zip(at, asked, strict=True))
        return [found[i] for i in range(len(records))]

    def verdicts(self, records: Sequence[Record], columns: Sequence[str]) -> list[Verdict]:
        """Say what should stand in cells (records, their columns), one verdict each, in order."""
        return [self._verdict(question) for question in self.questions(records, columns)]

    def _verdict(self, question: Question) -> Verdict:
        found = probabilities(question.features, self.weights)
        order = np.argsort(-found[:-1], kind="stable").tolist()
        ranking = tuple((question.values[i], float(found[i])) for i in order)
        return Verdict(ranking, float(1.0 - found[0]), question.reasons[order[0]])

    def _column(self, column: str) -> ColumnRepairs:
        if column not in self._columns:
            labels = ColumnLabels(column, self._labels.get(column, ()), self._values)
            self._columns[column] = ColumnRepairs(self._profile, column, labels, self._rareness)
        return self._columns[column]

    def _values(self, column: str) -> list[str]:
        """Values of a column, the frequent ones first."""
        if self._profile is None:
            return []
        own = self._profile.column(column)
        return list(dict.fromkeys([*own.frequent[0], *own.values]))


def answer_of(question: Question, cell: CellLabel) -> int:
    """Position of the right answer to the question about a labelled cell."""
    if not cell.wrong:
        return 0
    if cell.right is not None and cell.right in question.values:
        return question.values.index(cell.right)
    return question.values.index(OTHER)
