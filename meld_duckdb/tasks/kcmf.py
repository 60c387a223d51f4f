"""The two tasks of KcMF: matching by rules, knowledge and votes, without training.

Paper: KcMF §2. They are asked like the task they are another way to answer, share its labels and
its tier 0, and differ in tier 2: see `meld_duckdb.planner.kcmf`. The order of the two records
matters for schemas: could what B holds be stored in A?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meld_duckdb.tasks.base import Answer, Completion, Demonstration, Prompt, Query, Task
from meld_duckdb.tasks.match import MatchTask
from meld_duckdb.tasks.schema_match import SchemaMatchTask


@dataclass(frozen=True, slots=True)
class KcmfTask:
    """A task of KcMF.

    Attributes:
        kind: ``"schema_match"`` or ``"entity_match"``: which question, rules and items.
        base: The task whose labels and tier 0 it shares.
    """

    name: str
    kind: str
    base: Task
    symmetric: bool
    version: int = 1
    labels: tuple[str, str] | None = ("match", "mismatch")
    when_unsure: str = "error"

    def prompt(
        self, query: Query, demonstrations: Sequence[Demonstration], max_chars: int
    ) -> Prompt:
        """Render the question of the base task: KcMF's own prompts need more than a query."""
        return self.base.prompt(in_base_order(query), demonstrations, max_chars)

    def parse(self, query: Query, completion: Completion) -> Answer:
        """Read an answer to `prompt`."""
        return self.base.parse(query, completion)


def in_base_order(query: Query) -> Query:
    """The query as the base task asks it: a pair in the order of digests."""
    return replace(query, records=tuple(sorted(query.records, key=lambda r: r.digest)))


def as_labelled(task: Task, query: Query) -> tuple[str, Query]:
    """Name of the task whose labels a task goes by, and the query as they have it."""
    plain = replace(query, domain=None)
    if isinstance(task, KcmfTask):
        return task.base.name, in_base_order(plain)
    return task.name, plain


KCMF_TASKS: dict[str, KcmfTask] = {
    task.name: task
    for task in (
        KcmfTask("kcmf_schema_match", "schema_match", SchemaMatchTask(), symmetric=False),
        KcmfTask("kcmf_entity_match", "entity_match", MatchTask(), symmetric=True),
    )
}
"""The tasks of KcMF by name."""
