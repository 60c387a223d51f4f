"""Error detection at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

from meld_duckdb.features.repair_fit import PRIOR_DIGEST, Verdict
from meld_duckdb.planner.scorers.base import REASONS, Calibrated, binary_answers
from meld_duckdb.planner.scorers.repair import verdicts
from meld_duckdb.planner.scorers.table_repairs import TableRepairs
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Evidence, Query

_LABELS = ("error", "correct")
_CUT = 0.5


class DetectErrorScorer(Calibrated):
    """ED by `features.detect_error`; where cells are labelled, by what repair makes of them."""

    task = "detect_error"
    version = 2
    label_tasks: tuple[str, ...] = ("repair",)

    def __init__(self, repairs: TableRepairs) -> None:
        self._repairs = repairs

    @property
    def digest(self) -> str:
        """Digest of the fitted model, of the weights of repair, and version of the features."""
        return digest(super().digest, PRIOR_DIGEST)

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score cells; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        shapes = self._repairs.labelled_shapes()
        labelled = [frozenset(q.records[0].fields) in shapes for q in queries]
        taught = [i for i, known in enumerate(labelled) if known]
        found = verdicts(self._repairs, [queries[i] for i in taught], context)
        for i, verdict in zip(taught, found, strict=True):
            answers[i] = _by_repair(verdict)
        rest = [i for i, known in enumerate(labelled) if not known]
        if rest:
            records = self._repairs.own_records([queries[i] for i in rest], context)
            columns = [queries[i].target or "" for i in rest]
            rows = self._repairs.features(records, columns, context)
            variant = self.calibration.variant("context" if context else "record")
            scored = binary_answers(variant.model, variant.threshold, rows, _LABELS)
            for i, answer in zip(rest, scored, strict=True):
                answers[i] = answer
        return answers


def _by_repair(verdict: Verdict) -> Answer:
    wrong = verdict.wrong
    evidence = tuple(
        Evidence("candidate", value, round(share, 4)) for value, share in verdict.ranking[:REASONS]
    )
    source = Evidence("source", verdict.reason, round(verdict.ranking[0][1], 4))
    return Answer(_LABELS[0] if wrong >= _CUT else _LABELS[1], wrong, 0, (source, *evidence))
