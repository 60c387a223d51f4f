"""Rows that may be compared at all: those with equal values in columns that a call names.

Values are compared as records show them, by their text (`records.value_text`): 7, 7.0 and '7' are
equal, 'Sony' and 'sony' are not. NULL is equal to nothing, as in SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb.errors import ConfigError, InputError, unknown_name
from meld_duckdb.retrieval.table_rows import TableRows

PACKED = 256
"""Right rows up to which small groups are compared together: a product for each would cost more."""

Term = tuple[str, str]
"""A column of the left table and one of the right."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Which rows may be compared: left and right rows of one group.

    Attributes:
        left: Number of each left row's group, int64 [n]; -1 for a row that is in none.
        right: Of each right row; the same array for one table grouped by the same columns.
    """

    left: np.ndarray
    right: np.ndarray

    def n_candidates(self, k: int, *, same: bool) -> int:
        """How many pairs there are at most with ``k`` candidates of each left row."""
        grouped = self.left[self.left >= 0]
        held = np.bincount(self.right[self.right >= 0], minlength=int(grouped.max(initial=-1)) + 1)
        own = int(same and self.left is self.right)
        return int(np.minimum(held[grouped] - own, k).sum())

    def members(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Left and right positions of every group that has both, ascending."""
        left, right = _by_number(self.left), _by_number(self.right)
        for number in sorted(left.keys() & right.keys()):
            yield left[number], right[number]


def parse_equal(terms: Sequence[str]) -> tuple[Term, ...]:
    """Read the option ``equal``: names of columns, ``'a = b'`` where the tables name them apart.

    Raises:
        ConfigError: A name is missing.
    """
    parsed: list[Term] = []
    for term in terms:
        left, apart, right = (part.strip() for part in term.partition("="))
        if not left or (apart and not right):
            raise ConfigError(
                f"option 'equal' holds {term!r}, expected the name of a column",
                hint="write equal := ['brand'], or equal := ['zip = postcode'] for different names",
            )
        parsed.append((left, right if apart else left))
    return tuple(parsed)


def equal_groups(left: TableRows, right: TableRows, terms: Sequence[Term]) -> Groups:
    """Group the rows of two tables by equal values.

    Args:
        left: Left table.
        right: Right table; the same object for one table twice.
        terms: Columns whose values have to be equal, all of them.

    Raises:
        InputError: A table has no such column.
    """
    numbers: dict[tuple[str | None, ...], int] = {}
    first = _numbers(left, [term[0] for term in terms], "left", numbers)
    if right is left and all(a == b for a, b in terms):
        return Groups(first, first)
    return Groups(first, _numbers(right, [term[1] for term in terms], "right", numbers))


def packed(members: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, ...]]:
    """Put small groups together: left and right positions of blocks of about `PACKED` right rows.

    A row of a block may be compared with those of its own group only.
    """
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for pair in members:
        if waiting and size + max(map(len, pair)) > PACKED:
            yield tuple(map(np.concatenate, zip(*waiting, strict=True)))
            waiting, size = [], 0
        waiting.append(pair)
        size += max(map(len, pair))
    if waiting:
        yield tuple(map(np.concatenate, zip(*waiting, strict=True)))


def _numbers(
    rows: TableRows,
    columns: Sequence[str],
    side: str,
    numbers: dict[tuple[str | None, ...], int],
) -> np.ndarray:
    """Number of each row's values, new ones added to ``numbers``; -1 where one is NULL."""
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    found: list[str] = []
    for column in columns:
        name = rows.find_column(column)
        if name is None:
            what, hint = unknown_name("column", column, rows.columns)
            raise InputError(f"option 'equal': {what} in the {side} table", hint=hint)
        found.append(name)
    keys = zip(*(rows.values(name) for name in found), strict=True)
    return np.fromiter(
        (-1 if None in key else numbers.setdefault(key, len(numbers)) for key in keys),
        dtype=np.int64,
        count=len(rows),
    )


def _by_number(numbers: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] >= 0]
    distinct, starts = np.unique(numbers[order], return_index=True)
    return dict(zip(distinct.tolist(), np.split(order, starts)[1:], strict=True))
