"""Table functions: whole tables in, one list out; the macros in ``sql/`` unnest it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from meld_duckdb.handlers.base import (
    HandlerBase,
    blocking,
    flag,
    given_options,
    one_list,
    only_lists,
    only_rows,
    table_records,
)
from meld_duckdb.planner.options import ALLOWED, Options
from meld_duckdb.retrieval.table_rows import TableRows
from meld_duckdb.udfs import SqlFunction

_JOINED = pa.list_(
    pa.struct(
        [
            ("l", pa.int64()),
            ("r", pa.int64()),
            ("probability", pa.float64()),
            ("tier", pa.int8()),
            ("score", pa.float64()),
        ]
    )
)


class TableHandlers(HandlerBase):
    """Handlers of the table functions."""

    def index(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.index(t)``."""
        name, rows, options = only_rows(function, columns)
        records = table_records(rows)
        given = given_options(options)
        split = given.get("split")
        done = self.service.session.index(
            str(name),
            records,
            embed=flag(given, "embed"),
            split=None if split is None else str(split),
        )
        result = {
            "table_name": done.name,
            "entries": done.n_entries,
            "embedded": done.n_embedded,
            "digest": done.digest,
            "seconds": done.seconds,
        }
        kind = pa.struct(
            [
                ("table_name", pa.string()),
                ("entries", pa.int64()),
                ("embedded", pa.int64()),
                ("digest", pa.string()),
                ("seconds", pa.float64()),
            ]
        )
        return pa.array([result], kind)

    def block(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.block(l, r)``; positions from 1, as DuckDB counts list items."""
        left_rows, right_rows, options = only_lists(function, columns)
        given = given_options(options)
        left = TableRows(array=left_rows)
        found = self.service.session.block_rows(
            left,
            left if given.get("same") is True else TableRows(array=right_rows),
            blocking(given, "ranked"),
            listed=True,
        )
        recall = pa.scalar(found.recall, pa.float64())
        pairs = {
            "l": pa.array(found.left + 1, pa.int64()),
            "r": pa.array(found.right + 1, pa.int64()),
            "rank": pa.array(found.rank, pa.int64()),
            "score": pa.array(found.score.astype(np.float64), pa.float64()),
            "recall": pa.repeat(recall, len(found.left)),
        }
        return one_list(pairs)

    def join(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.join(l, r)``: the candidate pairs that match."""
        left_rows, right_rows, options = only_rows(function, columns)
        given = given_options(options)
        match_options = self._match_options(given)
        found, answers = self.service.join(
            table_records(left_rows),
            table_records(right_rows),
            blocking(given, "lexical"),
            match_options,
            same=given.get("same") is True,
        )
        items = [
            {
                "l": int(found.left[i]) + 1,
                "r": int(found.right[i]) + 1,
                "probability": answer.probability,
                "tier": answer.tier,
                "score": float(found.score[i]),
            }
            for i, answer in enumerate(answers)
            if answer.value == "match"
        ]
        return pa.array([items], _JOINED)

    def dedupe(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.dedupe(t)``: every row with its cluster, counted from 1."""
        _, rows, options = only_rows(function, columns)
        given = given_options(options)
        clusters = self.service.dedupe(
            table_records(rows),
            blocking(given, "lexical"),
            str(given.get("linkage", "majority")),
            self._match_options(given),
        )
        sizes = np.bincount(clusters)
        members = {
            "row": pa.array(np.arange(1, len(clusters) + 1), pa.int64()),
            "cluster": pa.array(clusters + 1, pa.int64()),
            "size": pa.array(sizes[clusters], pa.int64()),
        }
        return one_list(members)

    def _match_options(self, given: Mapping[str, object]) -> Options:
        """The options of a table function that belong to matching."""
        kept = {k: v for k, v in given.items() if k in ALLOWED["match"]}
        return self.service.options("match", kept)
