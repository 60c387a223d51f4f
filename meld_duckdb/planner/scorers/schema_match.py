"""Schema matching at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meld_duckdb.features import schema_match
from meld_duckdb.planner.scorers.base import COSINE_DIGITS, Calibrated, Embed, binary_answers
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record
from meld_duckdb.tasks.base import Answer, Query


class SchemaMatchScorer(Calibrated):
    """SM by `features.schema_match`."""

    task = "schema_match"
    encodes = True

    def __init__(self, tables: Tables, embed: Embed) -> None:
        self._tables = tables
        self._embed = embed

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs of columns; see `Scorer.score`."""
        pairs = [(q.records[0], q.records[1]) for q in queries]
        if context:
            around = self._tables.schema(context[0], context[1], self._vectors)
            rows = schema_match.schema_features(pairs, around)
        else:
            vectors = self._vectors([record for pair in pairs for record in pair])
            cosines = [float(vectors[a.digest] @ vectors[b.digest]) for a, b in pairs]
            rows = schema_match.schema_features(
                pairs, None, np.array(cosines, dtype=np.float32).round(COSINE_DIGITS)
            )
        variant = self.calibration.variant("context_encoder" if context else "pair_encoder")
        return list(binary_answers(variant.model, variant.threshold, rows, ("match", "mismatch")))

    def _vectors(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        distinct = {record.digest: record for record in records}
        texts = [schema_match.encoder_text(record) for record in distinct.values()]
        return dict(zip(distinct, self._embed(texts), strict=True))
