"""The rows of a whole table as blocking needs them: texts of all, records of few.

A record costs more than a kilobyte, a million of them too much. So the texts to compare are made
column by column from Arrow, each distinct value of a column once, and records only where asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meld_duckdb import interrupt
from meld_duckdb.arrow import as_array, python_values, to_record
from meld_duckdb.features import text as tx
from meld_duckdb.features.context import MAX_COLUMNS, comparable_text
from meld_duckdb.records import Record, is_key_column, is_missing, make_record, value_text
from meld_duckdb.tasks.base import RowError

_CHUNK = 50_000


class TableRows:
    """Rows of a table.

    Args:
        records: The rows, if they are records already.
        array: Else the rows in Arrow; a row that cannot be read counts as an empty record.
    """

    def __init__(
        self, records: Sequence[Record] | None = None, array: pa.Array | None = None
    ) -> None:
        self._records = records
        self._array: Any = None if array is None else as_array(array)

    def __len__(self) -> int:
        return len(self._array) if self._records is None else len(self._records)

    @cached_property
    def texts(self) -> list[str]:
        """`comparable_text` of every row, in order."""
        if self._records is not None:
            return [comparable_text(record) for record in self._records]
        found: list[str] = []
        for start in range(0, len(self._array), _CHUNK):
            interrupt.check()
            part = self._array.slice(start, _CHUNK)
            if pa.types.is_struct(part.type) and part.type.num_fields <= MAX_COLUMNS:
                found += _struct_texts(part)
            else:
                found += [comparable_text(record) for record in _records(part)]
        return found

    @property
    def records(self) -> Sequence[Record]:
        """All rows as records, made on first use."""
        if self._records is None:
            self._records = _records(self._array)
        return self._records

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        if self._records is not None:
            return list(dict.fromkeys(name for record in self._records for name in record.fields))
        if not pa.types.is_struct(self._array.type):
            return TableRows(self.records).columns
        return [field.name for field in self._array.type]

    def find_column(self, name: str) -> str | None:
        """The column of a name, in any case where it is not there to the letter."""
        columns = self.columns
        lowered = (column for column in columns if column.lower() == name.lower())
        return name if name in columns else next(lowered, None)

    def values(self, column: str) -> list[str | None]:
        """The values of a column as text, in order; None for NULL and what cannot be read."""
        if self._records is not None or not pa.types.is_struct(self._array.type):
            return [record.fields.get(column) for record in self.records]
        found: list[str | None] = []
        for start in range(0, len(self._array), _CHUNK):
            interrupt.check()
            # Flattened, a row that is NULL has NULL in every column.
            part = self._array.slice(start, _CHUNK).flatten()[self.columns.index(column)]
            values = python_values(as_array(part))
            found += (None if isinstance(v, RowError) else value_text(v) for v in values)
        return found

    def take(self, rows: np.ndarray) -> TableRows:
        """A table of some rows, in the order asked for."""
        if self._records is not None:
            return TableRows(self.records_at(rows))
        return TableRows(array=self._array.take(pa.array(rows)))

    def records_at(self, rows: np.ndarray) -> list[Record]:
        """Some rows as records, in the order asked for."""
        if self._records is not None:
            return [self._records[i] for i in rows.tolist()]
        return _records(self._array.take(pa.array(rows)))


def _records(array: pa.Array) -> list[Record]:
    found = (to_record(row) for row in python_values(array))
    return [record if isinstance(record, Record) else make_record({}) for record in found]


def _struct_texts(array: pa.StructArray) -> list[str]:
    """`comparable_text` of structs, the same as by way of records; see `context.comparable`."""
    unreadable = array.is_null().to_numpy(zero_copy_only=False)
    columns: list[pa.Array] = []
    taken: dict[str, pa.Array] = {}
    for number, column in enumerate(array.flatten()):
        texts, broken = _column_texts(column)
        unreadable = unreadable | broken
        name = array.type.field(number).name
        if is_key_column(name):
            continue
        # Of columns whose folded names agree, the first that holds something counts.
        key = tx.squash(tx.fold(name))
        if key in taken:
            texts, told = (
                pc.if_else(taken[key], pa.scalar(None, pa.string()), texts),
                pc.or_(taken[key], texts.is_valid()),
            )
            taken[key] = told
        else:
            taken[key] = texts.is_valid()
        columns.append(texts)
    if not columns:
        return [""] * len(array)
    # Not binary_join_element_wise: pyarrow 26 drops rows of which every value is NULL.
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [
        "" if lost else " ".join(filter(None, row))[: tx.TEXT_LIMIT]
        for row, lost in zip(rows, unreadable.tolist(), strict=True)
    ]


def _column_texts(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Folded values of a column, NULL for a missing one, and which could not be read at all."""
    column = as_array(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        coded = column.dictionary_encode()
        distinct = pa.array(map(_folded, coded.dictionary.to_pylist()), pa.string())
        return distinct.take(coded.indices), np.zeros(len(column), dtype=bool)
    values = python_values(column)
    broken = np.fromiter((isinstance(v, RowError) for v in values), dtype=bool, count=len(values))
    texts = (None if isinstance(v, RowError) else _folded(value_text(v)) for v in values)
    return pa.array(texts, pa.string()), broken


def _folded(text: str | None) -> str | None:
    return None if text is None or is_missing(text) else tx.fold(text) or None
