"""``FROM meld.match_schemas``: the columns of two schemas, ranked by how likely they match."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
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
from meld_duckdb.planner.options import parse_options
from meld_duckdb.planner.schema_pairs import ASSIGNMENTS, one_to_one
from meld_duckdb.records import Record, make_record, value_text
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
_MOST_SAMPLES = 200


_METHODS = ("features", "kcmf")
_CANDIDATES = 10
_OWN = ("k", "samples", "method", "candidates", "assignment", "descriptions")


class SchemaHandlers(HandlerBase):
    """Handler of ``meld.match_schemas``."""

    def match_schemas(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.match_schemas(l, r)``; the best right columns of every left one."""
        expect(function, columns, 5)
        values = [python_values(as_array(column))[0] for column in columns]
        given = given_options(values[4])
        k = whole_number(given, "k", 5)
        n_samples = min(whole_number(given, "samples", 0, least=0), _MOST_SAMPLES)
        candidates = whole_number(given, "candidates", _CANDIDATES)
        by_votes = one_of(given, "method", _METHODS) == "kcmf"
        assignment = one_of(given, "assignment", ASSIGNMENTS)
        options = parse_options(
            "kcmf_schema_match" if by_votes else "schema_match",
            {key: v for key, v in given.items() if key not in _OWN},
            on_error=self.service.settings.on_error,
        )
        sides = [_found(str(values[i]), values[i + 2]) for i in (0, 1)]
        if given.get("descriptions") is not None:
            sides = self._described(str(given["descriptions"]), sides)
        left, right = ([self._record(c, n_samples) for c in side] for side in sides)
        answers = self.service.schemas(left, right, options, candidates if by_votes else None)
        return pa.array([_lines(sides, answers, k, assignment)], _MATCH)

    def _described(
        self, table: str, sides: Sequence[Sequence[Mapping[str, Any]]]
    ) -> list[list[Mapping[str, Any]]]:
        """Columns with the descriptions of a table: table_name, column_name, description.

        A row without a column describes the table. What it says takes the place of comments.

        Raises:
            InputError: The table cannot be read, or a row fits no column.
        """
        said: dict[tuple[str, str], str] = {}
        for name, column, description in self._read(
            "SELECT table_name::VARCHAR, column_name::VARCHAR, description::VARCHAR "
            f"FROM query_table({_literal(table)}) WHERE description IS NOT NULL"
        ):
            said[(str(name).lower(), str(column or "").lower())] = str(description)
        known = {(c["table"].lower(), c["column"].lower()) for side in sides for c in side}
        known |= {(name, "") for name, _ in known}
        lost = sorted(said.keys() - known)
        if lost:
            what = ".".join(part for part in lost[0] if part)
            raise InputError(
                f"option 'descriptions': {table} describes {what!r}, which neither schema has",
                hint=f"{len(lost)} of its {len(said)} rows fit no table or column",
            )
        return [
            [
                {
                    **c,
                    "description": said.get(
                        (c["table"].lower(), c["column"].lower()), c["description"]
                    ),
                    "table_description": said.get((c["table"].lower(), ""), c["table_description"]),
                }
                for c in side
            ]
            for side in sides
        ]

    def _record(self, column: Mapping[str, Any], n_samples: int) -> Record:
        fields: dict[str, object] = {name: column[name] for name in _DESCRIBING}
        if n_samples:
            fields["values"] = json.dumps(self._samples(column, n_samples), ensure_ascii=False)
        return make_record(fields)

    def _samples(self, column: Mapping[str, Any], n_samples: int) -> list[str]:
        """The first distinct values of a column, as text."""
        name = _quoted(column["column"])
        table = ".".join(_quoted(part) for part in column["path"])
        rows = self._read(
            f"SELECT {name}::VARCHAR FROM {table} WHERE {name} IS NOT NULL"
            f" GROUP BY ALL ORDER BY count(*) DESC, {name}::VARCHAR LIMIT {n_samples}"
        )
        return [value_text(value) or "" for (value,) in rows]

    def _read(self, sql: str) -> list[tuple[object, ...]]:
        """Read the user's database beside the statement that is running."""
        connection = self._connection()
        if connection is None:
            raise InputError(
                "the database cannot be read: the connection that registered meld is closed",
                hint="keep that connection open, or leave samples and descriptions out",
            )
        try:
            with connection.cursor() as cursor:
                rows: list[tuple[object, ...]] = cursor.execute(sql).fetchall()
                return rows
        except duckdb.Error as error:
            raise InputError(f"the database cannot be read: {error}") from error


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
    """The k likeliest right columns of every left one; a column is no partner of itself."""
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
        order = [j for j in np.argsort(-likely[i], kind="stable") if not own[i, j]]
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


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
