"""Ask the language model as tier 2 does, without a workspace and without demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Query


def answers(
    backend: TransformersBackend,
    task: str,
    queries: Sequence[Query],
    max_chars: int,
    adapter: Adapter | None = None,
) -> list[Answer]:
    """The answer to each question, in order."""
    asked = TASKS[task]
    prompts = [asked.prompt(query, (), max_chars) for query in queries]
    done = dict(pair for part in backend.complete(prompts, adapter) for pair in part)
    return [asked.parse(query, done[i]) for i, query in enumerate(queries)]
