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
from meld_duckdb.features.repair import FEATURES, OTHER, ColumnRepairs, FloatArray, Question
from meld_duckdb.features.repair_labels import CellLabel, ColumnLabels
from meld_duckdb.records import Record

Odd = Callable[[Sequence[Record], Sequence[str]], Sequence[float]]
"""Log-odds of cells (records, their columns) to be wrong, without labels."""

PRIOR: Mapping[str, float] = {
    "keeps": 2.0,
    "other": 2.0,
    "keeps same value": 0.8,
    "keeps same format": 1.1,
    "keeps column": 0.3,
    "wrong same value": 0.0,
    "wrong same format": -0.2,
    "wrong column": 0.5,
    "odd value": 0.3,
    "program same value": 0.6,
    "program same format": 0.1,
    "program same rest": 1.9,
    "program anywhere": 0.9,
    "program": 3.5,
    "dependency share": 1.3,
    "dependency mean": -0.2,
    "dependency": 2.3,
    "no dependency agrees": -1.1,
    "spelling": 2.1,
    "spelling rows": 0.7,
    "spelling distance": -6.5,
    "letters known wrong": 0.8,
    "rows": -0.1,
    "new value": -3.2,
    "blank": -4.2,
}
"""Weights without any label. Fitted to tables with known errors (`train.calibrate_repair`), then
rounded."""

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
        start = np.array([PRIOR[f] for f in FEATURES]) if prior is None else prior
        questions, right = self.labelled_questions()
        self.weights = fit_weights([q.features for q in questions], right, start)

    def labelled_questions(self) -> tuple[list[Question], list[int]]:
        """The questions about labelled cells, each without its own row, and their answers."""
        questions: list[Question] = []
        right: list[int] = []
        for column, given in self._labels.items():
            cells = list(given)[:_MOST_LABELS]
            records = [x.record for x in cells]
            asked = self.questions(records, column, [r.digest for r in records])
            for cell, question in zip(cells, asked, strict=True):
                questions.append(question)
                right.append(answer_of(question, cell))
        return questions, right

    def questions(
        self, records: Sequence[Record], column: str, skip: Sequence[str | None] | None = None
    ) -> list[Question]:
        """Describe the cells of one column; see `ColumnRepairs.questions`."""
        odd = self._odd(records, [column] * len(records))
        return self._column(column).questions(records, odd, skip or [None] * len(records))

    def verdicts(self, records: Sequence[Record], column: str) -> list[Verdict]:
        """Say what should stand in a column of records, one verdict each, in order."""
        return [self._verdict(question) for question in self.questions(records, column)]

    def _verdict(self, question: Question) -> Verdict:
        found = probabilities(question.features, self.weights)
        order = np.argsort(-found[:-1], kind="stable").tolist()
        ranking = tuple((question.values[i], float(found[i])) for i in order)
        return Verdict(ranking, float(1.0 - found[0]), question.reasons[order[0]])

    def _column(self, column: str) -> ColumnRepairs:
        if column not in self._columns:
            own = self._profile.column(column) if self._profile is not None else None
            others = own.frequent[0] + own.values if own is not None else []
            labels = ColumnLabels(column, self._labels.get(column, ()), list(dict.fromkeys(others)))
            self._columns[column] = ColumnRepairs(self._profile, column, labels)
        return self._columns[column]


def answer_of(question: Question, cell: CellLabel) -> int:
    """Position of the right answer to the question about a labelled cell."""
    if not cell.wrong:
        return 0
    if cell.right is not None and cell.right in question.values:
        return question.values.index(cell.right)
    return question.values.index(OTHER)
