"""Candidates for a missing value, and features that say which of them is right.

Candidates are the options of the user, else the values of similar rows, values that go with a word
of the row (an area code with a city, a model prefix with a brand), and spans of the row's own text
that occur as a value of the column, or stand where its values usually stand.

Two variants. ``context`` has an indexed table (`ImputeIndex`). ``record`` has none, so it can only
weigh options against the row's text; without options there is no candidate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from meld_duckdb.features.text import fold, words
from meld_duckdb.records import Record, is_missing

Matrix = NDArray[np.float32]
FloatArray = NDArray[np.float64]
_Scores = tuple[FloatArray, ...]
IntArray = NDArray[np.int64]

MAX_CELLS = 600_000
"""Rows times columns that an index keeps; more rows are thinned out evenly."""
MAX_SPREAD = 1000
"""A term in more rows than this, and in a quarter of all, tells nothing and costs most."""
MAX_COLUMNS = 64
MAX_TERMS = 200
TEXT_LIMIT = 400
NEIGHBOURS = 16
MAX_CANDIDATES = 24
MAX_SPAN = 6
_BATCH = 64
_MIN_EXTRACTIVE = 0.3

RECORD_FEATURES: tuple[str, ...] = tuple(
    "in_text at_start position value_words longest_in_text fuzzy_in_text n_candidates".split()
)
TABLE_FEATURES: tuple[str, ...] = tuple(
    (
        "vote_share vote_gap best_similarity top_similarity confidence confidence_second "
        "confidence_support confidence_gap bayes bayes_gap log_count share is_new column_values "
        "column_extractive column_at_start"
    ).split()
)
FEATURES: dict[str, tuple[str, ...]] = {
    "record": RECORD_FEATURES,
    "context": RECORD_FEATURES + TABLE_FEATURES,
}
"""Feature names of each variant, in the order of the matrix columns."""


@dataclass(frozen=True)
class Candidates:
    """What could be said for one cell.

    Attributes:
        values: Candidate values, each once.
        features: float32 [n, d], same order as ``values``.
        neighbours: Text and similarity of the nearest row that holds each value, or None.
    """

    values: tuple[str, ...]
    features: Matrix
    neighbours: tuple[tuple[str, float] | None, ...]


@dataclass(frozen=True)
class Imputed:
    """One ranked value: its probability in [0, 1], and why (feature or neighbour, weight)."""

    value: str
    probability: float
    evidence: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Row:
    """A record without the target column: words by column, and the terms that describe it."""

    fields: tuple[tuple[str, ...], ...]
    terms: tuple[str, ...]
    text: str


def _row(record: Record, column: str) -> _Row:
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
    return _Row(tuple(fields), tuple(terms)[:MAX_TERMS], text)


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


def _spans(row: _Row) -> Iterator[tuple[str, ...]]:
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
        rows = [_row(r, column) for r in held]
        self._index_phrases(rows)
        self._index_terms(rows)

    def _index_phrases(self, rows: list[_Row]) -> None:
        self.phrases: dict[tuple[str, ...], list[int]] = {}
        keys = [tuple(words(fold(v, TEXT_LIMIT))) for v in self.values]
        for code, key in enumerate(keys):
            if key:
                self.phrases.setdefault(key, []).append(code)
        starts = inside = 0
        where: Counter[int] = Counter()
        for row, code in zip(rows, self.value_of.tolist(), strict=True):
            at = [_find(field, keys[code]) for field in row.fields]
            inside += max(at, default=-1) >= 0
            starts += 0 in at
            where.update(f for f, position in enumerate(at) if position == 0)
        self.extractive = inside / max(1, len(rows))
        self.at_start = starts / max(1, len(rows))
        self.start_field = where.most_common(1)[0][0] if where else 0

    def _index_terms(self, rows: list[_Row]) -> None:
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

    def similarities(self, rows: Sequence[_Row]) -> FloatArray:
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

    def known_terms(self, row: _Row) -> IntArray:
        """Numbers of the row's terms that the index knows, all but the most spread ones."""
        found = np.array([self.term_of[t] for t in row.terms if t in self.term_of], dtype=np.int64)
        return found[self.term_rows[found] <= max(MAX_SPREAD, len(self.records) // 4)]

    def associations(self, row: _Row) -> _Scores:
        """How strongly the row's terms point to each value.

        Returns:
            Four float64 [n_values]: best and second best smoothed ``p(value | term)``, log rows of
            the best term, and the naive Bayes log score.
        """
        prior = self.counts / self.counts.sum()
        best, second, support = np.zeros((3, len(self.values)))
        bayes = np.log(prior)
        start, codes, data = self._by_value.indptr, self._by_value.indices, self._by_value.data
        for term in self.known_terms(row).tolist():
            part = slice(start[term], start[term + 1])
            rows, hits = self.term_rows[term], data[part].astype(np.float64)
            at = codes[part]
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


def _find(field: tuple[str, ...], key: tuple[str, ...]) -> int:
    """Position of a phrase in the words of a field, -1 where it is not."""
    starts = range(len(field) - len(key) + 1) if key else ()
    return next((s for s in starts if field[s : s + len(key)] == key), -1)


def impute_features(
    index: ImputeIndex | None,
    records: Sequence[Record],
    column: str,
    options: Sequence[Sequence[str] | None] | None = None,
) -> list[Candidates]:
    """Collect and describe the candidates of cells of one column.

    Args:
        index: The indexed table, None for the ``record`` variant. The rows asked about must not
            hold their value in it, or they would answer for themselves.
        records: One record per cell; a value in ``column`` is ignored.
        column: The column to impute.
        options: Values allowed for each cell, same order; None where any value may be answered.

    Returns:
        One `Candidates` per record, same order; empty where nothing could be said. Features are
        those of ``context`` with an index that has rows, else those of ``record``.
    """
    allowed = options if options is not None else [None] * len(records)
    rows = [_row(r, column) for r in records]
    if index is None or not index.records:
        return [_alone(row, given) for row, given in zip(rows, allowed, strict=True)]
    result = []
    for start in range(0, len(rows), _BATCH):
        near = index.similarities(rows[start : start + _BATCH])
        for i, line in enumerate(near, start):
            result.append(_with_table(index, rows[i], line, allowed[i]))
    return result


def _alone(row: _Row, given: Sequence[str] | None) -> Candidates:
    values = _distinct(given or ())
    return Candidates(values, _text_features(row, values), (None,) * len(values))


def _distinct(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v.strip() for v in given if not is_missing(v)))


def _text_features(row: _Row, values: Sequence[str]) -> Matrix:
    result = np.full((len(values), len(RECORD_FEATURES)), np.nan, dtype=np.float32)
    keys = [tuple(words(fold(v, TEXT_LIMIT))) for v in values]
    for i, key in enumerate(keys):
        at = [p for p in (_find(field, key) for field in row.fields) if p >= 0]
        result[i, 0] = float(bool(at))
        result[i, 1] = float(bool(at) and min(at) == 0)
        result[i, 2] = min(at) if at else math.nan
        result[i, 3] = len(key)
        joined = " ".join(key)
        result[i, 5] = fuzz.partial_ratio(joined, row.text) / 100 if joined and row.text else 0.0
    inside = result[:, 0] > 0
    result[:, 4] = inside & (result[:, 3] == result[inside, 3].max(initial=0))
    result[:, 6] = len(values)
    return result


def _with_table(
    index: ImputeIndex, row: _Row, near: FloatArray, given: Sequence[str] | None
) -> Candidates:
    k = min(NEIGHBOURS, len(near))
    top = np.argpartition(-near, k - 1)[:k]
    top = top[np.lexsort((top, -near[top]))]
    top = top[near[top] > 0]
    votes = np.bincount(index.value_of[top], near[top], len(index.values)).astype(np.float64)
    scores = (votes, *index.associations(row))
    values = _collect(index, row, scores) if given is None else _distinct(given)
    text = _text_features(row, values)
    table = _table_features(index, values, top, near, scores)
    nearest: dict[int, int] = {}
    for at in top.tolist():
        nearest.setdefault(int(index.value_of[at]), at)
    seen = [nearest.get(index.code_of.get(v, -1)) for v in values]
    texts = {at: index.records[at].text[:TEXT_LIMIT] for at in nearest.values()}
    neighbours = tuple(None if at is None else (texts[at], float(near[at])) for at in seen)
    return Candidates(values, np.concatenate([text, table], axis=1), neighbours)


def _collect(index: ImputeIndex, row: _Row, scores: _Scores) -> tuple[str, ...]:
    """Spans of the text first, then the best by each score, then words where values stand."""
    codes: dict[int, None] = {}
    for span in _spans(row):
        codes.update(dict.fromkeys(index.phrases.get(span, ())))
    found = list(codes)[: MAX_CANDIDATES // 2]
    votes, confidence, _, _, bayes = scores
    for score in (votes, confidence, bayes):
        best = np.argsort(-score, kind="stable")[:8].tolist()
        found.extend(c for c in best if score is bayes or score[c] > 0)
    kept = dict.fromkeys(index.values[c] for c in list(dict.fromkeys(found))[:MAX_CANDIDATES])
    if index.extractive >= _MIN_EXTRACTIVE and index.start_field < len(row.fields):
        lead = row.fields[index.start_field]
        kept.update({" ".join(lead[:n]): None for n in (1, 2) if len(lead) >= n})
    return tuple(kept)


def _table_features(
    index: ImputeIndex, values: Sequence[str], top: IntArray, near: FloatArray, scores: _Scores
) -> Matrix:
    votes, best, second, support, bayes = scores
    codes = np.array([index.code_of.get(v, -1) for v in values], dtype=np.int64)
    known, safe = codes >= 0, np.maximum(codes, 0)
    likely = np.exp(bayes - bayes.max())
    likely = likely / likely.sum()
    share = votes / max(float(votes.sum()), 1e-9)
    similar = np.zeros(len(index.values))
    np.maximum.at(similar, index.value_of[top], near[top])
    shares = index.counts / len(index.records)
    by_value = np.stack([share, similar, best, second, likely, np.log1p(index.counts), shares])
    result = np.full((len(values), len(TABLE_FEATURES)), np.nan, dtype=np.float32)
    result[:, [0, 2, 4, 5, 8, 10, 11]] = np.where(known, by_value[:, safe], 0.0).T
    result[:, 1], result[:, 7], result[:, 9] = (_gap(x, codes) for x in (share, best, likely))
    result[:, 3] = near[top[0]] if len(top) else 0.0
    result[:, 6] = np.where(known, support[safe], np.nan)
    result[:, 12] = ~known
    result[:, 13:] = math.log(len(index.values)), index.extractive, index.at_start
    return result


def _gap(scores: FloatArray, codes: IntArray) -> FloatArray:
    """A candidate's score less the best score of any other value."""
    order = np.argsort(-scores, kind="stable")[:2]
    first = float(scores[order[0]])
    runner = float(scores[order[1]]) if len(order) > 1 else 0.0
    own = np.where(codes >= 0, scores[np.maximum(codes, 0)], 0.0)
    return np.asarray(own - np.where(codes == order[0], runner, first), dtype=np.float64)


def rank(candidates: Candidates, probabilities: Sequence[float]) -> list[Imputed]:
    """Order candidates by probability, the sum brought down to 1 where it is above.

    Args:
        candidates: From `impute_features`.
        probabilities: The calibrated score of each candidate, same order.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    scores = scores / max(1.0, float(scores.sum()))
    order = np.argsort(-scores, kind="stable").tolist()
    values = candidates.values
    return [Imputed(values[i], float(scores[i]), _evidence(candidates, i)) for i in order]


def _evidence(candidates: Candidates, at: int) -> tuple[tuple[str, float], ...]:
    near = candidates.neighbours[at]
    found = [] if near is None else [(f"neighbour: {near[0]}", near[1])]
    names = FEATURES["context"][: candidates.features.shape[1]]
    shown = {"in_text", "vote_share", "confidence", "bayes"}
    line = candidates.features[at].tolist()
    found += [(n, float(x)) for n, x in zip(names, line, strict=True) if n in shown and x > 0]
    return tuple(found)


def decide(ranked: Sequence[Imputed], minimum: float) -> Imputed | None:
    """Return the best value, or None (abstain) where its probability is below the minimum."""
    return ranked[0] if ranked and ranked[0].probability >= minimum else None
