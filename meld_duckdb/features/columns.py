"""Statistics of a table's columns, computed once: frequencies, patterns, dependencies.

Everything is lazy and bounded: a column is counted when it is first asked about, at most
`MAX_ROWS` rows take part, of a value the first `TEXT_LIMIT` characters, and a column depends on at
most `MAX_DEPENDENCIES` others, sought among `MAX_DETERMINANTS`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.text import parse_number
from meld_duckdb.records import Record

TEXT_LIMIT = 200
"""Characters of a value that take part in the statistics."""
MAX_ROWS = 200_000
MAX_DETERMINANTS = 32
MAX_DEPENDENCIES = 6
MAX_FREQUENT = 1000
"""Frequent values (and words) of a column that others are compared with."""
MIN_FREQUENT = 3
MIN_STRENGTH = 0.3
"""Share of the majority's gain below which a dependency is noise."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_WORD = re.compile(r"[^\W_]+")
_RUN = re.compile(rb"(.)\1+", re.DOTALL)
_GRAM_BASE = 32


def _pattern_table() -> bytes:
    table = bytearray(range(256))
    for code in range(256):
        char = chr(code)
        if code < 128 and char.isdigit():
            table[code] = ord("9")
        elif code < 128 and char.isalpha():
            table[code] = ord("a") if char.islower() else ord("A")
    return bytes(table)


def _gram_table() -> bytes:
    """Map bytes to 31 classes: letters, digit, space, punctuation, other; 0 parts two values."""
    table = bytearray([30] * 256)
    for code in range(1, 128):
        char = chr(code)
        if char.isalpha():
            table[code] = ord(char.lower()) - ord("a") + 1
        elif char.isdigit():
            table[code] = 27
        elif char.isspace():
            table[code] = 28
        elif char.isprintable():
            table[code] = 29
    table[0] = 0
    return bytes(table)


_PATTERN_TABLE = _pattern_table()
_GRAM_TABLE = _gram_table()


def clip(value: str | None) -> str:
    """Cut and strip a value for the statistics; NULL is the empty text."""
    return "" if value is None else value[:TEXT_LIMIT].replace("\0", " ").strip()


def _bytes(text: str) -> bytes:
    return text.encode("ascii", "replace")


def pattern(text: str) -> bytes:
    """Fold a value to its shape: digits to 9, letters to a or A, every other character kept."""
    return _bytes(text).translate(_PATTERN_TABLE)


def collapsed(shape: bytes) -> bytes:
    """Collapse runs in a shape, so that ``999-99`` and ``9-9`` agree."""
    return _RUN.sub(rb"\1", shape)


def value_words(text: str) -> list[str]:
    """Split a value into lower-case words and numbers."""
    return _WORD.findall(text.lower())


def gram_codes(texts: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Number the character 3-grams of texts, each padded by one separator on both sides.

    Returns:
        ``(codes, starts)``: codes below 32 768 of all texts one after the other, and for each text
        where its codes start. Every text has at least one code.
    """
    data = _bytes("\0" + "\0\0".join(t or " " for t in texts) + "\0").translate(_GRAM_TABLE)
    raw = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    codes = (raw[:-2] * _GRAM_BASE + raw[1:-1]) * _GRAM_BASE + raw[2:]
    lengths = np.fromiter((max(1, len(t)) for t in texts), dtype=np.int64, count=len(texts))
    ends = np.cumsum(lengths + 2) - 2
    starts = ends - lengths
    inside = np.zeros(len(codes), dtype=np.int64)
    np.add.at(inside, starts, 1)
    np.add.at(inside, ends[ends < len(codes)], -1)
    keep = np.cumsum(inside) > 0
    return codes[keep], np.cumsum(lengths) - lengths


@dataclass(frozen=True)
class ColumnProfile:
    """One column counted.

    Attributes:
        name: Column name.
        values: Distinct values, clipped, in order of first occurrence; missing cells left out.
        counts: Rows of each value, int64 [n_values].
        codes: Value number of each row, -1 where missing, int64 [n_rows].
    """

    name: str
    values: list[str]
    counts: IntArray
    codes: IntArray

    @cached_property
    def code_of(self) -> dict[str, int]:
        """Value to its number."""
        return {value: code for code, value in enumerate(self.values)}

    @property
    def n_rows(self) -> int:
        """Rows counted, missing cells included."""
        return len(self.codes)

    @cached_property
    def n_present(self) -> int:
        """Rows that hold a value."""
        return int(self.counts.sum())

    def count(self, text: str) -> int:
        """Rows that hold a clipped value."""
        code = self.code_of.get(text)
        return 0 if code is None else int(self.counts[code])

    @cached_property
    def patterns(self) -> Counter[bytes]:
        """Rows of each shape."""
        return self._weighted([[pattern(v)] for v in self.values])

    @cached_property
    def collapsed_patterns(self) -> Counter[bytes]:
        """Rows of each collapsed shape."""
        result: Counter[bytes] = Counter()
        for shape, n in self.patterns.items():
            result[collapsed(shape)] += n
        return result

    @cached_property
    def words(self) -> Counter[str]:
        """Rows of each word."""
        result: Counter[str] = Counter()
        for value, n in zip(self.values, self.counts.tolist(), strict=True):
            for word in set(value_words(value)):
                result[word] += n
        return result

    @cached_property
    def gram_counts(self) -> IntArray:
        """Occurrences of each 3-gram code over the rows, int64 [32768]."""
        if not self.values:
            return np.zeros(_GRAM_BASE**3, dtype=np.int64)
        codes, starts = gram_codes(self.values)
        lengths = np.diff(np.append(starts, len(codes)))
        weights = np.repeat(self.counts, lengths).astype(np.float64)
        return np.bincount(codes, weights=weights, minlength=_GRAM_BASE**3).astype(np.int64)

    @cached_property
    def frequent(self) -> tuple[list[str], IntArray]:
        """The values of `MIN_FREQUENT` rows and more, commonest first, and their rows."""
        order = np.argsort(-self.counts, kind="stable")[:MAX_FREQUENT]
        order = order[self.counts[order] >= MIN_FREQUENT]
        return [self.values[i] for i in order], self.counts[order]

    @cached_property
    def frequent_words(self) -> tuple[list[str], IntArray]:
        """As `frequent`, for words of four letters and more."""
        kept = [
            (word, n)
            for word, n in self.words.most_common(2 * MAX_FREQUENT)
            if n >= MIN_FREQUENT and len(word) >= 4 and word.isalpha()
        ][:MAX_FREQUENT]
        return [w for w, _ in kept], np.array([n for _, n in kept], dtype=np.int64)

    @cached_property
    def numeric(self) -> tuple[float, float, float]:
        """Share of the present rows that are numbers, their median and robust spread."""
        parsed = [parse_number(v) for v in self.values]
        held = [(x, n) for x, n in zip(parsed, self.counts.tolist(), strict=True) if x is not None]
        if not held:
            return 0.0, math.nan, math.nan
        numbers = np.array([x for x, _ in held])
        rows = np.array([n for _, n in held], dtype=np.int64)
        median, spread = weighted_median_spread(numbers, rows)
        return float(rows.sum() / self.n_present), median, spread

    @cached_property
    def lengths(self) -> tuple[float, float]:
        """Median and robust spread of the lengths."""
        if not self.values:
            return math.nan, math.nan
        return weighted_median_spread(np.array([len(v) for v in self.values]), self.counts)

    def _weighted(self, keys: list[list[bytes]]) -> Counter[bytes]:
        result: Counter[bytes] = Counter()
        for found, n in zip(keys, self.counts.tolist(), strict=True):
            for key in found:
                result[key] += n
        return result


def weighted_median_spread(values: FloatArray | IntArray, rows: IntArray) -> tuple[float, float]:
    """Median, and interquartile range / 1.35, of values that stand for several rows each."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(rows[order]) / rows.sum()
    low, middle, high = (
        float(values[order[min(int(np.searchsorted(reached, q)), len(order) - 1)]])
        for q in (0.25, 0.5, 0.75)
    )
    return middle, (high - low) / 1.35


@dataclass(frozen=True)
class Dependency:
    """How far one column's value settles another's.

    Attributes:
        determinant: Name of the settling column.
        strength: Gain over always saying the commonest value, in [0, 1]; 1 is a strict dependency.
        coverage: Share of rows whose determinant occurs in other rows as well.
        keys: Sorted ``determinant code * width + target code`` of the pairs that occur.
        pair_counts: Rows of each key.
        width: Distinct target values and one for missing.
        sizes: Rows of each determinant value.
        best_codes: Commonest target code of each determinant value.
        best_counts: Rows of it.
    """

    determinant: str
    strength: float
    coverage: float
    keys: IntArray
    pair_counts: IntArray
    width: int
    sizes: IntArray
    best_codes: IntArray
    best_counts: IntArray

    def rows_of(self, groups: IntArray, targets: IntArray) -> IntArray:
        """Rows that hold each (determinant code, target code) pair."""
        wanted = groups * self.width + targets
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.pair_counts[at], 0)


def find_dependency(determinant: ColumnProfile, target: ColumnProfile) -> Dependency | None:
    """Measure ``determinant -> target``; None where it says too little.

    A missing target is a value of its own; rows with a missing determinant do not take part.
    """
    kept = determinant.codes >= 0
    if not kept.any() or not target.values:
        return None
    width = len(target.values) + 1
    goal = np.where(target.codes[kept] < 0, width - 1, target.codes[kept])
    keys, counts = np.unique(determinant.codes[kept] * width + goal, return_counts=True)
    groups = keys // width
    order = np.lexsort((-counts, groups))
    first = order[np.unique(groups[order], return_index=True)[1]]
    sizes, best = determinant.counts, counts[first]
    shared = sizes > 1
    n_shared = int(sizes[shared].sum())
    coverage = n_shared / max(1, determinant.n_rows)
    if n_shared == 0 or coverage < 0.05:
        return None
    purity = float(((best[shared] - 1) / (sizes[shared] - 1) * sizes[shared]).sum() / n_shared)
    base = float(np.bincount(goal).max() / len(goal))
    strength = (purity - base) / (1 - base) if base < 1 else 0.0
    if strength < MIN_STRENGTH:
        return None
    return Dependency(
        determinant.name, strength, coverage, keys, counts, width, sizes, keys[first] % width, best
    )


class TableProfile:
    """The statistics of a table, each computed when first asked for.

    Args:
        records: Rows of the table; more than `MAX_ROWS` are thinned out evenly.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        step = max(1, math.ceil(len(records) / MAX_ROWS))
        self.records = records[::step]
        self.columns: tuple[str, ...] = tuple(
            dict.fromkeys(name for r in self._shapes() for name in r.fields)
        )
        self._profiles: dict[str, ColumnProfile] = {}
        self._dependencies: dict[str, list[Dependency]] = {}

    def _shapes(self) -> list[Record]:
        """One record of each tuple of column names."""
        return list({tuple(r.fields): r for r in self.records}.values())

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def digests(self) -> frozenset[str]:
        """Digests of the rows: tells whether a record is one of the table."""
        return frozenset(r.digest for r in self.records)

    def column(self, name: str) -> ColumnProfile:
        """Count a column; one that no row has is all missing."""
        found = self._profiles.get(name)
        if found is None:
            found = self._profiles[name] = self._count(name)
        return found

    def _count(self, name: str) -> ColumnProfile:
        numbers: dict[str, int] = {}
        codes = np.fromiter(
            (
                numbers.setdefault(text, len(numbers)) if text else -1
                for text in (clip(r.fields.get(name)) for r in self.records)
            ),
            dtype=np.int64,
            count=len(self.records),
        )
        counts = np.bincount(codes[codes >= 0], minlength=len(numbers)).astype(np.int64)
        return ColumnProfile(name, list(numbers), counts, codes)

    def neighbours(self, name: str) -> list[str]:
        """The other columns looked at for a column: all of a narrow table, else the nearest."""
        others = [c for c in self.columns if c != name]
        if len(others) <= MAX_DETERMINANTS:
            return others
        at = self.columns.index(name) if name in self.columns else 0
        start = max(0, min(at - MAX_DETERMINANTS // 2, len(others) - MAX_DETERMINANTS))
        return others[start : start + MAX_DETERMINANTS]

    def dependencies(self, target: str) -> list[Dependency]:
        """The columns that settle ``target``, strongest first, at most `MAX_DEPENDENCIES`."""
        found = self._dependencies.get(target)
        if found is None:
            goal = self.column(target)
            measured = [find_dependency(self.column(c), goal) for c in self.neighbours(target)]
            kept = [d for d in measured if d is not None]
            kept.sort(key=lambda d: -d.strength * d.coverage)
            found = self._dependencies[target] = kept[:MAX_DEPENDENCIES]
        return found
