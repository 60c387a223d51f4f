"""Tier 0 at query time: features, a small fitted model per task, and the reasons it gives.

Which variant of a model answers depends on what is known: both records in indexed tables
(``context``), or nothing but the records (``pair``, ``record``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features import detect_error, impute, schema_match
from meld_duckdb.features.context import comparable_text
from meld_duckdb.features.load import Calibration, calibration_digest, load_calibration
from meld_duckdb.features.match import pair_features, select_features
from meld_duckdb.features.text import words
from meld_duckdb.features.trees import TreeEnsemble
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record, digest
from meld_duckdb.tasks.base import Answer, Evidence, Query
from meld_duckdb.tasks.serialise import embedding_text

Embed = Callable[[Sequence[str]], np.ndarray]
LabelledRows = Callable[[str], Sequence[Record]]

_REASONS = 3
_SURE = 0.95
_DIGITS = 5
"""Decimals of a cosine that count: the rest depends on what else is in the encoder's batch."""


class Scorer(Protocol):
    """Answers queries of one task by features."""

    @property
    def digest(self) -> str:
        """Digest of the fitted model and version of the features; part of the cache key."""
        ...

    @property
    def encodes(self) -> bool:
        """Whether the encoder takes part, so that its digest belongs to the cache key."""
        ...

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Answer queries that share a table context.

        Returns:
            One tier-0 answer per query, in order; None where features say nothing at all.
        """
        ...

    def least(self, query: Query, context: Context) -> float:
        """Probability below which an answer of this scorer does not count."""
        ...


def make_scorers(tables: Tables, embed: Embed, labelled: LabelledRows) -> dict[str, Scorer]:
    """Make the scorer of every task.

    Args:
        tables: Where contexts are looked up.
        embed: Embeds texts; called only if a calibration uses the encoder.
        labelled: Learned rows that hold a value in the column given.
    """
    return {
        "match": MatchScorer(tables, embed),
        "detect_error": DetectErrorScorer(tables),
        "impute": ImputeScorer(tables, labelled),
        "schema_match": SchemaMatchScorer(tables, embed),
    }


class _Calibrated:
    """A scorer whose fitted model is read when it is first used."""

    task: str
    version = 1
    """Changes whenever the same model could answer the same query differently."""

    encodes = False

    @property
    def digest(self) -> str:
        """Digest of the fitted model and version of the features."""
        return digest(calibration_digest(self.task), str(self.version))

    def least(self, query: Query, context: Context) -> float:
        """A binary answer counts whatever its probability; see `Scorer.least`."""
        return 0.0

    @cached_property
    def _calibration(self) -> Calibration:
        return load_calibration(self.task)


class MatchScorer(_Calibrated):
    """EM by `features.match`; a record without any value matches nothing."""

    task = "match"

    def __init__(self, tables: Tables, embed: Embed) -> None:
        self._tables = tables
        self._embed = embed

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs; see `Scorer.score`."""
        pairs = [(q.records[0], q.records[1]) for q in queries]
        variant = self._calibration.variant("context" if context else "pair")
        wanted = variant.model.features
        cosine = self._cosine(variant.model, pairs)
        if context:
            tables = self._tables.pair(context[0], context[1])
            at = [(self._at(context[0], a), self._at(context[1], b)) for a, b in pairs]
            alone = pair_features(pairs, cosine, tables.weights)
            rows = select_features(wanted, alone, tables.context_features(at))
        else:
            rows = select_features(wanted, pair_features(pairs, cosine, self._calibration.words))
        answers = _binary(variant.model, variant.threshold, rows, ("match", "mismatch"))
        return [
            answer if _comparable(a) and _comparable(b) else _by_equality(a, b)
            for answer, (a, b) in zip(answers, pairs, strict=True)
        ]

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
        cosines: np.ndarray = np.einsum("ij,ij->i", left, right).round(_DIGITS)
        return cosines


class DetectErrorScorer(_Calibrated):
    """ED by `features.detect_error`."""

    task = "detect_error"

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    @cached_property
    def _language(self) -> detect_error.Language:
        return detect_error.Language.from_text(self._calibration.text("language"))

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score cells; see `Scorer.score`."""
        records = [q.records[0] for q in queries]
        columns = [q.target or "" for q in queries]
        if context:
            records = [self._tables.own_record(context[0], record) for record in records]
            profile = self._tables.profile(context[0])
            rows = detect_error.context_features(profile, records, columns, self._language)
        else:
            rows = detect_error.record_features(records, columns, self._language)
        variant = self._calibration.variant("context" if context else "record")
        return list(_binary(variant.model, variant.threshold, rows, ("error", "correct")))


class SchemaMatchScorer(_Calibrated):
    """SM by `features.schema_match`."""

    task = "schema_match"
    encodes = True

    def __init__(self, tables: Tables, embed: Embed) -> None:
        self._tables = tables
        self._embed = embed

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs of columns; see `Scorer.score`."""
        pairs = [(q.records[0], q.records[1]) for q in queries]
        if context:
            around = self._tables.schema(context[0], context[1], self._vectors)
            rows = schema_match.schema_features(pairs, around)
        else:
            vectors = self._vectors([record for pair in pairs for record in pair])
            cosines = [float(vectors[a.digest] @ vectors[b.digest]) for a, b in pairs]
            rows = schema_match.schema_features(
                pairs, None, np.array(cosines, dtype=np.float32).round(_DIGITS)
            )
        variant = self._calibration.variant("context_encoder" if context else "pair_encoder")
        return list(_binary(variant.model, variant.threshold, rows, ("match", "mismatch")))

    def _vectors(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        distinct = {record.digest: record for record in records}
        texts = [schema_match.encoder_text(record) for record in distinct.values()]
        return dict(zip(distinct, self._embed(texts), strict=True))


class ImputeScorer(_Calibrated):
    """DI by `features.impute`: ranked candidate values, or a reason why there is none."""

    task = "impute"

    def __init__(self, tables: Tables, labelled: LabelledRows) -> None:
        self._tables = tables
        self._labelled = labelled
        self._learned: tuple[str, impute.ImputeIndex] | None = None

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Rank candidate values; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        columns: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            columns.setdefault(query.target or "", []).append(i)
        for column, positions in columns.items():
            index = self._index(column, context)
            candidates = impute.impute_features(
                index,
                [self._own(queries[i].records[0], context) for i in positions],
                column,
                [queries[i].domain for i in positions],
            )
            variant = self._calibration.variant("context" if index is not None else "record")
            for i, found in zip(positions, candidates, strict=True):
                answers[i] = _imputed(variant.model, found, index is not None)
        return answers

    def _own(self, record: Record, context: Context) -> Record:
        return self._tables.own_record(context[0], record) if context else record

    def least(self, query: Query, context: Context) -> float:
        """The calibrated probability below which a value is not answered; see `Scorer.least`."""
        with_rows = self._index(query.target or "", context) is not None
        return self._calibration.variant("context" if with_rows else "record").minimum

    def _index(self, column: str, context: Context) -> impute.ImputeIndex | None:
        learned = self._labelled(column)
        if not learned:
            return self._tables.impute_index(context[0], column) if context else None
        table = context[0] if context else ""
        key = digest(table, column, *(row.digest for row in learned))
        if self._learned is None or self._learned[0] != key:
            rows = self._tables.index(table).records if table else ()
            self._learned = (key, impute.ImputeIndex([*rows, *learned], column))
        return self._learned[1]


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


def _binary(
    model: TreeEnsemble, threshold: float, rows: np.ndarray, labels: tuple[str, str]
) -> list[Answer]:
    return [
        Answer(
            value=labels[0] if probability >= threshold else labels[1],
            probability=float(probability),
            tier=0,
            evidence=tuple(Evidence("feature", name, round(added, 4)) for name, added in reasons),
        )
        for probability, reasons in zip(
            model.predict(rows), model.explain(rows, _REASONS), strict=True
        )
    ]


def _imputed(model: TreeEnsemble, found: impute.Candidates, with_table: bool) -> Answer:
    if not found.values:
        where = "no similar row holds a value" if with_table else "nothing to choose from"
        return Answer(
            tier=0,
            error=f"no_candidate: {where}; index its table (FROM meld.index) or give options",
        )
    ranked = impute.rank(found, [float(p) for p in model.predict(found.features)])
    best = ranked[0]
    evidence = tuple(Evidence("candidate", text, weight) for text, weight in best.evidence)
    runners = tuple(Evidence("runner-up", r.value, r.probability) for r in ranked[1:_REASONS])
    return Answer(best.value, best.probability, 0, evidence + runners)


def _uses(model: TreeEnsemble, feature: str) -> bool:
    if feature not in model.features:
        return False
    wanted = model.features.index(feature)
    return any((tree.feature == wanted).any() for tree in model.trees)
