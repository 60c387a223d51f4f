"""What error detection and repair share: a table's repairs fitted to its labels, kept for reuse."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from meld_duckdb.features import detect_error
from meld_duckdb.features.load import Calibration, load_calibration
from meld_duckdb.features.repair import value_of
from meld_duckdb.features.repair_fit import FittedRepairs, Odd
from meld_duckdb.features.repair_labels import CellLabel
from meld_duckdb.planner.scorers.base import Labels
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record
from meld_duckdb.tasks.base import Demonstration, Query

_KEPT = 4
_ODDS_LIMIT = 6.0
_REPAIR, _DETECT = "repair", "detect_error"


class TableRepairs:
    """Fits `features.repair_fit` to labels when first asked, and again when they change.

    Safe for threads: one fits, others wait.
    """

    def __init__(self, tables: Tables, labels: Labels) -> None:
        self._tables = tables
        self._labels = labels
        self._lock = threading.RLock()
        self._fits: OrderedDict[tuple[str, ...], FittedRepairs] = OrderedDict()
        self._seen: tuple[Sequence[Demonstration], ...] = ((), ())

    @cached_property
    def calibration(self) -> Calibration:
        """The shipped model of error detection."""
        return load_calibration(_DETECT)

    @cached_property
    def _language(self) -> detect_error.Language:
        return detect_error.Language.from_text(self.calibration.text("language"))

    def own_records(self, queries: Sequence[Query], context: Context) -> list[Record]:
        """The records asked about, as the table has them."""
        records = [q.records[0] for q in queries]
        if not context:
            return records
        return [self._tables.own_record(context[0], record) for record in records]

    def features(
        self, records: Sequence[Record], columns: Sequence[str], context: Context
    ) -> np.ndarray:
        """Features of error detection without labels; see `features.detect_error`."""
        if not context:
            return detect_error.record_features(records, columns, self._language)
        profile = self._tables.profile(context[0])
        return detect_error.context_features(profile, records, columns, self._language)

    def labelled_shapes(self) -> frozenset[frozenset[str]]:
        """The sets of columns of all records of which a cell is labelled."""
        return frozenset(
            frozenset(label.query.records[0].fields)
            for labels in self._current_labels()
            for label in labels
        )

    def fitted(self, record: Record, context: Context) -> FittedRepairs:
        """The repairs of the table that a record stands in, or of all records like it."""
        with self._lock:
            return self._fitted(record, context)

    def _fitted(self, record: Record, context: Context) -> FittedRepairs:
        labels = self._current_labels()
        key = (*context, "", *record.fields)
        if key not in self._fits:
            profile = self._tables.profile(context[0]) if context else None
            cells = self._cells(labels, frozenset(record.fields), context)
            self._fits[key] = FittedRepairs(profile, cells, self._odd(context))
            while len(self._fits) > _KEPT:
                self._fits.popitem(last=False)
        self._fits.move_to_end(key)
        return self._fits[key]

    def _current_labels(self) -> tuple[Sequence[Demonstration], ...]:
        """Labels of both tasks, flags before repairs; what was fitted to others is dropped."""
        with self._lock:
            labels = (self._labels(_DETECT), self._labels(_REPAIR))
            # the same list stands for the same labels
            if not all(a is b or not (a or b) for a, b in zip(labels, self._seen, strict=True)):
                self._fits.clear()
                self._seen = labels
            return labels

    def _odd(self, context: Context) -> Odd:
        model = self.calibration.variant("context" if context else "record").model

        def odd(records: Sequence[Record], columns: Sequence[str]) -> Sequence[float]:
            odds = model.log_odds(self.features(records, columns, context))
            found: list[float] = np.clip(odds, -_ODDS_LIMIT, _ODDS_LIMIT).tolist()
            return found

        return odd

    def _cells(
        self,
        labels: Sequence[Sequence[Demonstration]],
        shape: frozenset[str],
        context: Context,
    ) -> dict[str, list[CellLabel]]:
        """Labelled cells of records with these columns, by column; repairs say more than flags."""
        found: dict[tuple[str, str], CellLabel] = {}
        for task, given in zip((_DETECT, _REPAIR), labels, strict=True):
            for label in given:
                record, column = label.query.records[0], label.query.target or ""
                if frozenset(record.fields) != shape or column not in record.fields:
                    continue
                record = self._tables.own_record(context[0], record) if context else record
                found[record.digest, column] = _cell_label(task, record, column, label.answer)
        by_column: dict[str, list[CellLabel]] = {}
        for (_, column), cell in found.items():
            by_column.setdefault(column, []).append(cell)
        return by_column


def _cell_label(task: str, record: Record, column: str, answer: str) -> CellLabel:
    text = value_of(record, column)
    if task == _DETECT:
        wrong = answer == "error"
        return CellLabel(record, text, None if wrong else text, wrong)
    wrong = " ".join(answer.split()) != " ".join(text.split())
    return CellLabel(record, text, answer if wrong else text, wrong)
