"""Certificates: ``FROM meld.certify`` makes one, ``FROM meld.certificates`` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.arrow import as_array, python_values
from meld_duckdb.errors import ConfigError, InputError, unknown_name
from meld_duckdb.handlers.base import (
    HandlerBase,
    blocking,
    expect,
    given_options,
    table_records,
)
from meld_duckdb.planner.certificates import Certificate
from meld_duckdb.planner.given_labels import label_answer
from meld_duckdb.planner.guarantee import LabelsWanted, certifying
from meld_duckdb.planner.options import ALLOWED, Options
from meld_duckdb.planner.questions import find_column
from meld_duckdb.planner.whole import chosen_columns
from meld_duckdb.records import Record, value_text
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Query
from meld_duckdb.udfs import SqlFunction

_TEXT, _NUMBER, _WHOLE = pa.string(), pa.float64(), pa.int64()
_FIELDS = {
    "task": _TEXT,
    "goal": _TEXT,
    "target": _NUMBER,
    "delta": _NUMBER,
    "certified": pa.bool_(),
    "bound": _NUMBER,
    "rows": _WHOLE,
    "known": _WHOLE,
    "sample": _WHOLE,
    "escalated": _WHOLE,
    "confidence": _NUMBER,
    "oracle": _TEXT,
    "tables": pa.list_(_TEXT),
}
_LABEL = pa.struct([("l_id", _TEXT), ("r_id", _TEXT), ("column", _TEXT)])
_LISTED = pa.list_(pa.struct(list(_FIELDS.items())))
_MADE = pa.list_(pa.struct([*_FIELDS.items(), ("to_label", pa.list_(_LABEL))]))
_TASKS = ("match", "detect_error")


class CertifyHandlers(HandlerBase):
    """Handlers of certificates."""

    def certificates(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.certificates()``."""
        found = self.service.session.certificates.all()
        return pa.array([[line for one in found for line in self._lines(one)]], _LISTED)

    def certify(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.certify(task, l)``: a line per goal."""
        expect(function, columns, 5)
        named, left, right, labels, options = (python_values(as_array(c))[0] for c in columns)
        task = str(named)
        if task not in _TASKS:
            what, hint = unknown_name("task", task, _TASKS)
            raise InputError(f"{what} for meld.certify", hint=hint)
        given = given_options(options)
        read = self.service.options(task, {k: v for k, v in given.items() if k in ALLOWED[task]})
        if not read.targets:
            raise ConfigError(
                "meld.certify is called without a target",
                hint="add accuracy, precision or recall, for example accuracy := 0.95",
            )
        call = _Call(task, table_records(left), table_records(right), given)
        answers = call.labels(labels) if given.get("labelled") is True else None
        with certifying(answers) as held:
            try:
                self._answer(call, read)
            except LabelsWanted:
                lines = [self._wanted(call, kind, read) for kind in read.targets]
                lines[0]["to_label"] = [call.named(query) for query in held.to_label]
                return pa.array([lines], _MADE)
        made = held.made
        return pa.array([[] if made is None else self._lines(made)], _MADE)

    def _answer(self, call: _Call, options: Options) -> None:
        if call.task == "match":
            self.service.join(
                call.left,
                call.right,
                blocking(call.given, "lexical"),
                options,
                same=call.given.get("same") is True,
                function="meld.certify",
            )
            return
        names = call.given.get("columns")
        wanted = [names] if isinstance(names, str) else names
        columns = chosen_columns(call.left, wanted if isinstance(wanted, list) else None)
        self.service.cells("meld.certify", call.task, call.left, columns, options, {})

    def _lines(self, one: Certificate) -> list[dict[str, object]]:
        """A line per goal of a certificate; tables by name where they are indexed."""
        names = {t.digest: t.name for t in self.service.session.catalogue.tables()}
        return [
            {
                "task": one.task,
                "goal": shown.kind,
                "target": shown.target,
                "delta": one.delta,
                "certified": True,
                "bound": shown.bound,
                "rows": one.n,
                "known": one.known,
                "sample": shown.sample,
                "escalated": shown.escalated,
                "confidence": shown.confidence,
                "oracle": one.oracle,
                "tables": [names.get(table, table) for table in one.tables],
                "to_label": [],
            }
            for shown in one.shown
        ]

    def _wanted(self, call: _Call, kind: str, options: Options) -> dict[str, Any]:
        """A line of a goal that waits for labels."""
        target = options.targets[kind]  # type: ignore[index]
        return {
            "task": call.task,
            "goal": kind,
            "target": target,
            "delta": options.delta,
            "certified": False,
            "oracle": "labels",
        }


class _Call:
    """What one call of ``meld.certify`` is about.

    Args:
        task: Name of the task.
        left: Rows of the table.
        right: Rows of the other table of a pair.
        given: Options.
    """

    def __init__(
        self,
        task: str,
        left: Sequence[Record],
        right: Sequence[Record],
        given: Mapping[str, object],
    ) -> None:
        self.task, self.left, self.right, self.given = task, left, right, given
        self._sides = (str(given.get("l_id", "id")), str(given.get("r_id", "id")))

    def labels(self, rows: object) -> dict[str, str]:
        """Answers of the user by digest of the question.

        Raises:
            InputError: The table of labels has not the columns it should, or an answer is none.
        """
        wanted = ("l_id", "r_id", "answer") if self.task == "match" else ("id", "column", "answer")
        places = [self._places(0), self._places(1 if self.task == "match" else 0)]
        found: dict[str, str] = {}
        for row in rows if isinstance(rows, list) else []:
            fields = {str(k).lower(): v for k, v in row.items()}
            if not set(wanted) <= set(fields):
                raise InputError(
                    f"the labels have the columns {', '.join(fields)}",
                    hint=f"name them {', '.join(wanted)}",
                )
            first, second, answer = (value_text(fields[name]) for name in wanted)
            record = places[0].get(first or "")
            if record is None or answer is None or second is None:
                continue
            query = self._query(record, second, places[1])
            if query is not None:
                found[query.digest] = label_answer(self.task, answer)
        return found

    def named(self, query: Query) -> dict[str, str | None]:
        """A question by the ids of its rows."""
        records = query.records
        if self.task != "match":
            return {"l_id": self._id(records[0], 0), "r_id": None, "column": query.target}
        own = [{r.digest for r in rows} for rows in (self.left, self.right)]
        if records[0].digest not in own[0] or records[1].digest not in own[1]:
            records = records[::-1]
        return {"l_id": self._id(records[0], 0), "r_id": self._id(records[1], 1), "column": None}

    def _query(self, record: Record, second: str, places: Mapping[str, Record]) -> Query | None:
        """The question of a label, as the table function asks it."""
        if self.task != "match":
            column = find_column(record, second)
            return None if column is None else Query((record,), column)
        other = places.get(second)
        if other is None:
            return None
        pair = [record, other]
        if ASKED[self.task].symmetric:
            pair.sort(key=lambda r: r.digest)
        return Query(tuple(pair))

    def _places(self, side: int) -> dict[str, Record]:
        rows = (self.left, self.right)[side]
        return {key: row for row in rows if (key := self._id(row, side)) is not None}

    def _id(self, record: Record, side: int) -> str | None:
        name = find_column(record, self._sides[side])
        if name is None:
            what, hint = unknown_name("column", self._sides[side], record.fields)
            raise InputError(what, hint=hint)
        return record.fields[name]
