"""The planner's step of tier 1: the cross-encoder expert of a question, added to tier 0."""

from __future__ import annotations

from dataclasses import replace

from meld_duckdb.errors import ConfigError
from meld_duckdb.planner.batch import Batch, Resources, keep
from meld_duckdb.planner.experts import TIER, Expert
from meld_duckdb.tasks.base import Answer

_HINT = "train one from labels (FROM meld.experts() lists them), or leave the option tier out"


def choose_experts(batch: Batch, resources: Resources) -> Batch:
    """Find the expert of each query; none where the policy or the expert's own card is against."""
    policy, source = batch.policy, resources.experts
    if source is None or policy.expert == "never":
        return replace(batch, experts=(None,) * len(batch.queries))
    found = (
        source.find(batch.task.name, query, context)
        for query, context in zip(batch.queries, batch.contexts, strict=True)
    )
    wanted = tuple(
        expert if expert is not None and expert.takes_part(policy.expert) else None
        for expert in found
    )
    return replace(batch, experts=wanted)


def ask_expert(batch: Batch, resources: Resources) -> Batch:
    """Tier 1: let experts add their opinion to what tier 0 leaves unsure.

    What is still unsure then goes on to the language model if the policy says so. Where tier 1 was
    asked for by name, every row is its own: one without an expert has no answer.

    Raises:
        ConfigError: Tier 1 was asked for by name and the task has no expert at all.
    """
    waiting = [i for i in batch.open if batch.waits_for_expert(i)]
    if batch.policy.expert == "always":
        _check_any(batch, resources)
    groups: dict[str, tuple[Expert, list[int]]] = {}
    for i in waiting:
        expert = batch.experts[i]
        if expert is not None:
            groups.setdefault(expert.digest, (expert, []))[1].append(i)
    tentative = list(batch.tentative)
    for expert, positions in groups.values():
        said = [tentative[i] for i in positions]
        for i, answer in zip(
            positions, expert.answer([batch.queries[i] for i in positions], said), strict=True
        ):
            tentative[i] = answer or tentative[i]
    batch = replace(batch, tentative=tuple(tentative))
    if batch.policy.expert == "always":
        batch = batch.settle({i: _without(batch, i) for i in waiting if batch.experts[i] is None})
        waiting = [i for i in waiting if batch.experts[i] is not None]
    settled = {
        i: answer
        for i in waiting
        if (answer := tentative[i]) is not None and not batch.escalates(i, answer)
    }
    return keep(batch, resources, settled)


def _check_any(batch: Batch, resources: Resources) -> None:
    source, task = resources.experts, batch.task.name
    reason = "there is no workspace" if source is None else source.missing(task)
    if reason is not None:
        raise ConfigError(f"option 'tier' is 't1', but {task} has no expert: {reason}", hint=_HINT)


def _without(batch: Batch, position: int) -> Answer:
    where = "these tables" if batch.contexts[position] else "records with these columns"
    return Answer(tier=TIER, error=f"no_expert: no expert was trained for {where}")
