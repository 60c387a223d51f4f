"""Features of a pair of records that say whether both mean the same thing.

A pair is compared as a whole text, by its title (the column that names the thing) and column by
column. All features are symmetric: swapping the records gives exactly the same numbers. What is
missing is NaN, never evidence for or against. Key columns (``id``, ``*_id``) are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz

from meld_duckdb.features import text as tx
from meld_duckdb.features.context import CONTEXT_FEATURES, PairTables, TableIndex, comparable
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.records import Record

__all__ = ["CONTEXT_FEATURES", "FEATURES", "PairTables", "Preparer", "TableIndex", "pair_features"]

MAX_TITLE_COLUMNS = 6
"""Columns of a record that are tried as title when the two schemas have no column in common."""

MOST_PREPARED = 20_000
"""Records kept prepared at a time: some 20 KB each."""

_TEXT = (
    "jaccard",
    "shared_of_union",
    "shared_of_smaller",
    "shared_of_larger",
    "gram_dice",
    "gram_of_smaller",
    "token_set",
    "token_sort",
    "alone_min",
    "alone_max",
    "rarest_alone_min",
    "rarest_alone_max",
    "length_ratio",
)
_NUMBER = ("share", "of_smaller", "conflict")
_COLUMNS = (
    "columns_mean",
    "columns_min",
    "columns_max",
    "columns_compared",
    "columns_one_sided",
    "number_gap_min",
    "number_gap_max",
)

FEATURES: tuple[str, ...] = (
    *(f"text_{name}" for name in _TEXT),
    *(f"title_{name}" for name in _TEXT),
    *(f"text_digit_{name}" for name in _NUMBER),
    *(f"title_digit_{name}" for name in _NUMBER),
    *(f"text_model_{name}" for name in _NUMBER),
    *(f"title_model_{name}" for name in _NUMBER),
    *(f"text_number_{name}" for name in _NUMBER),
    *(f"title_number_{name}" for name in _NUMBER),
    *_COLUMNS,
    "title_words_min",
    "encoder_cosine",
)
"""Names of the columns of `pair_features`."""


@dataclass(frozen=True, slots=True)
class _View:
    """A text prepared for comparison; every member is derived from ``text`` once."""

    text: str
    words: frozenset[str]
    ordered: str
    grams: frozenset[str]
    squashed: str
    digits: frozenset[str]
    models: frozenset[str]
    numbers: frozenset[float]
    mass: float


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A record prepared for comparison: the whole text and each present column."""

    whole: _View
    columns: dict[str, _View]
    names: frozenset[str]


def pair_features(
    pairs: Sequence[tuple[Record, Record]],
    cosine: np.ndarray | None,
    weights: IdfWeights,
    prepare: Preparer | None = None,
) -> np.ndarray:
    """Compute the features of pairs of records.

    Args:
        pairs: The pairs.
        cosine: Encoder cosine of each pair, [n], NaN where unknown; None for none.
        weights: How much a word tells: of the two tables where known, else the shipped ones.
        prepare: Prepared records of earlier calls with the same weights; None for none.

    Returns:
        float32 [n, len(FEATURES)], same order as ``pairs``; NaN where a feature is undefined.
    """
    prepare = prepare or Preparer(weights)
    rows = np.full((len(pairs), len(FEATURES)), np.nan, dtype=np.float32)
    for row, (a, b) in enumerate(pairs):
        first, second = (a, b) if a.digest <= b.digest else (b, a)
        rows[row, :-1] = _compare(prepare.record(first), prepare.record(second), weights)
    if cosine is not None and len(pairs):
        rows[:, -1] = np.asarray(cosine, dtype=np.float32)
    return rows


def select_features(
    wanted: Sequence[str], pair: np.ndarray, context: np.ndarray | None = None
) -> np.ndarray:
    """Pick the columns a model was fitted on.

    Args:
        wanted: Names among `FEATURES` and `CONTEXT_FEATURES`.
        pair: What `pair_features` gave, [n, len(FEATURES)].
        context: What `PairTables.context_features` gave; None where the tables are not known.

    Returns:
        float32 [n, len(wanted)]; context columns are NaN where ``context`` is None.
    """
    at = {name: i for i, name in enumerate((*FEATURES, *CONTEXT_FEATURES))}
    if context is None:
        context = np.full((len(pair), len(CONTEXT_FEATURES)), np.nan, dtype=np.float32)
    both: np.ndarray = np.hstack((pair, context))
    return both[:, [at[name] for name in wanted]]


class Preparer:
    """Prepares each distinct text once, and forgets all when there are too many."""

    def __init__(self, weights: IdfWeights) -> None:
        self._weights = weights
        self._views: dict[str, _View] = {}
        self._records: dict[str, _Prepared] = {}

    def record(self, record: Record) -> _Prepared:
        """A record, prepared."""
        known = self._records.get(record.digest)
        if known is None:
            if len(self._records) >= MOST_PREPARED:
                self._records.clear()
                self._views.clear()
            columns = {name: self._view(value) for name, value in comparable(record).items()}
            whole = self._view(" ".join(view.text for view in columns.values())[: tx.TEXT_LIMIT])
            names = frozenset(tx.squash(tx.fold(name)) for name in record.fields)
            known = _Prepared(whole, columns, names)
            self._records[record.digest] = known
        return known

    def _view(self, folded: str) -> _View:
        known = self._views.get(folded)
        if known is None:
            split = tx.words(folded)
            distinct = frozenset(split)
            known = _View(
                folded,
                distinct,
                " ".join(sorted(split)),
                tx.grams(folded),
                tx.squash(folded),
                frozenset(word for word in distinct if tx.has_digit(word)),
                tx.model_numbers(folded),
                tx.numbers(distinct),
                _mass(distinct, self._weights),
            )
            self._views[folded] = known
        return known


def _mass(words: Iterable[str], weights: IdfWeights) -> float:
    return math.fsum(weights.weight(word) for word in words)


def _compare(a: _Prepared, b: _Prepared, weights: IdfWeights) -> list[float]:
    shared = [name for name in a.columns if name in b.columns]
    title = _title(a, b, shared, weights)
    left, right = title
    return [
        *_text_features(a.whole, b.whole, weights),
        *_text_features(left, right, weights),
        *_overlap(a.whole.digits, b.whole.digits, a.whole, b.whole),
        *_overlap(left.digits, right.digits, left, right),
        *_overlap(a.whole.models, b.whole.models, a.whole, b.whole),
        *_overlap(left.models, right.models, left, right),
        *_overlap(a.whole.numbers, b.whole.numbers),
        *_overlap(left.numbers, right.numbers),
        *_column_features(a, b, shared, title),
        float(min(len(left.words), len(right.words))),
    ]


def _title(
    a: _Prepared, b: _Prepared, shared: Sequence[str], weights: IdfWeights
) -> tuple[_View, _View]:
    """Choose what names the thing: the first shared column of several words, else of letters.

    Without a shared column it is the pair of columns with the largest weight in common.
    """
    for least in (2, 1):
        for name in shared:
            left, right = a.columns[name], b.columns[name]
            if min(len(left.words), len(right.words)) >= least and _wordy(left) and _wordy(right):
                return left, right
    if shared:
        return a.columns[shared[0]], b.columns[shared[0]]
    best, most = (a.whole, b.whole), 0.0
    for left in list(a.columns.values())[:MAX_TITLE_COLUMNS]:
        for right in list(b.columns.values())[:MAX_TITLE_COLUMNS]:
            mass = _mass(left.words & right.words, weights)
            if mass > most:
                best, most = (left, right), mass
    return best


def _wordy(view: _View) -> bool:
    return len(view.words) > len(view.digits)


def _text_features(a: _View, b: _View, weights: IdfWeights) -> list[float]:
    if not a.words or not b.words:
        return [math.nan] * len(_TEXT)
    common = a.words & b.words
    alone_a, alone_b = _unmatched(a, b, weights), _unmatched(b, a, weights)
    mass_a, mass_b = math.fsum(alone_a), math.fsum(alone_b)
    shared = max(0.0, (a.mass - mass_a + b.mass - mass_b) / 2)
    both = len(a.grams & b.grams)
    small, large = sorted((a.mass, b.mass))
    short, long = sorted((len(a.text), len(b.text)))
    return [
        len(common) / len(a.words | b.words),
        _ratio(shared, shared + mass_a + mass_b),
        _ratio(max(a.mass - mass_a, b.mass - mass_b) if small == large else shared, small),
        _ratio(shared, large),
        2 * both / (len(a.grams) + len(b.grams)),
        both / min(len(a.grams), len(b.grams)),
        fuzz.token_set_ratio(a.text, b.text) / 100,
        fuzz.ratio(a.ordered, b.ordered) / 100,
        min(mass_a, mass_b),
        max(mass_a, mass_b),
        min(max(alone_a, default=0.0), max(alone_b, default=0.0)),
        max(max(alone_a, default=0.0), max(alone_b, default=0.0)),
        short / long,
    ]


def _unmatched(a: _View, b: _View, weights: IdfWeights) -> list[float]:
    """Weights of the words of ``a`` that ``b`` has neither as a word nor inside its letters."""
    return [weights.weight(word) for word in a.words - b.words if not _inside(word, b)]


def _inside(word: object, view: _View) -> bool:
    return isinstance(word, str) and len(word) >= 4 and word in view.squashed


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else math.nan


def _overlap(
    a: frozenset[object],
    b: frozenset[object],
    view_a: _View | None = None,
    view_b: _View | None = None,
) -> list[float]:
    """Shared part of both, of the smaller set, and the number of contradictions on both sides."""
    if not a or not b:
        return [math.nan] * len(_NUMBER)
    only_a = [x for x in a - b if view_b is None or not _inside(x, view_b)]
    only_b = [x for x in b - a if view_a is None or not _inside(x, view_a)]
    found_a, found_b = len(a) - len(only_a), len(b) - len(only_b)
    smaller = min(len(a), len(b))
    of_smaller = max(f / smaller for f, s in ((found_a, a), (found_b, b)) if len(s) == smaller)
    return [
        (found_a + found_b) / (len(a) + len(b)),
        of_smaller,
        float(min(len(only_a), len(only_b))),
    ]


def _column_features(
    a: _Prepared, b: _Prepared, shared: Sequence[str], title: tuple[_View, _View]
) -> list[float]:
    likeness, gaps = [], []
    for name in shared:
        left, right = a.columns[name], b.columns[name]
        if left is title[0] and right is title[1]:
            continue
        x, y = tx.parse_number(left.text), tx.parse_number(right.text)
        if x is not None and y is not None:
            gaps.append(_ratio(abs(x - y), max(abs(x), abs(y))) if x != y else 0.0)
        elif left.grams and right.grams:
            both = len(left.grams & right.grams)
            likeness.append(both / min(len(left.grams), len(right.grams)))
    one_sided = [name for name in a.names & b.names if (name in a.columns) != (name in b.columns)]
    return [
        math.fsum(likeness) / len(likeness) if likeness else math.nan,
        min(likeness, default=math.nan),
        max(likeness, default=math.nan),
        float(len(shared)),
        float(len(one_sided)),
        min(gaps, default=math.nan),
        max(gaps, default=math.nan),
    ]
