"""Arrow in, Arrow out: distinct rows of argument columns, records, and the answer column.

DuckDB hands a Python UDF at most 2,048 rows a call, most of them often equal. Only distinct rows
are turned into Python objects, so that a hundred thousand equal rows cost as much as one.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meld_duckdb import safe_json
from meld_duckdb.records import Record, make_record
from meld_duckdb.tasks.base import Answer, Evidence, RowError

EVIDENCE_TYPE = pa.struct([("kind", pa.string()), ("text", pa.string()), ("weight", pa.float64())])
RANKING_TYPE = pa.struct([("option", pa.string()), ("probability", pa.float64())])
DETAIL_TYPE = pa.struct(
    [
        ("answer", pa.string()),
        ("probability", pa.float64()),
        ("tier", pa.int8()),
        ("experts", pa.list_(pa.string())),
        ("evidence", pa.list_(EVIDENCE_TYPE)),
        ("raw", pa.string()),
        ("error", pa.string()),
        ("changed", pa.bool_()),
        ("ranking", pa.list_(RANKING_TYPE)),
    ]
)


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """The distinct rows of some columns.

    Attributes:
        rows: One tuple of Python values per distinct row, in order of first occurrence.
        inverse: int64 [n]: for every input row the position of its distinct row.
    """

    rows: list[tuple[object, ...]]
    inverse: np.ndarray


def as_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Join the chunks of a column into one array."""
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            column = column.chunk(0)
        else:
            combined = column.combine_chunks()
            column = combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def distinct_rows(columns: Sequence[pa.Array | pa.ChunkedArray]) -> DistinctRows:
    """Find the distinct rows of equally long columns and convert only these to Python.

    Args:
        columns: Columns of any type; NULL equals NULL.
    """
    arrays = [as_array(c) for c in columns]
    n_rows = len(arrays[0]) if arrays else 0
    if n_rows == 0:
        return DistinctRows([], np.zeros(0, dtype=np.int64))
    codes = np.zeros(n_rows, dtype=np.int64)
    for array in arrays:
        codes = _combine(codes, _codes(array))
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    chosen = pa.array(first[order])
    values = [python_values(array.take(chosen)) for array in arrays]
    return DistinctRows(list(zip(*values, strict=True)), rank[inverse.reshape(-1)])


def _combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Merge two code columns into one whose codes stay below the number of rows."""
    mixed = left * (int(right.max(initial=0)) + 1) + right
    _, inverse = np.unique(mixed, return_inverse=True)
    return inverse.reshape(-1).astype(np.int64)


def _codes(array: pa.Array) -> np.ndarray:
    """Number equal values alike, NULL included."""
    array = as_array(array)
    n_rows = len(array)
    if pa.types.is_null(array.type):
        return np.zeros(n_rows, dtype=np.int64)
    if pa.types.is_struct(array.type) and not _holds_union(array.type):
        codes = np.asarray(array.is_null().to_numpy(zero_copy_only=False), dtype=np.int64)
        for child in array.flatten():
            codes = _combine(codes, _codes(child))
        return codes
    if pa.types.is_dictionary(array.type):
        return _codes(array.dictionary_decode())
    if pa.types.is_nested(array.type) or pa.types.is_interval(array.type):
        seen: dict[str, int] = {}
        return np.fromiter(
            (seen.setdefault(repr(value), len(seen)) for value in python_values(array)),
            dtype=np.int64,
            count=n_rows,
        )
    indices = array.dictionary_encode(null_encoding="encode").indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _holds_union(kind: pa.DataType) -> bool:
    """Tell whether a type has a UNION somewhere: Arrow cannot take a struct around one apart."""
    if pa.types.is_union(kind):
        return True
    if not pa.types.is_nested(kind):
        return False
    return any(_holds_union(kind.field(i).type) for i in range(kind.num_fields))


def python_values(array: pa.Array) -> list[object]:
    """Convert to Python.

    A date or timestamp beyond Python's years becomes the text of its integer; what cannot be read
    at all becomes a `RowError` in its own place, inside lists and structs too.
    """
    array = as_array(array)
    if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
        array = pc.cast(array, pa.timestamp("us", array.type.tz), safe=False)
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return _values_one_by_one(array)


def _values_one_by_one(array: pa.Array) -> list[object]:
    """Convert a column of which some value cannot be read; the others keep their worth."""
    valid = array.is_valid().to_pylist()
    if pa.types.is_struct(array.type) and not _holds_union(array.type):
        names = [array.type.field(i).name for i in range(array.type.num_fields)]
        columns = [python_values(child) for child in array.flatten()]
        rows = zip(*columns, strict=True)
        return [
            dict(zip(names, row, strict=True)) if ok else None
            for ok, row in zip(valid, rows, strict=True)
        ]
    if pa.types.is_map(array.type):
        keys, items = python_values(array.keys), python_values(array.items)
        return _slices(array, list(zip(keys, items, strict=True)), valid)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _slices(array, python_values(array.values), valid)
    return [_python_value(scalar) for scalar in array]


def _slices(array: pa.Array, values: list[Any], valid: list[bool]) -> list[object]:
    offsets = array.offsets.to_pylist()
    return [
        values[start:stop] if ok else None
        for ok, start, stop in zip(valid, offsets, offsets[1:], strict=False)
    ]


def _python_value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        stored = getattr(scalar, "value", None)
        return str(stored) if isinstance(stored, int) else RowError("unreadable_value", str(error))


def column_types(kind: pa.DataType) -> dict[str, pa.DataType]:
    """Lower-case column names of a STRUCT to their types, texts left out; empty for others."""
    if not pa.types.is_struct(kind):
        return {}
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return {
        f.name.lower(): f.type
        for f in fields
        if not (pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
    }


def castable(text: str, kind: pa.DataType) -> bool:
    """Tell whether a text can become a value of a type; nested types are not judged."""
    if pa.types.is_nested(kind) or pa.types.is_null(kind) or pa.types.is_binary(kind):
        return True
    if pa.types.is_integer(kind):
        try:
            number = decimal.Decimal(text.strip())
        except decimal.InvalidOperation:
            return False
        if not number.is_finite() or number != int(number):
            return False
        text = str(int(number))
    try:
        pc.cast(pa.array([text.strip()]), kind)
    except pa.ArrowNotImplementedError:
        return True
    except pa.ArrowException:
        return False
    return True


def to_record(value: object) -> Record | RowError | None:
    """Turn one SQL value into a record.

    A STRUCT, a MAP and text that holds a JSON object become a record with these columns; any other
    text, number or date becomes a record with the single column ``text``. NULL gives None.
    """
    if value is None or isinstance(value, RowError):
        return value
    if isinstance(value, Mapping):
        broken = next((v for v in value.values() if isinstance(v, RowError)), None)
        return broken or make_record(value)
    if isinstance(value, list) and value and all(_is_entry(item) for item in value):
        return make_record({str(key): item for key, item in value})
    if isinstance(value, str):
        parsed = _json_object(value)
        return make_record(parsed if parsed is not None else {"text": value})
    return make_record({"text": value})


def _is_entry(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def _json_object(text: str) -> dict[str, object] | None:
    if not text.lstrip()[:1] == "{":
        return None
    try:
        parsed = safe_json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def detail_array(answers: Sequence[Answer | None], inverse: np.ndarray) -> pa.StructArray:
    """Scatter the answers of distinct rows to all rows, as `DETAIL_TYPE`; None gives NULL."""
    details = [None if answer is None else _detail(answer) for answer in answers]
    distinct = pa.array(details, type=DETAIL_TYPE)
    return distinct.take(pa.array(inverse))


def evidence_rows(evidence: Sequence[Evidence]) -> list[dict[str, object]]:
    """Evidence as rows of `EVIDENCE_TYPE`."""
    return [{"kind": e.kind, "text": e.text, "weight": e.weight} for e in evidence]


def _detail(answer: Answer) -> dict[str, object]:
    return {
        "answer": answer.value,
        "probability": answer.probability,
        "tier": answer.tier,
        "experts": list(answer.experts),
        "evidence": evidence_rows(answer.evidence),
        "raw": answer.raw,
        "error": answer.error,
        "changed": answer.changed,
        "ranking": [{"option": o, "probability": p} for o, p in answer.ranking],
    }
