"""Entity linking at tier 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meld_duckdb.features.link_entity import (
    FEATURES,
    LinkModel,
    LinkQuestion,
    read_entity,
    read_mention,
)
from meld_duckdb.planner.questions import candidate_key
from meld_duckdb.planner.scorers.base import REASONS, Embed, Labels
from meld_duckdb.planner.scorers.learned import Fits, Key
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query

_DECIMALS = 6
_LEAST_OF_ONE = 0.5
_LEAST_OF_MANY = 0.2


class LinkEntityScorer:
    """EL by `features.link_entity`.

    The probabilities of the candidates sum to less than 1: the rest is for none of them. A label
    whose answer is none of its candidates says so.
    """

    task = "link_entity"
    version = 1
    """Changes whenever the same labels could answer the same query differently."""

    encodes = True
    label_tasks: tuple[str, ...] = ()

    def __init__(self, tables: Tables, embed: Embed, labels: Labels) -> None:
        self._tables = tables
        self._embed = embed
        self._fits = Fits(lambda: labels(self.task), self._fit)

    @property
    def digest(self) -> str:
        """Digest of the version of the features; the labels are part of the cache key anyway."""
        return digest(self.task, str(self.version))

    def least(self, query: Query, context: Context) -> float:
        """Probability below which a mention is linked to none; see `Scorer.least`."""
        return _LEAST_OF_ONE if len(query.records) <= 2 else _LEAST_OF_MANY

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Rank the candidates of every mention; see `Scorer.score`."""
        questions = [_question(query) for query in queries]
        scored = self._fits.get(()).score(questions)
        return [
            _linked(q, shares, reasons) if q.entities else None
            for q, (shares, reasons) in zip(questions, scored, strict=True)
        ]

    def _fit(self, key: Key, labels: Sequence[Demonstration]) -> LinkModel:
        known = [label for label in labels if label.query.records]
        return LinkModel([_question(label.query, label.answer) for label in known], self._embed)


def _question(query: Query, answer: str | None = None) -> LinkQuestion:
    records = query.records[1:]
    keys = query.domain or tuple(candidate_key(record) or "" for record in records)
    entities = tuple(
        read_entity(key, record.fields) for key, record in zip(keys, records, strict=False)
    )
    found = [entity.key for entity in entities]
    right = found.index(answer) if answer is not None and answer in found else None
    return LinkQuestion(read_mention(query.records[0].fields), entities, right)


def _linked(question: LinkQuestion, shares: np.ndarray, reasons: np.ndarray) -> Answer:
    rounded = shares.round(_DECIMALS).tolist()
    order = sorted(range(len(rounded)), key=lambda i: (-rounded[i], i))
    best = order[0]
    ranking = tuple((question.entities[i].key, rounded[i]) for i in order)
    added = sorted(zip(FEATURES[:-1], reasons[best].tolist(), strict=False), key=lambda r: -r[1])
    evidence = tuple(
        Evidence("feature", name, round(weight, 4))
        for name, weight in added[:REASONS]
        if weight > 0
    )
    runners = tuple(Evidence("runner-up", key, share) for key, share in ranking[1:REASONS])
    return Answer(ranking[0][0], ranking[0][1], 0, evidence + runners, ranking=ranking)
