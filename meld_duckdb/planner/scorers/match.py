"""Entity matching at tier 0."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from meld_duckdb import interrupt, progress
from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.context import comparable_text
from meld_duckdb.features.fit_blend import enough
from meld_duckdb.features.load import Variant
from meld_duckdb.features.match import Preparer, pair_features, select_features
from meld_duckdb.features.match_fit import FittedMatcher
from meld_duckdb.features.text import words
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.planner.budget import late_error
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.scorers.base import (
    COSINE_DIGITS,
    Calibrated,
    Embed,
    Labels,
    binary_answers,
)
from meld_duckdb.planner.scorers.learned import MOST_LABELS, Fits, Key
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query
from meld_duckdb.tasks.serialise import embedding_text

_SURE = 0.95
_BULK = 4096
_SAID = ("match", "mismatch")

Pair = tuple[Record, Record]


class MatchScorer(Calibrated):
    """EM by `features.match`; a record without any value matches nothing.

    Labels correct the shipped model for pairs of the tables they are from or, where no tables are
    known, for pairs of records with the same columns.
    """

    task = "match"
    version = 3

    def __init__(self, tables: Tables, embed: Embed, labels: Labels) -> None:
        self._tables = tables
        self._embed = embed
        self._fits = Fits(lambda: labels(self.task), self._fit)

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs; see `Scorer.score`."""
        pairs = [(q.records[0], q.records[1]) for q in queries]
        rows = self._rows(pairs, context)
        answers: list[Answer | None] = [None] * len(queries)
        groups: dict[Key, list[int]] = {}
        for i, pair in enumerate(pairs):
            groups.setdefault(_key(pair, context), []).append(i)
        for key, positions in groups.items():
            for i, answer in zip(positions, self._answer(key, rows[positions]), strict=True):
                a, b = pairs[i]
                answers[i] = answer if _comparable(a) and _comparable(b) else _by_equality(a, b)
        return answers

    def _answer(self, key: Key, rows: np.ndarray) -> list[Answer]:
        fitted = self._fits.get(key)
        if fitted is not None:
            return binary_answers(fitted, fitted.threshold, rows, _SAID)
        variant = self._variant(bool(key[0]))
        return binary_answers(variant.model, variant.threshold, rows, _SAID)

    def _variant(self, with_tables: bool) -> Variant:
        return self.calibration.variant("context" if with_tables else "pair")

    def _rows(self, pairs: Sequence[Pair], context: Context) -> np.ndarray:
        model = self._variant(bool(context)).model
        cosine = self._cosine(model, pairs)
        if not context:
            alone = pair_features(pairs, cosine, self.calibration.words)
            return select_features(model.features, alone)
        tables = self._tables.pair(context[0], context[1])
        at = [(self._at(context[0], a), self._at(context[1], b)) for a, b in pairs]
        alone = pair_features(pairs, cosine, tables.weights)
        return select_features(model.features, alone, tables.context_features(at))

    def _fit(self, key: Key, labels: Sequence[Demonstration]) -> FittedMatcher | None:
        context = tuple(sorted(key)) if key[0] else ()
        found: list[tuple[Pair, bool]] = []
        for label in labels[:MOST_LABELS]:
            pair = self._placed((label.query.records[0], label.query.records[1]), key)
            if pair is not None and all(_comparable(record) for record in pair):
                found.append((pair, label.answer == _SAID[0]))
        matches = np.array([answer for _, answer in found], dtype=bool)
        if not enough(matches):
            return None
        rows = self._rows([pair for pair, _ in found], context)
        return FittedMatcher(rows, matches, self._variant(bool(context)).model)

    def _placed(self, pair: Pair, key: Key) -> Pair | None:
        """A labelled pair in the order of a key's tables; None if it belongs to other pairs."""
        if not key[0]:
            return pair if _key(pair, ()) == key else None
        left, right = key
        for a, b in (pair, pair[::-1]):
            places = self._tables.position(left, a), self._tables.position(right, b)
            if None not in places:
                return a, b
        return None

    def probabilities(self, table: str, pairs: np.ndarray) -> np.ndarray:
        """Probabilities that pairs of rows of one table match, as `score` without labels, in bulk.

        Args:
            table: Digest of the table.
            pairs: Positions in it, int [n, 2]; pairs of the same rows are best near each other.

        Returns:
            float64 [n]; NaN for those that the budget of the call was not enough for.
        """
        model = self.calibration.variant("context").model
        tables = self._tables.pair(table, table)
        records, prepare = tables.left.records, Preparer(tables.weights)
        found = np.zeros(len(pairs))
        progress.expect(len(pairs))
        context = tables.context_features(pairs)
        for start in range(0, len(pairs), _BULK):
            interrupt.check()
            if late_error() is not None:
                found[start:] = np.nan
                return found
            cut = slice(start, start + _BULK)
            part = [(records[i], records[j]) for i, j in pairs[cut].tolist()]
            alone = pair_features(part, self._cosine(model, part), tables.weights, prepare)
            found[cut] = model.predict(select_features(model.features, alone, context[cut]))
            progress.settled({"t0": len(part)})
        worded = np.array([_comparable(record) for record in records], dtype=bool)
        for i in np.flatnonzero(~worded[pairs].all(axis=1)):
            a, b = pairs[i]
            found[i] = _by_equality(records[a], records[b]).probability or 0.0
        return found

    def threshold(self, table: str, options: Options) -> float:
        """Probability from which pairs of rows of one table match, given by its digest."""
        if options.threshold is not None:
            return options.threshold
        fitted = self._fits.get((table, table))
        return self._variant(True).threshold if fitted is None else fitted.threshold

    def _at(self, table: str, record: Record) -> int:
        at = self._tables.position(table, record)
        if at is None:  # the catalogue named this table for this record
            raise ArtefactCorrupt(
                "an indexed table does not hold the rows its catalogue names",
                hint="index it again: FROM meld.index('name')",
            )
        return at

    def _cosine(
        self, model: TreeEnsemble, pairs: Sequence[tuple[Record, Record]]
    ) -> np.ndarray | None:
        if not _uses(model, "encoder_cosine"):
            return None
        left, right = (
            self._embed([embedding_text(pair[side]) for pair in pairs]) for side in (0, 1)
        )
        cosines: np.ndarray = np.einsum("ij,ij->i", left, right).round(COSINE_DIGITS)
        return cosines


def _key(pair: Pair, context: Context) -> Key:
    """What pairs have in common that labels of one say something about the others.

    It is their two tables, in one order, or the names of their columns after an empty text.
    """
    if context:
        return tuple(sorted(context))
    return ("", *sorted(json.dumps(sorted(record.fields)) for record in pair))


def _comparable(record: Record) -> bool:
    """Tell whether features can say anything about a record: it holds at least one word."""
    return bool(words(comparable_text(record)))


def _by_equality(a: Record, b: Record) -> Answer:
    """Judge a pair that features cannot: nothing matches nothing, equal signs match."""
    equal = bool(a.present) and a.text == b.text
    reason = "equal values without a word" if equal else "a record without a word"
    probability = _SURE if equal else 0.0 if not (a.present and b.present) else 1 - _SURE
    return Answer(
        "match" if equal else "mismatch", probability, 0, (Evidence("feature", reason, 1.0),)
    )


def _uses(model: TreeEnsemble, feature: str) -> bool:
    if feature not in model.features:
        return False
    wanted = model.features.index(feature)
    return any((tree.feature == wanted).any() for tree in model.trees)
