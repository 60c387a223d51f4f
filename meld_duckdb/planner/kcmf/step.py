"""The planner's step of tier 2 for the tasks of KcMF."""

from __future__ import annotations

from dataclasses import replace

from meld_duckdb.planner.ask_engine import with_earlier
from meld_duckdb.planner.batch import Batch, Resources, keep
from meld_duckdb.planner.kcmf.asking import Asker
from meld_duckdb.planner.kcmf.ballot import UNAVAILABLE
from meld_duckdb.tasks.base import Answer
from meld_duckdb.tasks.kcmf import KcmfTask


def ask_votes(batch: Batch, resources: Resources) -> Batch:
    """Tier 2 of KcMF: let the knowledge sources vote on what is still open."""
    task = batch.task
    if not isinstance(task, KcmfTask):
        raise TypeError(f"{task.name} is no task of KcMF")
    waiting = batch.open
    asker = Asker(resources.backend, resources.backend_digest, resources.cache)
    answers = resources.matcher.answer(
        task,
        [batch.queries[i] for i in waiting],
        [batch.contexts[i] for i in waiting],
        batch.options,
        asker,
    )
    found = {
        i: _kept_reasons(with_earlier(batch, i, answer), answer)
        for i, answer in zip(waiting, answers, strict=True)
    }
    # What the keys say must be what was told: rules and bases may have changed meanwhile, and a
    # keyword or summary may be missing.
    sound = not asker.n_failed
    if not sound or resources.matcher.digest(task, batch.options) != batch.matching:
        batch = batch.settle(found)
    else:
        whole = {i: a for i, a in found.items() if all(e.kind != UNAVAILABLE for e in a.evidence)}
        batch = keep(batch, resources, whole).settle(found)
    return replace(
        batch,
        engine_prompts=batch.engine_prompts + asker.n_prompts,
        prompt_tokens=batch.prompt_tokens + asker.n_tokens,
    )


def _kept_reasons(combined: Answer, answer: Answer) -> Answer:
    """Votes and knowledge stay beside what the tiers before said."""
    return replace(combined, evidence=(*answer.evidence, *combined.evidence))
