"""Imputation at tier 0."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from meld_duckdb.features import impute
from meld_duckdb.features.impute_fit import LEAST_LABELS, MOST_LABELS, FittedImputer
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.planner.scorers.base import REASONS, Calibrated, Labels
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record, digest, make_record
from meld_duckdb.tasks.base import Answer, Evidence, Query

_KEPT = 8
_RANKED = 10


class ImputeScorer(Calibrated):
    """DI by `features.impute`: ranked candidate values, or a reason why there is none.

    Safe for threads: one fits, others wait.
    """

    task = "impute"
    version = 2

    def __init__(self, tables: Tables, labels: Labels) -> None:
        self._tables = tables
        self._labels = labels
        self._lock = threading.RLock()
        self._learned: OrderedDict[str, impute.ImputeIndex] = OrderedDict()
        self._fits: OrderedDict[str, FittedImputer] = OrderedDict()

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Rank candidate values; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        columns: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            columns.setdefault(query.target or "", []).append(i)
        for column, positions in columns.items():
            index = self._index(column, context)
            records = [self._own(queries[i].records[0], context) for i in positions]
            domains = [queries[i].domain for i in positions]
            fitted = self._fitted(column, context)
            if fitted is not None:
                for i, ranked in zip(positions, fitted.answer(records, domains), strict=True):
                    answers[i] = _ranked(ranked, with_table=True)
                continue
            candidates = impute.impute_features(index, records, column, domains)
            variant = self.calibration.variant("context" if index is not None else "record")
            ranking = _rank_all(variant.model, candidates)
            for i, ranked in zip(positions, ranking, strict=True):
                answers[i] = _ranked(ranked, index is not None)
        return answers

    def _own(self, record: Record, context: Context) -> Record:
        return self._tables.own_record(context[0], record) if context else record

    def least(self, query: Query, context: Context) -> float:
        """The calibrated probability below which a value is not answered; see `Scorer.least`."""
        with_rows = self._index(query.target or "", context) is not None
        minimum = self.calibration.variant("context" if with_rows else "record").minimum
        fitted = self._fitted(query.target or "", context)
        # some labels are too few to show that nine answers of ten are right
        return minimum if fitted is None else min(minimum, fitted.minimum)

    def _fitted(self, column: str, context: Context) -> FittedImputer | None:
        """What was fitted to the labels of a column; None where they are too few or too many."""
        with self._lock:
            return self._fit(column, context)

    def _fit(self, column: str, context: Context) -> FittedImputer | None:
        labelled = sum(label.query.target == column for label in self._labels(self.task))
        index = self._index(column, context) if labelled >= LEAST_LABELS else None
        key = self._key(column, context)
        if index is None or key is None or not LEAST_LABELS <= len(index.records) <= MOST_LABELS:
            return None
        if key not in self._fits:
            rows = self._tables.index(context[0]).records if context else ()
            model = self.calibration.variant("context").model
            self._fits[key] = FittedImputer(index, column, rows, model)
            while len(self._fits) > _KEPT:
                self._fits.popitem(last=False)
        self._fits.move_to_end(key)
        return self._fits[key]

    def _index(self, column: str, context: Context) -> impute.ImputeIndex | None:
        key = self._key(column, context)
        if key is None:
            return self._tables.impute_index(context[0], column) if context else None
        with self._lock:
            return self._learn(key, column, context)

    def _learn(self, key: str, column: str, context: Context) -> impute.ImputeIndex:
        if key not in self._learned:
            rows = self._tables.index(context[0]).records if context else ()
            held = {row.digest for row in rows}
            learned = [
                make_record({**label.query.records[0].fields, column: label.answer})
                for label in self._labels(self.task)
                if label.query.target == column
            ]
            # a row that is there twice would answer for itself
            new = [row for row in learned if row.digest not in held]
            self._learned[key] = impute.ImputeIndex([*rows, *new], column)
            while len(self._learned) > _KEPT:
                self._learned.popitem(last=False)
        self._learned.move_to_end(key)
        return self._learned[key]

    def _key(self, column: str, context: Context) -> str | None:
        """Digest of the labels of a column and its table; None where there are no labels."""
        learned = [
            f"{label.query.records[0].digest} {label.answer}"
            for label in self._labels(self.task)
            if label.query.target == column
        ]
        return digest(context[0] if context else "", column, *learned) if learned else None


def _rank_all(
    model: TreeEnsemble, found: Sequence[impute.Candidates]
) -> list[list[impute.Imputed]]:
    """Rank the candidates of cells; one pass through the trees costs what it does for one cell."""
    probabilities = model.predict(np.concatenate([c.features for c in found]))
    parts = np.split(probabilities, np.cumsum([len(c.values) for c in found])[:-1])
    return [impute.rank(c, part.tolist()) for c, part in zip(found, parts, strict=True)]


def _ranked(ranked: Sequence[impute.Imputed], with_table: bool) -> Answer:
    if not ranked:
        return _nothing(with_table)
    best = ranked[0]
    evidence = tuple(Evidence("candidate", text, weight) for text, weight in best.evidence)
    runners = tuple(Evidence("runner-up", r.value, r.probability) for r in ranked[1:REASONS])
    ranking = tuple((r.value, r.probability) for r in ranked[:_RANKED])
    return Answer(best.value, best.probability, 0, evidence + runners, ranking=ranking)


def _nothing(with_table: bool) -> Answer:
    where = "no similar row holds a value" if with_table else "nothing to choose from"
    return Answer(
        tier=0,
        error=f"no_candidate: {where}; index its table (FROM meld.index) or give options",
    )
