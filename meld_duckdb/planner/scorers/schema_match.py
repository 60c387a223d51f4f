"""Schema matching at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meld_duckdb.features import schema_match
from meld_duckdb.features.fit_blend import enough
from meld_duckdb.features.schema_labels import FittedSchemaMatcher
from meld_duckdb.planner.scorers.base import (
    COSINE_DIGITS,
    Calibrated,
    Embed,
    Labels,
    binary_answers,
)
from meld_duckdb.planner.scorers.learned import MOST_LABELS, Fits, Key
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record
from meld_duckdb.tasks.base import Answer, Demonstration, Query

_SAID = ("match", "mismatch")


class SchemaMatchScorer(Calibrated):
    """SM by `features.schema_match`.

    Labels correct the shipped model for pairs of the indexed schemas they are from.
    """

    task = "schema_match"
    version = 2
    encodes = True

    def __init__(self, tables: Tables, embed: Embed, labels: Labels) -> None:
        self._tables = tables
        self._embed = embed
        self._fits = Fits(lambda: labels(self.task), self._fit)

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs of columns; see `Scorer.score`."""
        pairs = [(q.records[0], q.records[1]) for q in queries]
        if not context:
            vectors = self._vectors([record for pair in pairs for record in pair])
            cosines = [float(vectors[a.digest] @ vectors[b.digest]) for a, b in pairs]
            rows = schema_match.schema_features(
                pairs, None, np.array(cosines, dtype=np.float32).round(COSINE_DIGITS)
            )
            variant = self.calibration.variant("pair_encoder")
            return list(binary_answers(variant.model, variant.threshold, rows, _SAID))
        around = self._tables.schema(context[0], context[1], self._vectors)
        rows = schema_match.schema_features(pairs, around)
        fitted = self._fits.get(tuple(sorted(context)))
        if fitted is not None:
            return list(binary_answers(fitted.of(pairs), fitted.threshold, rows, _SAID))
        variant = self.calibration.variant("context_encoder")
        return list(binary_answers(variant.model, variant.threshold, rows, _SAID))

    def _fit(self, key: Key, labels: Sequence[Demonstration]) -> FittedSchemaMatcher | None:
        around = self._tables.schema(key[0], key[1], self._vectors)
        pairs, matches = [], []
        for label in labels[:MOST_LABELS]:
            a, b = label.query.records[:2]
            if around.find(a.digest, b.digest) is not None:
                pairs.append((a, b))
                matches.append(label.answer == _SAID[0])
        if not enough(matches):
            return None
        return FittedSchemaMatcher(
            around,
            pairs,
            schema_match.schema_features(pairs, around),
            np.array(matches, dtype=bool),
            self.calibration.variant("context_encoder").model,
        )

    def _vectors(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        distinct = {record.digest: record for record in records}
        texts = [schema_match.encoder_text(record) for record in distinct.values()]
        return dict(zip(distinct, self._embed(texts), strict=True))
