"""Table functions over cells: errors, repairs, missing values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.arrow import EVIDENCE_TYPE, column_types, evidence_rows
from meld_duckdb.handlers.base import (
    HandlerBase,
    given_options,
    name_list,
    only_rows,
    table_records,
)
from meld_duckdb.planner.options import ALLOWED
from meld_duckdb.planner.whole import Cell, chosen_columns
from meld_duckdb.tasks import TASKS
from meld_duckdb.udfs import SqlFunction

_CELL = pa.list_(
    pa.struct(
        [
            ("row", pa.int64()),
            ("column", pa.string()),
            ("old", pa.string()),
            ("new", pa.string()),
            ("probability", pa.float64()),
            ("tier", pa.int8()),
            ("evidence", pa.list_(EVIDENCE_TYPE)),
            ("error", pa.string()),
        ]
    )
)


class CellHandlers(HandlerBase):
    """Handlers of the table functions over cells."""

    def find_errors(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.find_errors(t)``: the cells that are probably wrong."""
        return self._cells(
            "meld.find_errors", "detect_error", function, columns, lambda a: a.value == "error"
        )

    def repairs(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.repairs(t)``: the cells that get another value."""
        return self._cells("meld.repairs", "repair", function, columns, lambda a: a.changed is True)

    def impute_nulls(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.impute_nulls(t)``: every cell without a value."""
        return self._cells("meld.impute_nulls", "impute", function, columns, lambda a: True)

    def _cells(
        self,
        name: str,
        task: str,
        function: SqlFunction,
        columns: Sequence[pa.Array],
        shown: Callable[[Any], bool],
    ) -> pa.Array:
        _, rows, options = only_rows(function, columns)
        given = given_options(options)
        wanted = name_list(given, "columns", "['city', 'zip']")
        records = table_records(rows)
        cells = self.service.cells(
            name,
            task,
            records,
            chosen_columns(records, wanted),
            self.service.options(task, {k: v for k, v in given.items() if k in ALLOWED[task]}),
            _kinds(columns[1].type) if TASKS[task].labels is None else {},
        )
        return pa.array([[_line(c) for c in cells if shown(c.answer)]], _CELL)


def _kinds(kind: pa.DataType) -> dict[str, pa.DataType]:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return column_types(kind.value_type) if is_list else {}


def _line(cell: Cell) -> dict[str, object]:
    answer = cell.answer
    return {
        "row": cell.row + 1,
        "column": cell.column,
        "old": cell.value,
        "new": answer.value or None,
        "probability": answer.probability,
        "tier": answer.tier,
        "evidence": evidence_rows(answer.evidence),
        "error": answer.error,
    }
