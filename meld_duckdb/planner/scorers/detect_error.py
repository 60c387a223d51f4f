"""Error detection at tier 0."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from meld_duckdb.features import detect_error
from meld_duckdb.planner.scorers.base import Calibrated, binary_answers
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.tasks.base import Answer, Query


class DetectErrorScorer(Calibrated):
    """ED by `features.detect_error`."""

    task = "detect_error"

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    @cached_property
    def _language(self) -> detect_error.Language:
        return detect_error.Language.from_text(self.calibration.text("language"))

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score cells; see `Scorer.score`."""
        records = [q.records[0] for q in queries]
        columns = [q.target or "" for q in queries]
        if context:
            records = [self._tables.own_record(context[0], record) for record in records]
            profile = self._tables.profile(context[0])
            rows = detect_error.context_features(profile, records, columns, self._language)
        else:
            rows = detect_error.record_features(records, columns, self._language)
        variant = self.calibration.variant("context" if context else "record")
        return list(binary_answers(variant.model, variant.threshold, rows, ("error", "correct")))
