"""What should stand in a cell: candidate values, and what speaks for each.

Candidates are the value that stands there, what the programs learned from labels make of it
(`features.programs`), what the columns that determine this one say, frequent values and values with
frequent words that differ by a few letters, and "something else". One conditional logit over their
features says how probable each is, so that error detection ("is it not the first?") and repair are
one question.

Paper: MELD §2.2 (data cleaning). Sources of candidates after Baran (Mahdavi & Abedjan 2020): value,
vicinity and domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA, Levenshtein

from meld_duckdb.features.columns import TEXT_LIMIT, ColumnProfile, TableProfile, clip
from meld_duckdb.features.repair_labels import ColumnLabels, Evidence
from meld_duckdb.records import Record

FloatArray = NDArray[np.float64]

FEATURES: tuple[str, ...] = (
    "keeps",
    "other",
    "right same value",
    "right same format",
    "right column",
    "wrong same value",
    "wrong same format",
    "wrong column",
    "other in wrong format",
    "odd value",
    "usual value",
    "odd value where errors are rare",
    "usual value where errors are rare",
    "errors are rare",
    "program same value",
    "program same format",
    "program same rest",
    "program same range",
    "program anywhere",
    "program",
    "dependency share",
    "dependency mean",
    "dependency",
    "no dependency agrees",
    "spelling",
    "spelling rows",
    "spelling distance",
    "letters known wrong",
    "rows",
    "new value",
    "blank",
)
"""Names of the columns of a question's matrix."""

OTHER = "\0other"
"""Stands for a right value that is none of the candidates."""

_ALIKE = ("same value", "same format", "same rest", "same range", "anywhere")
_AT = {name: i for i, name in enumerate(FEATURES)}
_PROGRAM = tuple(f"program {how}" for how in _ALIKE)
_NEAR = 0.8
_COMMON = 0.1
_SPELLINGS = 2
_MANY = 2048


@dataclass(frozen=True, slots=True)
class Question:
    """One cell: its candidates, the standing value first and `OTHER` last, and their features."""

    values: tuple[str, ...]
    features: FloatArray
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Spelling:
    value: str
    rows: float
    distance: float
    wrong: str


class ColumnRepairs:
    """Candidates and features of the cells of one column.

    Args:
        profile: Statistics of the table; None if it is not known.
        column: The column.
        labels: What is learned about the column.
        rareness: How rare errors are in the table by its labels, in [0, 1]; see `rareness`.
    """

    def __init__(
        self,
        profile: TableProfile | None,
        column: str,
        labels: ColumnLabels,
        rareness: float = 0.0,
    ) -> None:
        self._profile = profile
        self._column = column
        self._labels = labels
        self._rareness = rareness
        self._own = profile.column(column) if profile is not None else None
        self._spellings: dict[str, list[_Spelling]] = {}

    def questions(
        self, records: Sequence[Record], odd: Sequence[float], skip: Sequence[str | None]
    ) -> list[Question]:
        """Describe cells.

        Args:
            records: One record per cell.
            odd: Log-odds of each cell to be wrong, by error detection without labels.
            skip: Digest of the labelled record that does not count as evidence, per cell.

        Returns:
            One question per cell, in order.
        """
        texts = [value_of(record, self._column) for record in records]
        self._prepare_spellings(list(dict.fromkeys(t for t in texts if t)))
        votes = self._votes(records, texts)
        return [
            self._question(record, text, vote, strange, left_out)
            for record, text, vote, strange, left_out in zip(
                records, texts, votes, odd, skip, strict=True
            )
        ]

    def _question(
        self,
        record: Record,
        text: str,
        votes: list[dict[str, float]],
        odd: float,
        skip: str | None,
    ) -> Question:
        rewritten = self._labels.rewritten(record, text, skip)
        spelled = {s.value: s for s in self._spellings.get(text, ())}
        voted = {value for vote in votes for value in vote}
        values = list(dict.fromkeys([text, *rewritten, *sorted(voted), *spelled]))
        matrix = np.zeros((len(values) + 1, len(FEATURES)))
        self._describe_kept(matrix, text, odd, skip)
        for row, value in enumerate(values):
            if row and value in rewritten:
                self._describe_program(matrix[row], rewritten[value])
            self._describe_votes(matrix[row], value, votes, keeps=not row)
            if row and value in spelled:
                self._describe_spelling(matrix[row], spelled[value])
            self._describe_value(matrix[row], value, keeps=not row)
        reasons = ["stands there"]
        reasons += [_reason(v, rewritten, voted) for v in values[1:]]
        return Question((*values, OTHER), matrix, (*reasons, "something else"))

    def _describe_kept(self, matrix: FloatArray, text: str, odd: float, skip: str | None) -> None:
        first, last = matrix[0], matrix[-1]
        first[_AT["keeps"]], last[_AT["other"]] = 1.0, 1.0
        for name, weight in (("", 1.0), (" where errors are rare", self._rareness)):
            first[_AT[f"odd value{name}"]] = min(-odd, 0.0) * weight
            first[_AT[f"usual value{name}"]] = max(-odd, 0.0) * weight
        first[_AT["errors are rare"]] = self._rareness
        names = ("same value", "same format", "column")
        odds = [evidence.log_odds for evidence in self._labels.kept(text, skip)]
        for name, added in zip(names, odds, strict=True):
            first[_AT[f"right {name}"]] = max(added, 0.0)
            first[_AT[f"wrong {name}"]] = min(added, 0.0)
        last[_AT["other in wrong format"]] = -min(odds[1], 0.0)

    def _describe_program(self, line: FloatArray, found: Sequence[Evidence]) -> None:
        for name, evidence in zip(_PROGRAM, found, strict=True):
            line[_AT[name]] = evidence.log_odds
        line[_AT["program"]] = 1.0

    def _describe_votes(
        self, line: FloatArray, value: str, votes: list[dict[str, float]], *, keeps: bool
    ) -> None:
        if not votes:
            return
        shares = [vote.get(value, 0.0) for vote in votes]
        line[_AT["dependency share"]] = max(shares)
        line[_AT["dependency mean"]] = math.fsum(shares) / len(shares)
        line[_AT["dependency"]] = float(not keeps and max(shares) > 0)
        line[_AT["no dependency agrees"]] = float(keeps and max(shares) == 0)

    def _describe_spelling(self, line: FloatArray, found: _Spelling) -> None:
        line[_AT["spelling"]] = 1.0
        line[_AT["spelling rows"]] = found.rows
        line[_AT["spelling distance"]] = found.distance
        known = self._labels.wrong_letters
        if found.wrong:
            line[_AT["letters known wrong"]] = sum(c in known for c in found.wrong) / len(
                found.wrong
            )

    def _describe_value(self, line: FloatArray, value: str, *, keeps: bool) -> None:
        line[_AT["blank"]] = float(not value and not keeps)
        if self._own is None or not value:
            return
        count = self._own.count(clip(value)) - keeps
        line[_AT["rows"]] = math.log1p(max(0, count))
        line[_AT["new value"]] = float(count <= 0 and not keeps)

    def _votes(
        self, records: Sequence[Record], texts: Sequence[str]
    ) -> list[list[dict[str, float]]]:
        """What every dependency says about every cell: value to its share of the other rows."""
        found: list[list[dict[str, float]]] = [[] for _ in records]
        if self._profile is None or self._own is None:
            return found
        inside = [r.digest in self._profile.digests for r in records]
        own = [self._own.code_of.get(clip(t), -1) for t in texts]
        for dependency in self._profile.dependencies(self._column):
            determinant = self._profile.column(dependency.determinant)
            for i, record in enumerate(records):
                group = determinant.code_of.get(clip(record.fields.get(dependency.determinant)), -1)
                others = int(dependency.sizes[group]) - inside[i] if group >= 0 else 0
                if others < 1:
                    continue
                vote: dict[str, float] = {}
                weight = dependency.strength / (others + 1)
                for code in {int(dependency.best_codes[group]), own[i]} - {-1}:
                    rows = dependency.rows_of(np.array([group]), np.array([code]))[0]
                    rows = int(rows) - (inside[i] and code == own[i])
                    value = self._own.values[code] if code < len(self._own.values) else ""
                    if rows > 0 and len(value) < TEXT_LIMIT:
                        vote[texts[i] if code == own[i] else value] = rows * weight
                found[i].append(vote)
        return found

    def _prepare_spellings(self, texts: list[str]) -> None:
        new = [t for t in texts if t not in self._spellings and len(t) < TEXT_LIMIT]
        if self._own is None or not new:
            return
        whole = _near_values(new, self._own)
        words = _near_words(new, self._own)
        for text in new:
            both = {s.value: s for s in (*words.get(text, ()), *whole.get(text, ()))}
            self._spellings[text] = list(both.values())


def rareness(n_wrong: int, n_labels: int) -> float:
    """How rare errors are: 0 from one cell in ten on and without labels, 1 for none at all.

    Where they are rare, a value that is odd in its table says more than the labels of its format.
    """
    if not n_labels:
        return 0.0
    return max(0.0, 1.0 - (n_wrong + 0.5) / (n_labels + 10) / _COMMON)


def value_of(record: Record, column: str) -> str:
    """What stands in a cell; the empty text for NULL."""
    return record.fields.get(column) or ""


def _reason(value: str, rewritten: dict[str, list[Evidence]], voted: set[str]) -> str:
    if value in rewritten:
        return "as in labels"
    return "dependent column" if value in voted else "similar frequent value"


def _near_values(texts: list[str], own: ColumnProfile) -> dict[str, list[_Spelling]]:
    """Frequent values that differ by few letters, the nearest first."""
    frequent, rows = own.frequent
    found: dict[str, list[_Spelling]] = {}
    if not frequent:
        return found
    for start in range(0, len(texts), _MANY):
        part = texts[start : start + _MANY]
        near = process.cdist(part, frequent, scorer=OSA.normalized_similarity, score_cutoff=_NEAR)
        for text, line in zip(part, near, strict=True):
            count = max(1, own.count(clip(text)))
            order = [
                int(i)
                for i in np.argsort(-line, kind="stable")[: _SPELLINGS + 1]
                if line[i] >= _NEAR and rows[i] > 2 * count and frequent[i] != text
            ]
            found[text] = [
                _spelling(text, frequent[i], math.log(rows[i] / count)) for i in order[:_SPELLINGS]
            ]
    return found


def _near_words(texts: list[str], own: ColumnProfile) -> dict[str, list[_Spelling]]:
    """Values in which every rare word is replaced by the nearest frequent one of the column."""
    frequent, rows = own.frequent_words
    if not frequent:
        return {}
    rare: dict[str, tuple[str, float]] = {}
    wanted = list(
        dict.fromkeys(
            w for text in texts for w in text.lower().split() if len(w) >= 4 and own.words[w] < 3
        )
    )
    for start in range(0, len(wanted), _MANY):
        part = wanted[start : start + _MANY]
        distance = process.cdist(part, frequent, scorer=OSA.distance, score_cutoff=3)
        for word, line in zip(part, distance, strict=True):
            best = int(line.argmin())
            if line[best] <= max(1, len(word) // 4):
                rare[word] = (frequent[best], math.log(rows[best]))
    found: dict[str, list[_Spelling]] = {}
    for text in texts:
        parts = text.split(" ")
        hits = [rare[p.lower()] for p in parts if p.lower() in rare]
        if hits:
            changed = " ".join(
                _cased(p, rare[p.lower()][0]) if p.lower() in rare else p for p in parts
            )
            found[text] = [_spelling(text, changed, min(n for _, n in hits))]
    return found


def _cased(pattern: str, word: str) -> str:
    if pattern.isupper():
        return word.upper()
    return word.capitalize() if pattern[:1].isupper() else word


def _spelling(text: str, value: str, rows: float) -> _Spelling:
    wrong = "".join(text[e.src_pos] for e in Levenshtein.editops(text, value) if e.tag != "insert")
    distance = Levenshtein.distance(text, value) / max(len(text), 1)
    return _Spelling(value, rows, distance, wrong)
