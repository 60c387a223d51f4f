"""Labels: ``meld_learn``, and which to give next."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from meld_duckdb.arrow import as_array, python_values
from meld_duckdb.handlers.base import (
    HandlerBase,
    expect,
    given_options,
    table_records,
    whole_number,
)
from meld_duckdb.planner.given_labels import MAY_BE_BLANK, read_labels
from meld_duckdb.planner.label_next import label_next
from meld_duckdb.tasks.base import Query
from meld_duckdb.udfs import SqlFunction


class LabelHandlers(HandlerBase):
    """Handlers of labels."""

    def learn(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_learn(task, query, answer)``: true per stored label, NULL where a part is NULL."""
        expect(function, columns, 3)
        rows = list(zip(*(python_values(as_array(c)) for c in columns), strict=True))
        labelled: dict[str, list[tuple[Query, str]]] = {}
        stored: list[bool | None] = []
        for task, query, answer in rows:
            if task is None or query is None or (answer is None and task not in MAY_BE_BLANK):
                stored.append(None)
                continue
            found = list(read_labels(str(task), query, answer))
            labelled.setdefault(str(task), []).extend(found)
            stored.append(True if found else None)
        for task, labels in labelled.items():
            if labels:
                self.service.session.learn(task, labels)
        return pa.array(stored, pa.bool_())

    def label_next(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.label_next(task, t)``: questions that are worth a label."""
        expect(function, columns, 4)
        task, left, right, options = (python_values(as_array(c))[0] for c in columns)
        given = given_options(options)
        found = label_next(
            self.service.session,
            str(task),
            table_records(left),
            table_records(right),
            whole_number(given, "n", 20),
            given.get("same") is True,
        )
        items = [
            {
                "l": question.left + 1,
                "r": None if question.right is None else question.right + 1,
                "column": question.column,
                "probability": question.probability,
            }
            for question in found
        ]
        return pa.array([items], _QUESTION)


_QUESTION = pa.list_(
    pa.struct(
        [
            ("l", pa.int64()),
            ("r", pa.int64()),
            ("column", pa.string()),
            ("probability", pa.float64()),
        ]
    )
)
