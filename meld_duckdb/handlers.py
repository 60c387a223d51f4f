"""What each SQL function does with its Arrow columns: convert, call the service, convert back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meld_duckdb.arrow import as_array, distinct_rows, python_values, to_record
from meld_duckdb.errors import ConfigError, InputError, unknown_name
from meld_duckdb.planner.options import Options, parse_options
from meld_duckdb.planner.questions import CELL_TASKS, build_query
from meld_duckdb.records import Record, make_record, value_text
from meld_duckdb.service import LocalService
from meld_duckdb.settings import Origin
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.udfs import SqlFunction

_TRUE_WORDS = frozenset({"true", "1", "yes", "t"})
_FALSE_WORDS = frozenset({"false", "0", "no", "f"})
_PAIR = pa.list_(
    pa.struct([("l", pa.int64()), ("r", pa.int64()), ("rank", pa.int64()), ("score", pa.float64())])
)
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


class Handlers:
    """One method per kind of SQL function; `register` binds them to names.

    Args:
        service: The service of this registration.
        origins: Where each setting came from.
        functions: All SQL functions, for help.
        version: Version of the package.
    """

    def __init__(
        self,
        service: LocalService,
        origins: Sequence[Origin],
        functions: Sequence[SqlFunction],
        version: str,
    ) -> None:
        self.service = service
        self._origins = origins
        self._functions = functions
        self._version = version

    def answer(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Task functions: one answer, probability or detail per row."""
        details = self.service.answer(function.name, function.task or "", columns)
        if function.form == "probability":
            return pc.struct_field(details, "probability")
        if function.form == "answer":
            return _typed_answer(function, pc.struct_field(details, "answer"))
        fields = [details.field(i) for i in range(details.type.num_fields)]
        fields[0] = _typed_answer(function, fields[0])
        names = [details.type.field(i).name for i in range(details.type.num_fields)]
        return pa.StructArray.from_arrays(fields, names=names, mask=details.is_null())

    def embed(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_embed(text)``: one vector per row, NULL for NULL."""
        _expect(function, columns, 1)
        distinct = distinct_rows(columns)
        records = [_required_record(row[0]) for row in distinct.rows]
        vectors = self._vectors(records)
        values = pa.array([None if v is None else v for v in vectors], pa.list_(pa.float32()))
        return values.take(pa.array(distinct.inverse))

    def similarity(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_similarity(a, b)``: cosine per row, NULL where a side is NULL."""
        _expect(function, columns, 2)
        distinct = distinct_rows(columns)
        left = self._vectors([_required_record(row[0]) for row in distinct.rows])
        right = self._vectors([_required_record(row[1]) for row in distinct.rows])
        cosines = [
            None if a is None or b is None else float(np.clip(a @ b, -1.0, 1.0))
            for a, b in zip(left, right, strict=True)
        ]
        return pa.array(cosines, pa.float64()).take(pa.array(distinct.inverse))

    def learn(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_learn(task, query, answer)``: true per stored label, NULL where a part is NULL."""
        _expect(function, columns, 3)
        rows = list(zip(*(python_values(as_array(c)) for c in columns), strict=True))
        labelled: dict[str, list[tuple[Query, str]]] = {}
        stored: list[bool | None] = []
        for task, query, answer in rows:
            if task is None or query is None or answer is None:
                stored.append(None)
                continue
            label = _label(str(task), query, answer)
            if label is not None:
                labelled.setdefault(str(task), []).append(label)
            stored.append(True if label is not None else None)
        for task, labels in labelled.items():
            self.service.session.learn(task, labels)
        return pa.array(stored, pa.bool_())

    def index(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.index(t)``."""
        name, rows, options = _only_row(function, columns)
        records = _records(rows)
        done = self.service.session.index(
            str(name), records, embed=_flag(_options(options), "embed")
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
        left, right, options = _only_row(function, columns)
        given = _options(options)
        found = self.service.session.block(
            _records(left),
            _records(right),
            _k(given),
            str(given.get("method", "lexical")),
            same=given.get("same") is True,
        )
        items = [
            {"l": int(a) + 1, "r": int(b) + 1, "rank": int(n), "score": float(s)}
            for a, b, n, s in zip(found.left, found.right, found.rank, found.score, strict=True)
        ]
        return pa.array([items], _PAIR)

    def join(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.join(l, r)``: the candidate pairs that match."""
        left_rows, right_rows, options = _only_row(function, columns)
        given = _options(options)
        match_options = parse_options(
            "match",
            {k: v for k, v in given.items() if k in {"threshold", "tier", "on_error"}},
            on_error=self.service.settings.on_error,
        )
        found, answers = self.service.join(
            _records(left_rows),
            _records(right_rows),
            _k(given),
            str(given.get("method", "lexical")),
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

    def version(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """``meld_version()``."""
        return pa.array([self._version], pa.string())

    def stats(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.stats()``; reading closes the current lines."""
        names = [f for f in function.returns[len("STRUCT(") : -len(")[]")].split(", ")]
        keys = [name.split(" ")[0] for name in names]
        lines = [{k: getattr(line, k) for k in keys} for line in self.service.stats.lines()]
        self.service.stats.begin_statement()
        fields = [(k, pa.float64() if k == "seconds" else pa.int64()) for k in keys]
        kind = pa.struct([(k, pa.string() if k == "function" else t) for k, t in fields])
        return pa.array([lines], pa.list_(kind))

    def errors(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.errors()``."""
        keys = ("function", "row_digest", "code", "message", "count")
        rows = [dict(zip(keys, row, strict=True)) for row in self.service.stats.errors()]
        kind = pa.struct([(k, pa.int64() if k == "count" else pa.string()) for k in keys])
        return pa.array([rows], pa.list_(kind))

    def settings(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.settings()``."""
        rows = [{"key": o.key, "value": str(o.value), "source": o.source} for o in self._origins]
        return _text_rows(rows, ("key", "value", "source"))

    def help(self, function: SqlFunction, columns: Sequence[pa.Array]) -> pa.Array:
        """Behind ``FROM meld.help()``."""
        rows = [
            {"function": f.name, "arguments": f.arguments, "doc": f.doc}
            for f in self._functions
            if not f.name.startswith("__")
        ]
        return _text_rows(rows, ("function", "arguments", "doc"))

    def _vectors(self, records: Sequence[Record | None]) -> list[np.ndarray | None]:
        present = [r for r in records if r is not None]
        if not present:
            return [None] * len(records)
        vectors = iter(self.service.session.embed_texts(present))
        return [None if r is None else next(vectors) for r in records]


def _typed_answer(function: SqlFunction, answers: pa.Array) -> pa.Array:
    labels = TASKS[function.task or ""].labels
    if labels is None:
        return answers
    return pc.if_else(pc.is_valid(answers), pc.equal(answers, labels[0]), None)


def _expect(function: SqlFunction, columns: Sequence[pa.Array], n_arguments: int) -> None:
    if len(columns) != n_arguments:
        raise InputError(
            f"{function.name} got {len(columns)} argument(s), expected {n_arguments}",
            hint=f"call it as {function.name}({function.arguments})",
        )


def _only_row(function: SqlFunction, columns: Sequence[pa.Array]) -> tuple[Any, Any, Any]:
    _expect(function, columns, 3)
    values = [python_values(as_array(column)) for column in columns]
    if len(values[0]) != 1:
        raise InputError(f"{function.name} got {len(values[0])} rows, expected one list per table")
    return values[0][0], values[1][0], values[2][0]


def _records(rows: object) -> list[Record]:
    """The rows of a whole table; a row that cannot be read keeps its place as an empty record."""
    items = rows if isinstance(rows, list) else []
    found = (to_record(row) for row in items)
    return [record if isinstance(record, Record) else make_record({}) for record in found]


def _required_record(value: object) -> Record | None:
    record = to_record(value)
    return record if isinstance(record, Record) else None


def _options(options: object) -> Mapping[str, object]:
    given = options if isinstance(options, Mapping) else {}
    return {k: v for k, v in given.items() if v is not None}


def _k(options: Mapping[str, object]) -> int:
    value = options.get("k", 10)
    if not isinstance(value, int):
        raise ConfigError(f"option 'k' is {value!r}, expected a whole number from 1 on")
    return value


def _flag(options: Mapping[str, object], name: str) -> bool:
    value = options.get(name, True)
    if not isinstance(value, bool):
        raise ConfigError(f"option {name!r} is {value!r}, expected true or false")
    return value


def _text_rows(rows: list[dict[str, str]], keys: Sequence[str]) -> pa.Array:
    return pa.array([rows], pa.list_(pa.struct([(k, pa.string()) for k in keys])))


def _label(task: str, query: object, answer: object) -> tuple[Query, str] | None:
    """Check one row of ``meld_learn``; None where a part of the query is NULL."""
    if task not in TASKS:
        what, hint = unknown_name("task", task, TASKS)
        raise InputError(what, hint=hint)
    names = ("row", "column") if task in CELL_TASKS else ("a", "b")
    fields = query
    if isinstance(query, str):
        try:
            fields = json.loads(query)
        except ValueError:
            fields = None
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        raise InputError(
            f"the query of a {task} label is {query!r}",
            hint=f"write it as {{'{names[0]}': ..., '{names[1]}': ...}}",
        )
    built = build_query(task, [fields[name] for name in names], Options())
    if built is None:
        return None
    if not isinstance(built, Query):
        raise InputError(f"the query of a {task} label cannot be read: {built}")
    return built, _label_answer(task, answer)


def _label_answer(task: str, answer: object) -> str:
    labels = TASKS[task].labels
    text = value_text(answer) or ""
    if labels is None:
        return text
    word = text.lower()
    if word in labels:
        return word
    if word in _TRUE_WORDS:
        return labels[0]
    if word in _FALSE_WORDS:
        return labels[1]
    raise InputError(
        f"the answer of a {task} label is {text!r}, expected true, false, {labels[0]!r} or "
        f"{labels[1]!r}"
    )
