"""The rows of a table that hold a value in one column, indexed for imputation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.text import fold, words
from meld_duckdb.records import Record, is_missing

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Scores = tuple[FloatArray, ...]

MAX_CELLS = 600_000
"""Rows times columns that an index keeps; more rows are thinned out evenly."""
MAX_SPREAD = 1000
"""A term in more rows than this, and in a quarter of all, tells nothing and costs most."""
MAX_COLUMNS = 64
MAX_TERMS = 200
TEXT_LIMIT = 400
MAX_SPAN = 6


@dataclass(frozen=True)
class Row:
    """A record without the target column: words by column, and the terms that describe it."""

    fields: tuple[tuple[str, ...], ...]
    terms: tuple[str, ...]
    text: str


def read_row(record: Record, column: str) -> Row:
    """Read a record without the target column."""
    fields = []
    terms: dict[str, None] = {}
    for name, value in list(record.fields.items())[:MAX_COLUMNS]:
        if name == column or value is None or is_missing(value):
            continue
        found = tuple(words(fold(value, TEXT_LIMIT)))
        if found:
            fields.append(found)
            terms.update(dict.fromkeys(_terms(name, found)))
    text = " ".join(word for field in fields for word in field)
    return Row(tuple(fields), tuple(terms)[:MAX_TERMS], text)


def _terms(name: str, found: Sequence[str]) -> Iterator[str]:
    """The whole value, words, first words of the column, and prefixes of words with digits."""
    if len(found) <= MAX_SPAN:
        yield f"{name}=={' '.join(found)}"
    yield f"{name}^{found[0]}"
    if len(found) > 1:
        yield f"{name}^{found[0]} {found[1]}"
    for word in found[:40]:
        yield word
        yield f"{name}={word}"
        if len(word) > 3 and any(c.isdigit() for c in word):
            yield f"{name}~{word[:2]}"
            yield f"{name}~{word[:3]}"


def spans(row: Row) -> Iterator[tuple[str, ...]]:
    """Spans of up to `MAX_SPAN` words of the row's fields."""
    for field in row.fields:
        for start in range(min(len(field), 60)):
            for length in range(1, min(MAX_SPAN, len(field) - start) + 1):
                yield field[start : start + length]


class ImputeIndex:
    """The rows of a table that hold a value in one column.

    Args:
        records: Rows of the table; those without a value in the column are left out.
        column: The column to impute.
    """

    def __init__(self, records: Sequence[Record], column: str) -> None:
        held = [r for r in records if not is_missing(r.fields.get(column))]
        width = min(MAX_COLUMNS, len(held[0].fields)) if held else 1
        held = held[:: max(1, math.ceil(len(held) * width / MAX_CELLS))]
        self.records = held
        numbers: dict[str, int] = {}
        raw = [(r.fields.get(column) or "").strip() for r in held]
        self.value_of = np.array([numbers.setdefault(v, len(numbers)) for v in raw], dtype=np.int64)
        self.values = list(numbers)
        self.code_of = numbers
        self.counts = np.bincount(self.value_of, minlength=len(numbers))
        self.row_of = {r.digest: row for row, r in enumerate(held)}
        rows = [read_row(r, column) for r in held]
        self._index_phrases(rows)
        self._index_terms(rows)

    def _index_phrases(self, rows: list[Row]) -> None:
        self.phrases: dict[tuple[str, ...], list[int]] = {}
        keys = [tuple(words(fold(v, TEXT_LIMIT))) for v in self.values]
        for code, key in enumerate(keys):
            if key:
                self.phrases.setdefault(key, []).append(code)
        starts = inside = 0
        where: Counter[int] = Counter()
        for row, code in zip(rows, self.value_of.tolist(), strict=True):
            at = [find_phrase(field, keys[code]) for field in row.fields]
            inside += max(at, default=-1) >= 0
            starts += 0 in at
            where.update(f for f, position in enumerate(at) if position == 0)
        self.extractive = inside / max(1, len(rows))
        self.at_start = starts / max(1, len(rows))
        self.start_field = where.most_common(1)[0][0] if where else 0

    def _index_terms(self, rows: list[Row]) -> None:
        """Number the terms; count them by value; weigh them by TF-IDF."""
        from scipy import sparse

        self.term_of: dict[str, int] = {}
        lists = [
            np.array([self.term_of.setdefault(t, len(self.term_of)) for t in r.terms], np.int64)
            for r in rows
        ]
        lengths = np.array([len(x) for x in lists], dtype=np.int64)
        terms = np.concatenate([np.empty(0, np.int64), *lists])
        owner = np.repeat(np.arange(len(rows)), lengths)
        n_terms = max(1, len(self.term_of))
        self.term_rows = np.bincount(terms, minlength=n_terms).astype(np.int64)
        self.idf = np.log((1 + len(rows)) / (1 + self.term_rows)) + 0.1
        norms = np.sqrt(np.bincount(owner, self.idf[terms] ** 2, minlength=len(rows)))
        weights = (self.idf[terms] / norms[owner]).astype(np.float32)
        shape = (n_terms, len(rows))
        self._by_term = sparse.csr_matrix((weights, (terms, owner)), shape=shape)
        content = np.ones(len(terms), np.float32), (terms, self.value_of[owner])
        shape = (n_terms, max(1, len(self.values)))
        self._by_value = sparse.csr_matrix(content, shape=shape)
        self._by_value.sum_duplicates()

    def similarities(self, rows: Sequence[Row]) -> FloatArray:
        """TF-IDF cosine of rows to every indexed row, float32 [n_rows, n_indexed]."""
        from scipy import sparse

        found = [self.known_terms(r) for r in rows]
        unseen, data = math.log(1 + len(self.records)) + 0.1, []
        for known, row in zip(found, rows, strict=True):
            squares = float((self.idf[known] ** 2).sum())
            squares += sum(t not in self.term_of for t in row.terms) * unseen**2
            data.append((self.idf[known] / max(math.sqrt(squares), 1e-9)).astype(np.float32))
        start = np.concatenate([[0], np.cumsum([len(k) for k in found])])
        content = np.concatenate(data), np.concatenate(found), start
        query = sparse.csr_matrix(content, shape=(len(rows), self._by_term.shape[0]))
        return np.asarray((query @ self._by_term).toarray())

    def known_terms(self, row: Row) -> IntArray:
        """Numbers of the row's terms that the index knows, all but the most spread ones."""
        found = np.array([self.term_of[t] for t in row.terms if t in self.term_of], dtype=np.int64)
        return found[self.term_rows[found] <= max(MAX_SPREAD, len(self.records) // 4)]

    def associations(self, row: Row, counts: IntArray) -> Scores:
        """How strongly the row's terms point to each value.

        Args:
            row: The row asked about.
            counts: Rows of each value; where they are one less than the index's own, the row
                itself is in the index and its terms are counted without it.

        Returns:
            Four float64 [n_values]: best and second best smoothed ``p(value | term)``, log rows of
            the best term, and the naive Bayes log score.
        """
        prior = np.maximum(counts, 1e-6) / max(1, counts.sum())
        own = counts != self.counts
        best, second, support = np.zeros((3, len(self.values)))
        bayes = np.log(prior)
        start, codes, data = self._by_value.indptr, self._by_value.indices, self._by_value.data
        for term in self.known_terms(row).tolist():
            part = slice(start[term], start[term + 1])
            rows, hits = self.term_rows[term], data[part].astype(np.float64)
            at = codes[part]
            if own.any():
                rows, hits = rows - 1, hits - own[at]
                if rows <= 0:
                    continue
            confidence = hits / (rows + 1.0)
            better = confidence > best[at]
            second[at] = np.where(better, best[at], np.maximum(second[at], confidence))
            best[at] = np.where(better, confidence, best[at])
            support[at] = np.where(better, math.log(rows), support[at])
            smooth = 2.0 * prior
            gain = np.log((hits + smooth[at]) / (rows + 2.0) / prior[at])
            floor = math.log(2.0 / (rows + 2.0))
            bayes += floor
            bayes[at] += gain - floor
        return best, second, support, bayes


def find_phrase(field: tuple[str, ...], key: tuple[str, ...]) -> int:
    """Position of a phrase in the words of a field, -1 where it is not."""
    starts = range(len(field) - len(key) + 1) if key else ()
    return next((s for s in starts if field[s : s + len(key)] == key), -1)
