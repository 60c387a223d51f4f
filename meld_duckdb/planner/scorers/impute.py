"""Imputation at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

from meld_duckdb.features import impute
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.planner.scorers.base import REASONS, Calibrated, Labels
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record, digest, make_record
from meld_duckdb.tasks.base import Answer, Evidence, Query


class ImputeScorer(Calibrated):
    """DI by `features.impute`: ranked candidate values, or a reason why there is none."""

    task = "impute"

    def __init__(self, tables: Tables, labels: Labels) -> None:
        self._tables = tables
        self._labels = labels
        self._learned: tuple[str, impute.ImputeIndex] | None = None

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Rank candidate values; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        columns: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            columns.setdefault(query.target or "", []).append(i)
        for column, positions in columns.items():
            index = self._index(column, context)
            candidates = impute.impute_features(
                index,
                [self._own(queries[i].records[0], context) for i in positions],
                column,
                [queries[i].domain for i in positions],
            )
            variant = self.calibration.variant("context" if index is not None else "record")
            for i, found in zip(positions, candidates, strict=True):
                answers[i] = _imputed(variant.model, found, index is not None)
        return answers

    def _own(self, record: Record, context: Context) -> Record:
        return self._tables.own_record(context[0], record) if context else record

    def least(self, query: Query, context: Context) -> float:
        """The calibrated probability below which a value is not answered; see `Scorer.least`."""
        with_rows = self._index(query.target or "", context) is not None
        return self.calibration.variant("context" if with_rows else "record").minimum

    def _index(self, column: str, context: Context) -> impute.ImputeIndex | None:
        learned = [
            make_record({**label.query.records[0].fields, column: label.answer})
            for label in self._labels(self.task)
            if label.query.target == column
        ]
        if not learned:
            return self._tables.impute_index(context[0], column) if context else None
        table = context[0] if context else ""
        key = digest(table, column, *(row.digest for row in learned))
        if self._learned is None or self._learned[0] != key:
            rows = self._tables.index(table).records if table else ()
            self._learned = (key, impute.ImputeIndex([*rows, *learned], column))
        return self._learned[1]


def _imputed(model: TreeEnsemble, found: impute.Candidates, with_table: bool) -> Answer:
    if not found.values:
        where = "no similar row holds a value" if with_table else "nothing to choose from"
        return Answer(
            tier=0,
            error=f"no_candidate: {where}; index its table (FROM meld.index) or give options",
        )
    ranked = impute.rank(found, [float(p) for p in model.predict(found.features)])
    best = ranked[0]
    evidence = tuple(Evidence("candidate", text, weight) for text, weight in best.evidence)
    runners = tuple(Evidence("runner-up", r.value, r.probability) for r in ranked[1:REASONS])
    return Answer(best.value, best.probability, 0, evidence + runners)
