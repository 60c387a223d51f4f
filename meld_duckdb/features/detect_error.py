"""Features of error detection: how odd a value is in its record, its column and its table.

Two variants. ``record`` sees the row alone: stand-ins for missing, broken encoding, letters that do
not follow each other in ordinary text; weak evidence, and its calibration says so. ``context``
sees the row in its table (`TableProfile`): frequency, shape, near-duplicates of frequent values,
rare words and 3-grams, numeric and length outliers, broken dependencies between columns.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA, Levenshtein

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.columns import (
    ColumnProfile,
    Dependency,
    TableProfile,
    clip,
    collapsed,
    gram_codes,
    pattern,
    value_words,
)
from meld_duckdb.features.text import parse_number
from meld_duckdb.records import Record, is_missing

Matrix = NDArray[np.float32]

RECORD_FEATURES: tuple[str, ...] = tuple(
    (
        "is_missing is_marker has_unit is_number broken_encoding longest_run mixed_words "
        "log_length language_min language_mean equals_other_field words_in_rest"
    ).split()
)
VALUE_FEATURES: tuple[str, ...] = tuple(
    (
        "log_count share column_distinct column_missing pattern_share pattern_relative "
        "shape_share shape_relative length_z column_numeric numeric_z duplicate_ratio "
        "duplicate_distance rarest_word new_words word_duplicate_ratio rarest_gram mean_gram "
        "elsewhere"
    ).split()
)
DEPENDENCY_FEATURES: tuple[str, ...] = tuple(
    "dependencies violation_max violation_mean agreement_max majority_similarity".split()
)
FEATURES: dict[str, tuple[str, ...]] = {
    "record": RECORD_FEATURES,
    "context": RECORD_FEATURES + VALUE_FEATURES + DEPENDENCY_FEATURES,
}
"""Feature names of each variant, in the order of the matrix columns."""

_MARKERS = frozenset({"-", "--", "?", "n.a.", "unknown", "missing", "tbd", "nil", "#n/a", "nat"})
_UNIT = re.compile(r"[-+]?\d[\d.,]*\s*[^\W\d_]{1,6}\.?")
_BROKEN = re.compile("[\ufffd\x00-\x08\x0e-\x1f\x7f-\x9f]|[ÃÂâ][\x80-\u20ff]|&[a-z]{2,6};|&#\\d+;")
_MIXED = re.compile(r"[^\W\d_]\d[^\W\d_]|\d[^\W\d_]+\d")
_RUNS = re.compile(r"([^\W\d_])\1*")
_MANY = 4096
"""Values compared with the frequent ones at a time."""
_N_GRAMS = 32_768


@dataclass(frozen=True)
class Language:
    """How likely a character is after two others, in ordinary values.

    Attributes:
        table: ``-log2 p`` by 3-gram code, in eighths, uint8 [32768].
    """

    table: NDArray[np.uint8]

    @staticmethod
    def fit(texts: Sequence[str]) -> Language:
        """Count the 3-grams of texts."""
        codes, _ = gram_codes([clip(t) for t in texts] or [""])
        counts = np.bincount(codes, minlength=_N_GRAMS).reshape(-1, 32) + 0.05
        bits = -np.log2(counts / counts.sum(axis=1, keepdims=True)).ravel()
        return Language(np.minimum(np.rint(bits * 8), 255).astype(np.uint8))

    def to_text(self) -> str:
        """Write the table as base64."""
        return base64.b64encode(self.table.tobytes()).decode("ascii")

    @staticmethod
    def from_text(text: str) -> Language:
        """Read what `to_text` wrote.

        Raises:
            ArtefactCorrupt: If the text is not such a table.
        """
        try:
            table = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
        except ValueError as error:
            raise ArtefactCorrupt("the 3-gram table is not base64") from error
        if len(table) != _N_GRAMS:
            raise ArtefactCorrupt(f"the 3-gram table has {len(table)} entries, not {_N_GRAMS}")
        return Language(table)

    def surprise(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the largest and the mean surprise of each text in bits, float64 [n, 2]."""
        if not texts:
            return np.empty((0, 2))
        codes, starts = gram_codes(texts)
        bits = self.table[codes].astype(np.float64) / 8
        lengths = np.diff(np.append(starts, len(codes)))
        return np.stack(
            [np.maximum.reduceat(bits, starts), np.add.reduceat(bits, starts) / lengths], axis=1
        )


def record_features(
    records: Sequence[Record], columns: Sequence[str], language: Language | None = None
) -> Matrix:
    """Describe cells by their records alone.

    Args:
        records: One record per cell.
        columns: The cell's column, same order; one the record lacks counts as missing.
        language: The calibration's table; without it the two language features are NaN.

    Returns:
        float32 [n, len(FEATURES["record"])], NaN for unknown.
    """
    texts = [clip(r.fields.get(c)) for r, c in zip(records, columns, strict=True)]
    result = np.full((len(texts), len(RECORD_FEATURES)), np.nan, dtype=np.float32)
    for row, (text, record, column) in enumerate(zip(texts, records, columns, strict=True)):
        result[row, :8] = _text_features(text)
        if text:
            result[row, 10:12] = _rest_features(text, record, column)
    present = np.array([bool(t) for t in texts], dtype=bool)
    if language is not None and present.any():
        result[present, 8:10] = language.surprise([t for t in texts if t])
    return result


def _text_features(text: str) -> list[float]:
    if not text:
        return [1.0, 0.0] + [math.nan] * 6
    marker = is_missing(text) or text.lower() in _MARKERS
    number = parse_number(text) is not None
    return [
        0.0,
        float(marker),
        float(not number and _UNIT.fullmatch(text) is not None),
        float(number),
        float(_BROKEN.search(text) is not None),
        float(_longest_run(text)),
        float(sum(_MIXED.search(w) is not None for w in value_words(text))),
        math.log1p(len(text)),
    ]


def _longest_run(text: str) -> int:
    return max((len(run[0]) for run in _RUNS.finditer(text.lower())), default=1)


def _rest_features(text: str, record: Record, column: str) -> list[float]:
    """Whether another field holds the same value, and the share of words the rest knows."""
    others = [
        clip(v) for name, v in list(record.fields.items())[:64] if name != column and v is not None
    ]
    rest = {word for other in others for word in value_words(other)}
    own = value_words(text)
    known = sum(word in rest for word in own) / len(own) if own and rest else math.nan
    return [float(text in others), known]


def context_features(
    profile: TableProfile,
    records: Sequence[Record],
    columns: Sequence[str],
    language: Language | None = None,
) -> Matrix:
    """Describe cells by their records and the table around them.

    A record of the table is not counted as evidence for itself. Value counts treat every record so,
    also one from outside: an equal value elsewhere counts one row less for it.

    Args:
        profile: Statistics of the table.
        records: One record per cell.
        columns: The cell's column, same order.
        language: As for `record_features`.

    Returns:
        float32 [n, len(FEATURES["context"])], NaN for unknown.
    """
    alone = record_features(records, columns, language)
    result = np.full((len(records), len(FEATURES["context"])), np.nan, dtype=np.float32)
    result[:, : alone.shape[1]] = alone
    inside = np.array([r.digest in profile.digests for r in records], dtype=np.int64)
    by_column: dict[str, list[int]] = {}
    for row, column in enumerate(columns):
        by_column.setdefault(column, []).append(row)
    first, second = len(RECORD_FEATURES), len(RECORD_FEATURES) + len(VALUE_FEATURES)
    for column, rows in by_column.items():
        texts = [clip(records[i].fields.get(column)) for i in rows]
        distinct = list(dict.fromkeys(texts))
        block = _value_block(profile, profile.column(column), distinct)
        at = {text: i for i, text in enumerate(distinct)}
        result[rows, first:second] = block[[at[t] for t in texts]]
        chosen = [records[i] for i in rows]
        result[rows, second:] = _dependency_block(profile, column, chosen, texts, inside[rows])
    return result


def _value_block(
    profile: TableProfile, column: ColumnProfile, texts: list[str]
) -> NDArray[np.float64]:
    """The `VALUE_FEATURES` of distinct values of one column; of missing ones, the column's only."""
    result = np.full((len(texts), len(VALUE_FEATURES)), np.nan)
    n = max(1, column.n_present)
    result[:, 2] = len(column.values) / n
    result[:, 3] = 1 - column.n_present / max(1, column.n_rows)
    result[:, 9] = column.numeric[0]
    held = [i for i, text in enumerate(texts) if text]
    if not held or not column.values:
        return result
    present = [texts[i] for i in held]
    counts = np.array([max(1, column.count(t)) for t in present], dtype=np.float64)
    block = result[held]
    block[:, 0] = np.log(counts)
    block[:, 1] = (counts - 1) / n
    block[:, 4:8] = _shape_features(column, present, n)
    block[:, 8] = _spread_scores([len(t) for t in present], column.lengths)
    parsed = [parse_number(t) for t in present]
    block[:, 10] = _spread_scores(
        [math.nan if x is None else x for x in parsed], column.numeric[1:]
    )
    block[:, 11:13] = _duplicates(present, counts, *column.frequent)
    block[:, 13:16] = _word_features(column, present)
    block[:, 16:18] = _gram_features(column, present, n)
    block[:, 18] = _elsewhere(profile, column, present, counts)
    result[held] = block
    return result


def _shape_features(column: ColumnProfile, texts: list[str], n: int) -> NDArray[np.float64]:
    """Share of other rows with the same shape, alone and against the commonest shape."""
    shapes = [pattern(t) for t in texts]
    fine, coarse = column.patterns, column.collapsed_patterns
    ones = np.array([[fine[s], coarse[collapsed(s)]] for s in shapes], dtype=np.float64)
    ones = np.maximum(0.0, ones - 1)
    tops = np.array([max(fine.values()), max(coarse.values())], dtype=np.float64)
    relative = ones / tops
    shares = ones / n
    return np.stack([shares[:, 0], relative[:, 0], shares[:, 1], relative[:, 1]], axis=1)


def _spread_scores(
    values: Sequence[float], centre_spread: tuple[float, float]
) -> NDArray[np.float64]:
    """How many robust spreads a value lies off the centre, as log1p; sign dropped."""
    centre, spread = centre_spread
    floor = max(spread, abs(centre) * 0.01, 1e-9)
    return np.log1p(np.abs(np.array(values, dtype=np.float64) - centre) / floor)


def _duplicates(
    texts: list[str], counts: NDArray[np.float64], frequent: list[str], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log of how much commoner the commonest near-duplicate is, and its edit distance.

    Near is one edit up to five characters, else two. No such value: 0 and NaN.
    """
    result = np.zeros((len(texts), 2))
    result[:, 1] = np.nan
    if not frequent:
        return result
    lowered = [t.lower() for t in frequent]
    for start in range(0, len(texts), _MANY):
        part = texts[start : start + _MANY]
        own = counts[start : start + _MANY]
        distance = process.cdist(
            [t.lower() for t in part], lowered, scorer=OSA.distance, score_cutoff=2, dtype=np.uint8
        )
        limit = np.array([1 if len(t) <= 5 else 2 for t in part])
        near = (distance <= limit[:, None]) & (rows[None, :] > 2 * own[:, None])
        commoner = np.where(near, rows[None, :], 0)
        best = commoner.argmax(axis=1)
        found = near.any(axis=1)
        line = np.flatnonzero(found)
        result[start + line, 0] = np.log(rows[best[line]] / own[line])
        result[start + line, 1] = distance[line, best[line]]
    return result


def _word_features(column: ColumnProfile, texts: list[str]) -> NDArray[np.float64]:
    """Rows with the rarest word (log), share of words no other row has, its near-duplicate."""
    result = np.full((len(texts), 3), np.nan)
    rarest: list[str] = []
    lines: list[int] = []
    for i, text in enumerate(texts):
        found = value_words(text)
        if not found:
            continue
        others = [max(0, column.words[w] - 1) for w in found]
        result[i, 0] = math.log1p(min(others))
        result[i, 1] = sum(o == 0 for o in others) / len(others)
        word = found[others.index(min(others))]
        if len(word) >= 4 and word.isalpha():
            rarest.append(word)
            lines.append(i)
    if rarest:
        own = np.array([max(1, column.words[w]) for w in rarest], dtype=np.float64)
        result[lines, 2] = _duplicates(rarest, own, *column.frequent_words)[:, 0]
    return result


def _gram_features(column: ColumnProfile, texts: list[str], n: int) -> NDArray[np.float64]:
    """Log share of other rows with the rarest 3-gram, and the mean over the value's 3-grams."""
    codes, starts = gram_codes(texts)
    others = np.maximum(0, column.gram_counts[codes] - 1)
    logs = np.log((others + 0.5) / (n + 0.5))
    lengths = np.diff(np.append(starts, len(codes)))
    return np.stack(
        [np.minimum.reduceat(logs, starts), np.add.reduceat(logs, starts) / lengths], axis=1
    )


def _elsewhere(
    profile: TableProfile, column: ColumnProfile, texts: list[str], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of a value rare here: log of the rows of another column that hold it."""
    others = [profile.column(c) for c in profile.neighbours(column.name)]
    best = [
        max((o.count(t) for o in others), default=0) if n <= 2 else 0
        for t, n in zip(texts, counts.tolist(), strict=True)
    ]
    return np.log1p(np.array(best, dtype=np.float64))


def _dependency_block(
    profile: TableProfile,
    column: str,
    records: list[Record],
    texts: list[str],
    inside: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The `DEPENDENCY_FEATURES` of cells of one column; NaN where no dependency applies."""
    target = profile.column(column)
    found = profile.dependencies(column)
    result = np.full((len(records), len(DEPENDENCY_FEATURES)), np.nan)
    result[:, 0] = 0.0
    if not found:
        return result
    missing = len(target.values)
    own = np.array([target.code_of.get(t, -1) if t else missing for t in texts], dtype=np.int64)
    votes = [_vote(profile, d, records, own, inside) for d in found]
    violation = np.stack([v[0] for v in votes], axis=1)
    agreement = np.stack([v[1] for v in votes], axis=1)
    known = ~np.isnan(violation)
    any_known = known.any(axis=1)
    result[:, 0] = known.sum(axis=1)
    filled = np.where(known, violation, -1.0)
    strongest = filled.argmax(axis=1)
    result[any_known, 1] = filled.max(axis=1)[any_known]
    result[any_known, 2] = np.nansum(violation, axis=1)[any_known] / known.sum(axis=1)[any_known]
    result[any_known, 3] = np.nanmax(agreement[any_known], axis=1) if any_known.any() else 0.0
    majority = np.stack([v[2] for v in votes], axis=1)[np.arange(len(records)), strongest]
    for i in np.flatnonzero(any_known & (result[:, 1] > 0)):
        code = int(majority[i])
        other = target.values[code] if code < missing else ""
        result[i, 4] = Levenshtein.normalized_similarity(texts[i].lower(), other.lower())
    return result


def _vote(
    profile: TableProfile,
    dependency: Dependency,
    records: list[Record],
    own: NDArray[np.int64],
    inside: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """What the other rows with the same determinant say: violation, agreement, majority code."""
    determinant = profile.column(dependency.determinant)
    groups = np.array(
        [determinant.code_of.get(clip(r.fields.get(dependency.determinant)), -1) for r in records],
        dtype=np.int64,
    )
    safe = np.maximum(groups, 0)
    others = (dependency.sizes[safe] - inside).astype(np.float64)
    same = np.maximum(0, dependency.rows_of(safe, own) - inside)
    best = dependency.best_counts[safe] - inside * (dependency.best_codes[safe] == own)
    applies = (groups >= 0) & (others >= 1)
    divisor = np.maximum(others, 1)
    weight = dependency.strength * divisor / (divisor + 1)
    violation = np.where(applies, weight * np.maximum(0, best - same) / divisor, np.nan)
    agreement = np.where(applies, weight * same / divisor, np.nan)
    return violation, agreement, dependency.best_codes[safe]
