"""Column type annotation at tier 0, and what it shares with relation extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meld_duckdb.features.annotate_column import column_item
from meld_duckdb.features.fit_options import Item, OptionModel, Scored
from meld_duckdb.planner.scorers.base import REASONS, Embed, Labels
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query

_DECIMALS = 6


class OptionScorer:
    """Ranks the options of closed questions about one record each.

    The model is fitted to the labels when it is first needed, and again when they change.
    """

    task: str
    version = 1
    """Changes whenever the same labels could answer the same query differently."""

    encodes = True
    label_tasks: tuple[str, ...] = ()

    def __init__(self, embed: Embed, labels: Labels) -> None:
        self._embed = embed
        self._labels = labels
        self._model: tuple[str, OptionModel] | None = None

    @property
    def digest(self) -> str:
        """Digest of the version of the features; the labels are part of the cache key anyway."""
        return digest(self.task, str(self.version))

    def item(self, fields: Mapping[str, str | None]) -> Item:
        """Read the record of a question."""
        raise NotImplementedError

    def least(self, query: Query, context: Context) -> float:
        """One of the options is always answered; see `Scorer.least`."""
        return 0.0

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Rank the options of every query; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        model = self._fitted()
        domains = [tuple(dict.fromkeys(q.domain or ())) or model.options for q in queries]
        asked = [i for i, domain in enumerate(domains) if domain]
        items = [self.item(queries[i].records[0].fields) for i in asked]
        scored = model.score(items, [domains[i] for i in asked])
        for i, found in zip(asked, scored, strict=True):
            answers[i] = _ranked(domains[i], found)
        return answers

    def _fitted(self) -> OptionModel:
        labels = [label for label in self._labels(self.task) if label.query.records]
        key = labels_digest(labels)
        if self._model is None or self._model[0] != key:
            items = [self.item(label.query.records[0].fields) for label in labels]
            model = OptionModel(items, [label.answer for label in labels], self._embed)
            self._model = (key, model)
        return self._model[1]


class AnnotateColumnScorer(OptionScorer):
    """CTA by `features.fit_options`."""

    task = "annotate_column"

    def item(self, fields: Mapping[str, str | None]) -> Item:
        """Read a column; see `features.annotate_column`."""
        return column_item(fields)


def labels_digest(labels: Sequence[Demonstration]) -> str:
    """Digest of labels with their queries."""
    return digest(*(part for label in labels for part in (label.query.digest, label.answer)))


def _ranked(domain: Sequence[str], found: Scored) -> Answer:
    shares = found.probabilities.round(_DECIMALS).tolist()
    order = sorted(range(len(domain)), key=lambda i: (-shares[i], i))
    ranking = tuple((domain[i], shares[i]) for i in order)
    evidence = tuple(Evidence("feature", name, weight) for name, weight in found.evidence[:REASONS])
    runners = tuple(Evidence("runner-up", option, share) for option, share in ranking[1:REASONS])
    return Answer(ranking[0][0], ranking[0][1], 0, evidence + runners, ranking=ranking)
