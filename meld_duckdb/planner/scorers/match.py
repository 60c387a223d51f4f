"""Entity matching at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.context import comparable_text
from meld_duckdb.features.match import Preparer, pair_features, select_features
from meld_duckdb.features.text import words
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.scorers.base import COSINE_DIGITS, Calibrated, Embed, binary_answers
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record
from meld_duckdb.tasks.base import Answer, Evidence, Query
from meld_duckdb.tasks.serialise import embedding_text

_SURE = 0.95
_BULK = 4096


class MatchScorer(Calibrated):
    """EM by `features.match`; a record without any value matches nothing."""

    task = "match"
    version = 2

    def __init__(self, tables: Tables, embed: Embed) -> None:
        self._tables = tables
        self._embed = embed

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs; see `Scorer.score`."""
        pairs = [(q.records[0], q.records[1]) for q in queries]
        variant = self.calibration.variant("context" if context else "pair")
        wanted = variant.model.features
        cosine = self._cosine(variant.model, pairs)
        if context:
            tables = self._tables.pair(context[0], context[1])
            at = [(self._at(context[0], a), self._at(context[1], b)) for a, b in pairs]
            alone = pair_features(pairs, cosine, tables.weights)
            rows = select_features(wanted, alone, tables.context_features(at))
        else:
            rows = select_features(wanted, pair_features(pairs, cosine, self.calibration.words))
        answers = binary_answers(variant.model, variant.threshold, rows, ("match", "mismatch"))
        return [
            answer if _comparable(a) and _comparable(b) else _by_equality(a, b)
            for answer, (a, b) in zip(answers, pairs, strict=True)
        ]

    def probabilities(self, table: str, pairs: np.ndarray) -> np.ndarray:
        """Probabilities that pairs of rows of one table match, as `score`, many pairs at once.

        Args:
            table: Digest of the table.
            pairs: Positions in it, int [n, 2]; pairs of the same rows are best near each other.

        Returns:
            float64 [n].
        """
        model = self.calibration.variant("context").model
        tables = self._tables.pair(table, table)
        records, prepare = tables.left.records, Preparer(tables.weights)
        found = np.zeros(len(pairs))
        context = tables.context_features(pairs)
        for start in range(0, len(pairs), _BULK):
            interrupt.check()
            cut = slice(start, start + _BULK)
            part = [(records[i], records[j]) for i, j in pairs[cut].tolist()]
            alone = pair_features(part, self._cosine(model, part), tables.weights, prepare)
            found[cut] = model.predict(select_features(model.features, alone, context[cut]))
        worded = np.array([_comparable(record) for record in records], dtype=bool)
        for i in np.flatnonzero(~worded[pairs].all(axis=1)):
            a, b = pairs[i]
            found[i] = _by_equality(records[a], records[b]).probability or 0.0
        return found

    def threshold(self, options: Options) -> float:
        """Probability from which pairs of rows of known tables match."""
        calibrated = self.calibration.variant("context").threshold
        return calibrated if options.threshold is None else options.threshold

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
