"""Embeddings: ``meld_embed`` and ``meld_similarity``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from meld_duckdb.arrow import distinct_rows
from meld_duckdb.handlers.base import HandlerBase, expect, required_record
from meld_duckdb.records import Record
from meld_duckdb.udfs import SqlFunction


class VectorHandlers(HandlerBase):
    """Handlers of embeddings."""

    def embed(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_embed(text)``: one vector per row, NULL for NULL."""
        expect(function, columns, 1)
        distinct = distinct_rows(columns)
        records = [required_record(row[0]) for row in distinct.rows]
        vectors = self._vectors(records)
        values = pa.array([None if v is None else v for v in vectors], pa.list_(pa.float32()))
        return values.take(pa.array(distinct.inverse))

    def similarity(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_similarity(a, b)``: cosine per row, NULL where a side is NULL."""
        expect(function, columns, 2)
        distinct = distinct_rows(columns)
        left = self._vectors([required_record(row[0]) for row in distinct.rows])
        right = self._vectors([required_record(row[1]) for row in distinct.rows])
        cosines = [
            None if a is None or b is None else float(np.clip(a @ b, -1.0, 1.0))
            for a, b in zip(left, right, strict=True)
        ]
        return pa.array(cosines, pa.float64()).take(pa.array(distinct.inverse))

    def _vectors(self, records: Sequence[Record | None]) -> list[np.ndarray | None]:
        present = [r for r in records if r is not None]
        if not present:
            return [None] * len(records)
        vectors = iter(self.service.session.embed_texts(present))
        return [None if r is None else next(vectors) for r in records]
