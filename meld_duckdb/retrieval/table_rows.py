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
            if pa.types.is_struct(part.type):
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
    n_rows = len(array)
    pieces: list[list[str]] = [[] for _ in range(n_rows)]
    taken: list[int] = [0] * n_rows  # columns a record has used up, empty after folding or not
    unreadable = ~np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    seen: dict[str, list[set[int]]] = {}
    for number, column in enumerate(array.flatten()):
        name = array.type.field(number).name
        texts, broken = _column_texts(column)
        unreadable |= broken
        if is_key_column(name):
            continue
        # Of columns whose folded names agree, the first that holds something counts.
        earlier = seen.setdefault(tx.squash(tx.fold(name)), [])
        used: set[int] = set()
        for row, text in enumerate(texts):
            if text and taken[row] < MAX_COLUMNS and not any(row in rows for rows in earlier):
                pieces[row].append(text)
                taken[row] += 1
                used.add(row)
        earlier.append(used)
    return [
        "" if lost else " ".join(piece)[: tx.TEXT_LIMIT]
        for piece, lost in zip(pieces, unreadable.tolist(), strict=True)
    ]


def _column_texts(column: pa.Array) -> tuple[list[str], np.ndarray]:
    """Folded present values of a column, "" for none, and which could not be read at all."""
    column = as_array(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        coded = column.dictionary_encode()
        distinct, codes = coded.dictionary.to_pylist(), coded.indices.fill_null(-1).to_numpy()
        folded = [*(_folded(value) for value in distinct), ""]
        return [folded[code] for code in codes.tolist()], np.zeros(len(column), dtype=bool)
    values = python_values(column)
    broken = np.fromiter((isinstance(v, RowError) for v in values), dtype=bool, count=len(values))
    return ["" if isinstance(v, RowError) else _folded(value_text(v)) for v in values], broken


def _folded(text: str | None) -> str:
    return "" if text is None or is_missing(text) else tx.fold(text)
