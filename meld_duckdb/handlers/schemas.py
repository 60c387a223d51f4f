"""``FROM meld.match_schemas``: the columns of two schemas, ranked by how likely they match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from meld_duckdb.arrow import EVIDENCE_TYPE, as_array, evidence_rows, python_values
from meld_duckdb.errors import InputError
from meld_duckdb.handlers.base import (
    HandlerBase,
    expect,
    given_options,
    one_of,
    whole_number,
)
from meld_duckdb.planner.schema_pairs import ASSIGNMENTS, one_to_one
from meld_duckdb.records import Record, make_record
from meld_duckdb.tasks.base import Answer
from meld_duckdb.udfs import SqlFunction

_MATCH = pa.list_(
    pa.struct(
        [
            ("l_table", pa.string()),
            ("l_column", pa.string()),
            ("r_table", pa.string()),
            ("r_column", pa.string()),
            ("rank", pa.int64()),
            ("probability", pa.float64()),
            ("matches", pa.bool_()),
            ("tier", pa.int8()),
            ("evidence", pa.list_(EVIDENCE_TYPE)),
        ]
    )
)
_DESCRIBING = ("table", "table_description", "column", "type", "description")
_METHODS = ("features", "kcmf")
_CANDIDATES = 10
_OWN = ("k", "samples", "method", "candidates", "assignment", "descriptions")


class SchemaHandlers(HandlerBase):
    """Handler of ``meld.match_schemas``."""

    def match_schemas(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.match_schemas(l, r)``; the best right columns of every left one.

        Columns come with samples and descriptions, see `reading.read_schemas`.
        """
        expect(function, columns, 5)
        values = [python_values(as_array(column))[0] for column in columns]
        given = given_options(values[4])
        k = whole_number(given, "k", 5)
        whole_number(given, "samples", 0, least=0)
        candidates = whole_number(given, "candidates", _CANDIDATES)
        by_votes = one_of(given, "method", _METHODS) == "kcmf"
        assignment = one_of(given, "assignment", ASSIGNMENTS)
        options = self.service.options(
            "kcmf_schema_match" if by_votes else "schema_match",
            {key: v for key, v in given.items() if key not in _OWN},
        )
        sides = [_found(str(values[i]), values[i + 2]) for i in (0, 1)]
        left, right = ([_record(c) for c in side] for side in sides)
        answers = self.service.schemas(left, right, options, candidates if by_votes else None)
        return pa.array([_lines(sides, answers, k, assignment)], _MATCH)


def _record(column: Mapping[str, Any]) -> Record:
    fields: dict[str, object] = {name: column[name] for name in _DESCRIBING}
    if column.get("values") is not None:  # see `reading.read_schemas`
        fields["values"] = column["values"]
    return make_record(fields)


def _found(name: str, columns: object) -> list[Mapping[str, Any]]:
    if not isinstance(columns, list) or not columns:
        raise InputError(
            f"there is no database, schema or table called {name!r}, or it has no columns",
            hint="write 'database', 'database.schema', 'schema', 'table' or "
            "'database.schema.table'; see SHOW ALL TABLES",
        )
    return columns


def _lines(
    sides: Sequence[Sequence[Mapping[str, Any]]],
    answers: Sequence[Answer],
    k: int,
    assignment: str,
) -> list[dict[str, object]]:
    """The k likeliest right columns of every left one; a column is no partner of itself.

    A partner that a column was assigned one to one is its first, however likely others are.
    """
    left, right = sides
    shape = (len(left), len(right))
    likely = np.array([a.probability or 0.0 for a in answers]).reshape(shape)
    matches = np.array([a.value == "match" for a in answers]).reshape(shape)
    own = np.array([[_place(a) == _place(b) for b in right] for a in left]).reshape(shape)
    matches &= ~own
    if assignment == "one_to_one":
        matches = one_to_one(likely, matches)
    lines: list[dict[str, object]] = []
    for i, a in enumerate(left):
        first = matches[i] if assignment == "one_to_one" else np.zeros(len(right), dtype=bool)
        order = [j for j in np.lexsort((-likely[i], ~first)) if not own[i, j]]
        for rank, j in enumerate(order[:k], 1):
            answer, b = answers[i * len(right) + j], right[j]
            lines.append(
                {
                    "l_table": a["qualified"],
                    "l_column": a["column"],
                    "r_table": b["qualified"],
                    "r_column": b["column"],
                    "rank": rank,
                    "probability": answer.probability,
                    "matches": None if answer.value is None else bool(matches[i, j]),
                    "tier": answer.tier,
                    "evidence": evidence_rows(answer.evidence),
                }
            )
    return lines


def _place(column: Mapping[str, Any]) -> tuple[object, object]:
    return column["qualified"], column["column"]
