"""Column type annotation and relation extraction at tier 0: one of the options given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from meld_duckdb.features.fit_options import Item, OptionModel, Scored
from meld_duckdb.planner.scorers.base import REASONS, Embed, Labels
from meld_duckdb.planner.scorers.learned import Fits, Key
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Demonstration, Evidence, Query

ReadItem = Callable[[Mapping[str, str | None]], Item]

_DECIMALS = 6


class OptionScorer:
    """Ranks the options of closed questions about one record each, by `features.fit_options`.

    The model is fitted to the labels when it is first needed, and again when they change.

    Args:
        task: Name of the task.
        item: Reads the record of a question.
        embed: Embeds texts.
        labels: Learned labels of a task.
    """

    version = 1
    """Changes whenever the same labels could answer the same query differently."""

    encodes = True
    label_tasks: tuple[str, ...] = ()

    def __init__(self, task: str, item: ReadItem, embed: Embed, labels: Labels) -> None:
        self.task = task
        self._item = item
        self._embed = embed
        self._fits = Fits(lambda: labels(task), self._fit)

    @property
    def digest(self) -> str:
        """Digest of the version of the features; the labels are part of the cache key anyway."""
        return digest(self.task, str(self.version))

    def least(self, query: Query, context: Context) -> float:
        """One of the options is always answered; see `Scorer.least`."""
        return 0.0

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Rank the options of every query; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        model = self._fits.get(())
        domains = [tuple(dict.fromkeys(q.domain or ())) or model.options for q in queries]
        asked = [i for i, domain in enumerate(domains) if domain]
        items = [self._item(queries[i].records[0].fields) for i in asked]
        scored = model.score(items, [domains[i] for i in asked])
        for i, found in zip(asked, scored, strict=True):
            answers[i] = _ranked(domains[i], found)
        return answers

    def _fit(self, key: Key, labels: Sequence[Demonstration]) -> OptionModel:
        known = [label for label in labels if label.query.records]
        items = [self._item(label.query.records[0].fields) for label in known]
        return OptionModel(items, [label.answer for label in known], self._embed)


def _ranked(domain: Sequence[str], found: Scored) -> Answer:
    shares = found.probabilities.round(_DECIMALS).tolist()
    order = sorted(range(len(domain)), key=lambda i: (-shares[i], i))
    ranking = tuple((domain[i], shares[i]) for i in order)
    evidence = tuple(Evidence("feature", name, weight) for name, weight in found.evidence[:REASONS])
    runners = tuple(Evidence("runner-up", option, share) for option, share in ranking[1:REASONS])
    return Answer(ranking[0][0], ranking[0][1], 0, evidence + runners, ranking=ranking)
