"""``FROM meld.match_schemas``: the columns of two schemas, ranked by how likely they match."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from meld_duckdb.arrow import EVIDENCE_TYPE, as_array, evidence_rows, python_values
from meld_duckdb.errors import InputError
from meld_duckdb.handlers.base import HandlerBase, expect, given_options, whole_number
from meld_duckdb.planner.options import parse_options
from meld_duckdb.records import Record, make_record, value_text
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
            ("evidence", pa.list_(EVIDENCE_TYPE)),
        ]
    )
)
_DESCRIBING = ("table", "table_description", "column", "type", "description")
_MOST_SAMPLES = 200


class SchemaHandlers(HandlerBase):
    """Handler of ``meld.match_schemas``."""

    def match_schemas(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.match_schemas(l, r)``; the best right columns of every left one."""
        expect(function, columns, 5)
        values = [python_values(as_array(column))[0] for column in columns]
        given = given_options(values[4])
        k = whole_number(given, "k", 5)
        n_samples = whole_number(given, "samples", 0, least=0)
        sides = [_found(str(values[i]), values[i + 2]) for i in (0, 1)]
        left, right = (
            [self._record(column, min(n_samples, _MOST_SAMPLES)) for column in side]
            for side in sides
        )
        options = parse_options(
            "schema_match",
            {key: v for key, v in given.items() if key not in {"k", "samples"}},
            on_error=self.service.settings.on_error,
        )
        answers = iter(self.service.schemas(left, right, options))
        lines: list[dict[str, object]] = []
        for a in sides[0]:
            ranked = [
                (b, answer)
                for b, answer in zip(sides[1], answers, strict=False)
                if _place(a) != _place(b)
            ]
            ranked.sort(key=lambda pair: -(pair[1].probability or 0.0))
            lines.extend(
                {
                    "l_table": a["qualified"],
                    "l_column": a["column"],
                    "r_table": b["qualified"],
                    "r_column": b["column"],
                    "rank": rank,
                    "probability": answer.probability,
                    "matches": None if answer.value is None else answer.value == "match",
                    "evidence": evidence_rows(answer.evidence),
                }
                for rank, (b, answer) in enumerate(ranked[:k], 1)
            )
        return pa.array([lines], _MATCH)

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
                "sample values cannot be read: the connection that registered meld is closed",
                hint="keep that connection open, or leave samples out",
            )
        try:
            with connection.cursor() as cursor:
                rows: list[tuple[object, ...]] = cursor.execute(sql).fetchall()
                return rows
        except duckdb.Error as error:
            raise InputError(f"sample values cannot be read: {error}") from error


def _found(name: str, columns: object) -> list[Mapping[str, Any]]:
    if not isinstance(columns, list) or not columns:
        raise InputError(
            f"there is no database, schema or table called {name!r}, or it has no columns",
            hint="write 'database', 'database.schema', 'schema', 'table' or "
            "'database.schema.table'; see SHOW ALL TABLES",
        )
    return columns


def _place(column: Mapping[str, Any]) -> tuple[object, object]:
    return column["qualified"], column["column"]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
