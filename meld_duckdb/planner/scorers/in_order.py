"""The tier 0 of a task that asks the pairs of another one in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence

from meld_duckdb.planner.scorers.base import Scorer
from meld_duckdb.planner.tables import Context
from meld_duckdb.tasks.base import Answer, Query
from meld_duckdb.tasks.kcmf import in_base_order


class InOrder:
    """A scorer of pairs for a task that asks them in an order of its own.

    Args:
        scorer: The scorer of the base task, whose pairs are in the order of digests.
        base: Its task.
    """

    def __init__(self, scorer: Scorer, base: str) -> None:
        self._scorer = scorer
        self.label_tasks = (base, *scorer.label_tasks)

    @property
    def digest(self) -> str:
        """That of the base scorer."""
        return self._scorer.digest

    @property
    def encodes(self) -> bool:
        """Whether the base scorer takes the encoder."""
        return self._scorer.encodes

    def score(self, queries: Sequence[Query], context: Context) -> list[Answer | None]:
        """Score pairs in any order; see `Scorer.score`."""
        answers: list[Answer | None] = [None] * len(queries)
        ordered = [in_base_order(query) for query in queries]
        for turned in (False, True):
            at = [i for i, q in enumerate(queries) if (q.records != ordered[i].records) == turned]
            if at:
                around = tuple(reversed(context)) if turned else context
                for i, answer in zip(
                    at, self._scorer.score([ordered[i] for i in at], around), strict=True
                ):
                    answers[i] = answer
        return answers

    def least(self, query: Query, context: Context) -> float:
        """That of the base scorer."""
        return self._scorer.least(in_base_order(query), context)
