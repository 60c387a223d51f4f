"""The planner's step of tier 2: the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.errors import ArtefactError
from meld_duckdb.features.stack import Stack, log_odds
from meld_duckdb.planner.batch import Batch, Resources, keep
from meld_duckdb.planner.budget import is_over, was_asked
from meld_duckdb.planner.metapath import augment
from meld_duckdb.planner.mixture import MERGED_AHEAD, Mixture
from meld_duckdb.planner.router import Choice
from meld_duckdb.planner.trace import note_route
from meld_duckdb.tasks.base import Answer, Evidence, Prompt, Query, Task
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER
from meld_duckdb.tasks.letters import MOST_OPTIONS

HALVINGS = 4
"""Times the records of a prompt that is too long are cut to half."""


def ask_engine(batch: Batch, resources: Resources) -> Batch:
    """Tier 2: ask the language model about what is still open, batch by batch.

    A prompt that is too long is asked again with its records cut to half; a row the model cannot
    answer falls back to its answer of an earlier tier where there is one.
    """
    batch = _show_labels(batch, resources)
    max_chars = resources.settings.max_record_chars
    crowded = {
        i: Answer(tier=LANGUAGE_MODEL_TIER, error=f"too_many_options: {n}, at most {MOST_OPTIONS}")
        for i in batch.open
        if (n := len(_shortlist(batch, i).domain or ())) > MOST_OPTIONS
    }
    batch = batch.settle({i: with_earlier(batch, i, answer) for i, answer in crowded.items()})
    waiting = batch.open
    for _ in range(HALVINGS):
        batch, waiting = _ask_round(batch, resources, waiting, max_chars)
        if not waiting:
            return batch
        max_chars //= 2
    return _ask_round(batch, resources, waiting, max_chars, last=True)[0]


def _show_labels(batch: Batch, resources: Resources) -> Batch:
    """Add the labels near each open question to its evidence.

    They are looked up only where the model will be shown them: that embeds the question, which
    costs ten times what tier 0 costs.
    """
    tentative, waiting = list(batch.tentative), batch.open
    shown = resources.demonstrator.add_neighbours(
        batch.task, [batch.queries[i] for i in waiting], [tentative[i] for i in waiting]
    )
    for i, answer in zip(waiting, shown, strict=True):
        tentative[i] = answer
    return replace(batch, tentative=tuple(tentative))


def _shortlist(batch: Batch, position: int) -> Query:
    """The query with the options that tier 0 ranks best, if it has more than can be listed."""
    query, tentative = batch.queries[position], batch.tentative[position]
    if query.domain is None or len(query.domain) <= MOST_OPTIONS or tentative is None:
        return query
    best = {option for option, _ in tentative.ranking[:MOST_OPTIONS]}
    kept = [i for i, option in enumerate(query.domain) if option in best]
    records = query.records
    if len(records) == len(query.domain) + 1:  # entity linking: a record per option
        records = (records[0], *(records[i + 1] for i in kept))
    return (
        replace(query, records=records, domain=tuple(query.domain[i] for i in kept))
        if kept
        else query
    )


def _ask_round(
    batch: Batch,
    resources: Resources,
    positions: Sequence[int],
    max_chars: int,
    *,
    last: bool = False,
) -> tuple[Batch, list[int]]:
    """Ask once; gives the batch and the positions whose prompt was too long (none if ``last``)."""
    task = batch.task
    too_long: list[int] = []
    n_prompts = n_tokens = 0
    mixture = resources.mixture
    choices, groups, ahead = _routed(task, [batch.queries[i] for i in positions], mixture)
    note_route(choices)
    for place, group in enumerate(groups):
        queries = [_shortlist(batch, positions[at]) for at in group]
        choice = choices[group[0]]
        prompts = _prompts(task, queries, resources, choice, max_chars)
        adapter = ahead[place] if place < len(ahead) else _adapter(choice, mixture)
        same = _places(prompts)
        wordings = list(same)
        for finished in resources.backend().complete(wordings, adapter):
            found: dict[int, Answer] = {}
            for at, completion in finished:
                numbers = same[wordings[at]]
                if not last and (completion.error or "").startswith("prompt_too_long"):
                    too_long += [positions[group[number]] for number in numbers]
                    continue
                n_prompts += was_asked(completion)
                n_tokens += completion.prompt_tokens * was_asked(completion)
                for number in numbers:
                    i, own = positions[group[number]], choices[group[number]]
                    answer = _signed(task.parse(queries[number], completion), own)
                    found[i] = with_earlier(batch, i, answer)
            batch = keep(batch, resources, found)
            interrupt.check()
    batch = replace(
        batch,
        engine_prompts=batch.engine_prompts + n_prompts,
        prompt_tokens=batch.prompt_tokens + n_tokens,
    )
    return batch, sorted(too_long)


_Routed = tuple[Sequence[Choice | None], list[list[int]], list[Adapter | None]]
"""Choices of questions, groups of those that one adapter answers, adapters of the first groups."""


def _routed(task: Task, queries: Sequence[Query], mixture: Mixture) -> _Routed:
    """Choose the experts of questions, and merge them before the first question is asked.

    Training may replace experts meanwhile; where it just does, they are chosen once more.
    """
    try:
        return _merged(task, queries, mixture)
    except ArtefactError:
        return _merged(task, queries, mixture)


def _merged(task: Task, queries: Sequence[Query], mixture: Mixture) -> _Routed:
    choices = mixture.route(task.name, queries)
    groups = mixture.groups(task.name, choices)
    ahead = [_adapter(choices[group[0]], mixture) for group in groups[:MERGED_AHEAD]]
    return choices, groups, ahead


def _adapter(choice: Choice | None, mixture: Mixture) -> Adapter | None:
    return None if choice is None else mixture.adapter(choice)


def _places(prompts: Sequence[Prompt]) -> dict[Prompt, list[int]]:
    """Where each distinct prompt stands; records that differ in their keys alone have one."""
    places: dict[Prompt, list[int]] = {}
    for number, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(number)
    return places


def _prompts(
    task: Task,
    queries: Sequence[Query],
    resources: Resources,
    choice: Choice | None,
    max_chars: int,
) -> list[Prompt]:
    """Render questions and demonstrations, both completed along the path of the first expert."""
    wanted = None if choice is None else resources.mixture.demonstrations(choice)
    shown = resources.demonstrator.demonstrations(task, queries, most=wanted)
    path = () if choice is None else resources.mixture.path(task.name, choice)
    if path:
        ask = resources.ask_tier0
        queries = augment(queries, path, ask)
        distinct = {d.query.digest: d.query for those in shown for d in those}
        completed = dict(zip(distinct, augment(list(distinct.values()), path, ask), strict=True))
        shown = [
            tuple(replace(d, query=completed[d.query.digest]) for d in those) for those in shown
        ]
    return [
        task.prompt(query, demonstrations, max_chars)
        for query, demonstrations in zip(queries, shown, strict=True)
    ]


def _signed(answer: Answer, choice: Choice | None) -> Answer:
    """An answer with the experts it comes from."""
    if choice is None or answer.error is not None:
        return answer
    routed = tuple(
        Evidence("expert", name, relevance)
        for name, relevance in zip(choice.experts, choice.relevance, strict=True)
    )
    return replace(answer, experts=choice.experts, evidence=(*answer.evidence, *routed))


def with_earlier(batch: Batch, position: int, answer: Answer) -> Answer:
    """Combine an answer of tier 2 with what tiers 0 and 1 said: added up, beside it or instead."""
    tentative = batch.tentative[position]
    if tentative is None:
        return answer
    if answer.error is None:
        gate = batch.gates[position] if batch.gates else None
        said = Evidence(
            f"tier {tentative.tier or 0}", tentative.value or "", tentative.probability or 0.0
        )
        near = tuple(e for e in tentative.evidence if e.kind == "neighbour")
        routed = tuple(e for e in answer.evidence if e.kind == "expert")
        if gate is not None and gate.stack is not None:
            answer = added_up(batch.task, gate.stack, tentative, answer)
        return replace(answer, evidence=(said, *routed, *near))
    if batch.options.tier == "t2" or tentative.error is not None or is_over(answer.error):
        return answer
    failed = Evidence("tier 2", answer.error, 0.0)
    return replace(tentative, evidence=(*tentative.evidence, failed))


def added_up(task: Task, stack: Stack, before: Answer, answer: Answer) -> Answer:
    """Add the log-odds of tier 2 to those of the tiers before, for a task with two answers."""
    if task.labels is None or before.probability is None or answer.probability is None:
        return answer
    own, other = log_odds(np.array([before.probability, answer.probability]))
    found = float(stack.yes(np.array([own]), np.array([other]))[0])
    value = task.labels[0] if found >= stack.threshold else task.labels[1]
    return replace(answer, value=value, probability=found)
