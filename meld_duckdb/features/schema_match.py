"""Features of a pair of schema columns that say whether both hold the same thing.

A column is a record with any of the fields table, column, description, type, values or their usual
aliases. Names are split at underscores and case and usual abbreviations written out. All features
are symmetric. The ``context`` variant also sees how far a pair's score lies above or below the best
other partner of either column among all columns of the call (`SchemaContext`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import JaroWinkler

from meld_duckdb import safe_json
from meld_duckdb.features.schema_words import ABBREVIATIONS, ALIASES, CAMEL, KINDS, STOP, TYPES
from meld_duckdb.features.text import fold, grams, tfidf_matrices, words
from meld_duckdb.records import Record, is_missing

Matrix = NDArray[np.float32]
FloatArray = NDArray[np.float64]

TEXT_LIMIT = 1000
MAX_WORDS = 40
MAX_VALUES = 200
_BLOCK = 256

PAIR_FEATURES: tuple[str, ...] = tuple(
    (
        "name_equal name_weighted name_grams name_jaro_winkler last_word_equal kind_equal "
        "description_jaccard name_in_description table_cosine all_cosine type_equal value_overlap "
        "encoder_cosine"
    ).split()
)
CONTEXT_FEATURES: tuple[str, ...] = tuple(
    f"{score}_{kind}" for score in ("all", "encoder") for kind in ("gap_min", "gap_max")
)
FEATURES: dict[str, tuple[str, ...]] = {
    "pair": PAIR_FEATURES,
    "pair_encoder": PAIR_FEATURES,
    "context": PAIR_FEATURES + CONTEXT_FEATURES,
    "context_encoder": PAIR_FEATURES + CONTEXT_FEATURES,
}
"""Feature names of each variant, in the order of the matrix columns. The variants without
``_encoder`` are calibrated for encoder features that are all NaN."""


def split_name(name: str) -> list[str]:
    """Split a name at underscores, case and digits, and write usual abbreviations out."""
    result: list[str] = []
    for part in CAMEL.sub(" ", name[:TEXT_LIMIT]).replace("_", " ").split():
        for word in words(fold(part)):
            result.extend(ABBREVIATIONS.get(word, word).split("_"))
    return result[:MAX_WORDS]


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """A schema column prepared for comparison.

    Attributes:
        name: Words of the name, abbreviations written out.
        squashed: The name's letters and digits as given.
        name_grams: 3-grams of the words of the name.
        table: Words of the table's name and description, in order.
        description: Words of the description, stop words left out, in order.
        kinds: What the name says the column holds, for example ``date``.
        type: Family of the data type, None where unknown.
        values: Folded sample values.
    """

    name: tuple[str, ...]
    squashed: str
    name_grams: frozenset[str]
    table: tuple[str, ...]
    description: tuple[str, ...]
    kinds: frozenset[str]
    type: str | None
    values: frozenset[str]

    @property
    def everything(self) -> frozenset[str]:
        """Words and 3-grams of the name, words of the description and of the table's name."""
        marked = (f"@{t}" for t in self.table)
        return frozenset(
            (*self.name, *(f"#{g}" for g in self.name_grams), *self.description, *marked)
        )


def read_column(record: Record) -> SchemaColumn:
    """Read a record by its field aliases; what it lacks stays empty."""
    found = column_parts(record)
    name = tuple(split_name(found["column"]))
    table = split_name(found["table"]) + words(fold(found["table_description"], TEXT_LIMIT))
    described = words(fold(found["description"], TEXT_LIMIT))
    return SchemaColumn(
        name,
        "".join(words(fold(found["column"], TEXT_LIMIT))),
        grams(" ".join(name)),
        _content(table),
        _content(described),
        frozenset(kind for kind, known in KINDS.items() if known & set(name)),
        _type(found["type"]),
        _values(found["values"]),
    )


def column_parts(record: Record) -> dict[str, str]:
    """The parts of a column record by the names of `ALIASES`; what it lacks is the empty text."""
    by_name = {k.lower(): v for k, v in record.fields.items() if v is not None}
    return {
        part: next((by_name[a] for a in names if not is_missing(by_name.get(a))), "")
        for part, names in ALIASES.items()
    }


def _content(found: Sequence[str]) -> tuple[str, ...]:
    return tuple(_stem(w) for w in found if w not in STOP)[: 3 * MAX_WORDS]


def encoder_text(record: Record) -> str:
    """The text to embed for a column: table, name written out, description."""
    found = column_parts(record)
    name = " ".join(split_name(found["column"]))
    return f"{found['table'][:100]} {name}: {found['description'][:TEXT_LIMIT]}"


def _stem(word: str) -> str:
    """Write an abbreviation out and drop a plural s."""
    word = ABBREVIATIONS.get(word, word)
    return word[:-1] if len(word) > 4 and word.endswith("s") else word


def _type(text: str) -> str | None:
    lowered = text.lower()
    return next((kind for part, kind in TYPES.items() if part in lowered), None)


def _values(text: str) -> frozenset[str]:
    """Read a list of values from JSON, else from a list parted by commas or bars."""
    if not text:
        return frozenset()
    if text.startswith("["):
        try:
            loaded = safe_json.loads(text)
        except ValueError:
            loaded = None
        if isinstance(loaded, list):
            plain = [fold(str(v), 100) for v in loaded[:MAX_VALUES] if v is not None]
            return frozenset(v for v in plain if v)
    parts = re.split(r"[,|;]", text[: 100 * MAX_VALUES])[:MAX_VALUES]
    return frozenset(v for v in (fold(p, 100) for p in parts) if v)


class SchemaContext:
    """All columns of a call on both sides: word weights, and the best two partners of each.

    Args:
        lefts: Columns of the left schema.
        rights: Columns of the right schema.
        vectors: Digest of a column to its embedded `encoder_text`, L2-normalised; for all or none.

    Attributes:
        sides: Digests of the distinct columns of either side, in order.
        columns: Every column by its digest.
        vectors: The vectors of either side, same order as ``sides``; None without an encoder.
    """

    def __init__(
        self,
        lefts: Sequence[Record],
        rights: Sequence[Record],
        vectors: Mapping[str, Matrix] | None = None,
    ) -> None:
        left, right = ({r.digest: r for r in side} for side in (lefts, rights))
        self.sides = (tuple(left), tuple(right))
        self._left_row = {d: i for i, d in enumerate(left)}
        self._right_row = {d: i for i, d in enumerate(right)}
        self.columns = {d: read_column(r) for d, r in {**left, **right}.items()}
        self.frequency: Counter[str] = Counter()
        for digest in (*left, *right):
            self.frequency.update({*self.columns[digest].name, *self.columns[digest].description})
        self.vectors: tuple[Matrix, Matrix] | None = None
        self._scores: list[tuple[Any, Any]] = []
        for part in ("table", "everything"):
            lists = [[getattr(self.columns[d], part) for d in side] for side in (left, right)]
            self._scores.append(tfidf_matrices(lists[0], lists[1]))
        if vectors and left and right:
            pair = [np.stack([vectors[d] for d in side]) for side in (left, right)]
            self.vectors = (pair[0], pair[1])
            self._scores.append(self.vectors)
        same = list(left) == list(right)
        self._best = [_best_two(a, b, same) for a, b in self._scores[1:]]

    def weight(self, term: str) -> float:
        """Inverse document frequency of a term, above 0."""
        return math.log((1 + len(self.columns)) / (1 + self.frequency[term])) + 0.1

    def features(self, pairs: Sequence[tuple[Record, Record]]) -> FloatArray:
        """Cosines and gaps of pairs of columns, in either order.

        Returns:
            float64 [n, 7]: table, all and encoder cosine, then the `CONTEXT_FEATURES`; NaN where
            either column is not of the call, or there are no vectors.
        """
        result = np.full((len(pairs), 3 + len(CONTEXT_FEATURES)), np.nan)
        at = [self.find(a.digest, b.digest) for a, b in pairs]
        known = [k for k, found in enumerate(at) if found is not None]
        if not known:
            return result
        i, j = np.array([found for found in at if found is not None], dtype=np.int64).T
        for k, (left, right) in enumerate(self._scores):
            product = left[i] * right[j] if k == 2 else left[i].multiply(right[j])
            result[known, k] = np.asarray(product.sum(axis=1)).ravel()
        for k, (rows, columns) in enumerate(self._best):
            score = result[known, k + 1]
            gaps = score - _best_other(rows, i, j), score - _best_other(columns, j, i)
            result[known, 3 + 2 * k] = np.minimum(*gaps)
            result[known, 4 + 2 * k] = np.maximum(*gaps)
        return np.round(result, 5)  # term order, so the last digits, differ between processes

    def find(self, a: str, b: str) -> tuple[int, int] | None:
        """Where two columns stand, (left, right), given in either order; None where they do not."""
        for one, two in ((a, b), (b, a)):
            if one in self._left_row and two in self._right_row:
                return self._left_row[one], self._right_row[two]
        return None


_Best = tuple[NDArray[np.int64], FloatArray]


def _best_other(best: _Best, at: NDArray[np.int64], partner: NDArray[np.int64]) -> FloatArray:
    """The best score of each column with any partner but the one given."""
    who, scores = best
    return np.asarray(np.where(who[at] == partner, scores[at, 1], scores[at, 0]), dtype=np.float64)


def _best_two(left: Any, right: Any, same: bool) -> tuple[_Best, _Best]:
    """Best partner, and best and second best score, of each row and each column; by blocks.

    Where both sides are the ``same`` columns, a column is no partner of itself.
    """
    n, m = left.shape[0], right.shape[0]
    row_who, row_scores = np.zeros(n, np.int64), np.zeros((n, 2))
    col_who, col_scores = np.full(m, -1, np.int64), np.zeros((m, 2))
    for start in range(0, n if m else 0, _BLOCK):
        product = left[start : start + _BLOCK] @ right.T
        block = product if isinstance(product, np.ndarray) else product.toarray()
        lines = np.arange(block.shape[0])
        if same:
            block[lines, start + lines] = 0.0
        who = block.argmax(axis=1)
        row_who[start : start + len(lines)] = who
        row_scores[start : start + len(lines)] = _two_largest(block)
        joint = np.concatenate([col_scores, _two_largest(block.T)], axis=1)
        better = joint[:, 2] > col_scores[:, 0]
        col_who = np.where(better, start + block.argmax(axis=0), col_who)
        col_scores = -np.sort(-joint, axis=1)[:, :2]
    return (row_who, row_scores), (col_who, col_scores)


def _two_largest(block: FloatArray) -> FloatArray:
    if block.shape[1] == 1:
        return np.concatenate([block, np.zeros_like(block)], axis=1)
    return np.asarray(-np.partition(-block, 1, axis=1)[:, :2], dtype=np.float64)


def schema_features(
    pairs: Sequence[tuple[Record, Record]],
    context: SchemaContext | None = None,
    encoder: Matrix | None = None,
) -> Matrix:
    """Describe pairs of schema columns.

    Args:
        pairs: The two columns of each pair; swapping them gives the same numbers.
        context: All columns of the call; None gives the ``pair`` variants.
        encoder: Without context: cosine of the `encoder_text` of each pair, float32 [n].

    Returns:
        float32 [n, d] with the columns of ``FEATURES["pair"]`` or ``FEATURES["context"]``, NaN for
        unknown.
    """
    names = FEATURES["pair" if context is None else "context"]
    result = np.full((len(pairs), len(names)), np.nan, dtype=np.float32)
    known = {} if context is None else dict(context.columns)
    for i, (a, b) in enumerate(pairs):
        for record in (a, b):
            if record.digest not in known:
                known[record.digest] = read_column(record)
        one, two = known[a.digest], known[b.digest]
        result[i, : len(PAIR_FEATURES) - 1] = _pair(one, two, context)
    if context is not None:
        found = context.features(pairs)
        inside = ~np.isnan(found[:, 0])
        result[inside, 8:10] = found[inside, :2]
        result[:, 12:] = found[:, 2:]
    elif encoder is not None:
        result[:, 12] = encoder
    return result


def _pair(a: SchemaColumn, b: SchemaColumn, context: SchemaContext | None) -> list[float]:
    one, two = set(a.name), set(b.name)
    named, valued = bool(one and two), bool(a.values and b.values)
    return [
        float(a.squashed == b.squashed) if named else math.nan,
        _weighted(one, two, context),
        _dice(a.name_grams, b.name_grams),
        JaroWinkler.similarity(*sorted((" ".join(a.name), " ".join(b.name))))
        if named
        else math.nan,
        float(a.name[-1] == b.name[-1]) if named else math.nan,
        float(bool(a.kinds & b.kinds)) if a.kinds and b.kinds else math.nan,
        _jaccard(set(a.description), set(b.description)),
        _name_in_description(a, b),
        _dice(frozenset(a.table), frozenset(b.table)),
        _dice(a.everything, b.everything),
        float(a.type == b.type) if a.type and b.type else math.nan,
        len(a.values & b.values) / min(len(a.values), len(b.values)) if valued else math.nan,
    ]


def _name_in_description(a: SchemaColumn, b: SchemaColumn) -> float:
    """The larger share of a name's words that the other column's description knows."""
    shares = [
        len(set(x.name) & set(y.description)) / len(set(x.name))
        for x, y in ((a, b), (b, a))
        if x.name and y.description
    ]
    return max(shares, default=math.nan)


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a and b else math.nan


def _dice(a: frozenset[str], b: frozenset[str]) -> float:
    return 2 * len(a & b) / (len(a) + len(b)) if a and b else math.nan


def _weighted(a: set[str], b: set[str], context: SchemaContext | None) -> float:
    """Jaccard with inverse document frequencies where the call's columns are known."""
    if not a or not b:
        return math.nan
    if context is None:
        return _jaccard(a, b)
    # sorted: a sum in set order would differ between runs and between (a, b) and (b, a)
    shared = sum(context.weight(w) for w in sorted(a & b))
    return shared / sum(context.weight(w) for w in sorted(a | b))
