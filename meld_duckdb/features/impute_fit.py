"""Imputation that has learned from labels: what each source of candidates is worth in a column.

The values that similar rows, words and spans suggest (`impute_features`) are joined by those that a
ridge regression over words, 3-grams and prefixes of the other columns predicts. A conditional logit
weighs the sources. It is fitted to the labels themselves, each of them described as if it were not
there: the index leaves a row out for itself, and ridge regression does so in closed form.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.choose import fit_weights
from meld_duckdb.features.choose import probabilities as shares
from meld_duckdb.features.impute import (
    FEATURES,
    Candidates,
    Imputed,
    ImputeIndex,
    impute_features,
    rank,
)
from meld_duckdb.features.impute_index import MAX_COLUMNS, read_row
from meld_duckdb.features.spans_tokens import NameSpace
from meld_duckdb.features.text import fold, words
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.records import Record, is_missing

FloatArray = NDArray[np.float64]

LEAST_LABELS = 20
"""Labels of a column from which something is fitted."""

MOST_LABELS = 2_500
"""Labels the ridge regression learns from, the first ones; a fit grows with their cube."""

MOST_VALUES = 1_000
MOST_ROWS = 50_000
"""Rows of the table, with a value or without, whose starts are counted."""

PRECISION = 0.9

_RIDGE = 0.5
_PREDICTED = 5
_TEXT_CHARS = 200
_MAX_START = 4
_USED = (
    "in_text at_start longest_in_text vote_share best_similarity confidence "
    "confidence_second bayes log_count is_new"
).split()
_AT = [FEATURES["context"].index(name) for name in _USED]
_PRIOR = np.array([1.0, 5.0, *([0.0] * (len(_USED) + 5))])


@dataclass(frozen=True, slots=True)
class _Described:
    candidates: Candidates
    features: FloatArray


class FittedImputer:
    """Fitted to the labelled rows of one column.

    Args:
        index: Index of the labelled rows.
        column: The column to impute.
        rows: Rows of the table, whether they hold a value or not.
        model: Weighs the candidates of ``impute_features``; one of several sources here.
    """

    def __init__(
        self, index: ImputeIndex, column: str, rows: Sequence[Record], model: TreeEnsemble
    ) -> None:
        self._index = index
        self._column = column
        self._model = model
        labelled = index.records[:MOST_LABELS]
        self._starts = _Starts([*rows[:MOST_ROWS], *labelled], column)
        self._ridge = _Ridge(labelled, index.value_of[: len(labelled)].tolist(), column)
        described = self._describe(labelled, [None] * len(labelled), self._ridge.left_out)
        truths = [index.values[v] for v in index.value_of[: len(labelled)].tolist()]
        pairs = list(zip(described, truths, strict=True))
        known = [(d, d.candidates.values.index(t)) for d, t in pairs if t in d.candidates.values]
        self._weights = fit_weights(
            [d.features for d, _ in known], [right for _, right in known], _PRIOR
        )
        self._reach = (len(known) + 1) / (len(pairs) + 2)
        self.minimum = self._choose_minimum(pairs)

    def answer(
        self, records: Sequence[Record], options: Sequence[Sequence[str] | None]
    ) -> list[list[Imputed]]:
        """Rank the candidates of each row, most probable first; empty if there is none."""
        scores = self._ridge.scores(records)
        return [
            rank(d.candidates, self._probabilities(d, given).tolist())
            for d, given in zip(self._describe(records, options, scores), options, strict=True)
        ]

    def _probabilities(self, described: _Described, given: Sequence[str] | None) -> FloatArray:
        # the right value may be none of the candidates, but it is one of the options
        reach = self._reach if given is None else 1.0
        return shares(described.features, self._weights) * reach

    def _choose_minimum(self, pairs: Sequence[tuple[_Described, str]]) -> float:
        """The smallest probability from which nine answers of ten to labels are right."""
        best, right = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
        for i, (described, truth) in enumerate(pairs):
            if described.candidates.values:
                found = self._probabilities(described, None)
                best[i] = found.max()
                right[i] = described.candidates.values[int(found.argmax())] == truth
        for minimum in np.arange(0.05, 1.0, 0.05):
            sure = best >= minimum
            if sure.any() and float(right[sure].mean()) >= PRECISION:
                return round(float(minimum), 2)
        return 0.95

    def _describe(
        self,
        records: Sequence[Record],
        options: Sequence[Sequence[str] | None],
        scores: FloatArray,
    ) -> list[_Described]:
        """Candidates and features of rows; ``scores`` are those of the ridge regression."""
        found = impute_features(self._index, records, self._column, options)
        extended = [
            self._extended(record, candidates, line) if given is None else list(given)
            for record, candidates, line, given in zip(records, found, scores, options, strict=True)
        ]
        found = impute_features(self._index, records, self._column, extended)
        trees = self._model.predict(np.concatenate([c.features for c in found]))
        parts = np.split(trees, np.cumsum([len(c.values) for c in found])[:-1])
        return [
            _Described(candidates, self._features(record, candidates, part, line))
            for record, candidates, part, line in zip(records, found, parts, scores, strict=True)
        ]

    def _extended(self, record: Record, candidates: Candidates, line: FloatArray) -> list[str]:
        best = np.argsort(-line, kind="stable")[:_PREDICTED].tolist()
        own = self._index.row_of.get(record.digest)
        counts = self._index.counts
        alone = self._index.value_of[own] if own is not None else -1
        values = [*candidates.values]
        values += [self._index.values[b] for b in best if b != alone or counts[b] > 1]
        if self._index.extractive >= 0.3 and self._index.at_start >= 0.3:
            values += self._starts.candidates(record, self._index.start_field)
        return list(dict.fromkeys(values))

    def _features(
        self, record: Record, candidates: Candidates, trees: FloatArray, line: FloatArray
    ) -> FloatArray:
        values = candidates.values
        codes = [self._index.code_of.get(v, -1) for v in values]
        ridge = np.array([line[c] if 0 <= c < len(line) else 0.0 for c in codes])
        top = ridge.max(initial=0.0)
        odds = np.log(np.clip(trees, 1e-4, 1.0))
        starts = np.array([self._starts.describe(record, v) for v in values]).reshape(-1, 3)
        used = np.nan_to_num(candidates.features[:, _AT].astype(np.float64))
        columns = [odds, ridge, *used.T, ridge == top, ridge - top, *starts.T]
        return np.stack(columns, axis=1).astype(np.float64)


class _Ridge:
    """Kernel ridge regression of the value on the other columns of a row."""

    def __init__(self, records: Sequence[Record], codes: Sequence[int], column: str) -> None:
        self._column = column
        views = _views(records, column)
        self._spaces = [NameSpace(lists) for lists in views]
        self._rows: Any = self._matrix(views)
        kept = min(MOST_VALUES, max(codes) + 1)
        wanted = np.zeros((len(records), kept))
        for i, code in enumerate(codes):
            if code < kept:
                wanted[i, code] = 1.0
        kernel = (self._rows @ self._rows.T).toarray()
        kernel.flat[:: len(kernel) + 1] += _RIDGE
        inverse = np.linalg.inv(kernel)
        self._weights: FloatArray = inverse @ wanted
        self.left_out: FloatArray = wanted - self._weights / np.diag(inverse)[:, None]

    def scores(self, records: Sequence[Record]) -> FloatArray:
        """Score of every value, [records, values]; near 1 for the right one."""
        matrix = self._matrix(_views(records, self._column))
        found: FloatArray = (matrix @ self._rows.T).toarray() @ self._weights
        return found

    def _matrix(self, views: Sequence[Sequence[Sequence[str]]]) -> Any:
        from scipy import sparse

        parts = [s.matrix(lists) for s, lists in zip(self._spaces, views, strict=True)]
        return sparse.hstack(parts).tocsr()


def _views(records: Sequence[Record], column: str) -> list[list[list[str]]]:
    """Words, 3- and 4-grams, and prefixes of the other columns, of every record."""
    found: list[list[list[str]]] = [[], [], []]
    for record in records:
        parts = [list(part) for part in zip(*_names(record, column), strict=True)]
        for view, part in zip(found, parts or [[], [], []], strict=True):
            view.append([name for names in part for name in names])
    return found


def _names(record: Record, column: str) -> Iterator[tuple[list[str], list[str], list[str]]]:
    present = [(n, v) for n, v in list(record.fields.items())[:MAX_COLUMNS] if n != column]
    for name, value in present:
        if value is None or is_missing(value):
            continue
        text = fold(value, _TEXT_CHARS)
        found = words(text)
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(found)]
        plain = f" {' '.join(found)} "
        grams = [plain[i : i + n] for n in (3, 4) for i in range(len(plain) - n + 1)]
        starts = [f"{name}^{text[:n]}" for n in (2, 3, 4, 5) if len(text) >= n]
        yield [*found, *pairs], grams, [*starts, *(f"{name}={word}" for word in found)]


class _Starts:
    """How often texts of a table start with the same words, and how differently they go on."""

    def __init__(self, rows: Sequence[Record], column: str) -> None:
        self._column = column
        self._rows: Counter[tuple[str, ...]] = Counter()
        self._next: dict[tuple[str, ...], set[str]] = {}
        for row in rows:
            for field in read_row(row, column).fields[:4]:
                for n in range(1, min(_MAX_START, len(field)) + 1):
                    self._rows[field[:n]] += 1
                    self._next.setdefault(field[:n], set()).add(field[n] if n < len(field) else "")

    def candidates(self, record: Record, at: int) -> list[str]:
        """The first words of a field that other rows start with too."""
        fields = read_row(record, self._column).fields
        lead = fields[at] if at < len(fields) else ()
        ends = [lead[:n] for n in range(1, min(3, len(lead)) + 1)]
        return [self._written(record, e) for e in ends if self._rows[e] > 1]

    def _written(self, record: Record, key: tuple[str, ...]) -> str:
        """The words as the row writes them, with the marks between them."""
        for name, value in list(record.fields.items())[:MAX_COLUMNS]:
            if name == self._column or value is None or is_missing(value):
                continue
            text = value[:_TEXT_CHARS].lstrip()
            parts = text.split()
            for n in range(1, min(len(parts), len(key)) + 1):
                lead = " ".join(parts[:n])
                if tuple(words(fold(lead))) == key:
                    return lead
        return " ".join(key)

    def describe(self, record: Record, value: str) -> tuple[float, float, float]:
        """Log rows that start with a value, ways they go on, and how tied its last word is."""
        key = tuple(words(fold(value, _TEXT_CHARS)))
        rows = self._rows.get(key, 0)
        ways = len(self._next.get(key, ()))
        shorter = self._rows.get(key[:-1], 0) if len(key) > 1 else 0
        return math.log1p(rows), math.log1p(ways), rows / shorter if shorter else 0.0
