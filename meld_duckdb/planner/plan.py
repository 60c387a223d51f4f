"""One answer, step by step: the planner runs `STEPS` over a batch of distinct queries.

    SQL arguments -> queries -> STEPS -> one `Answer` per query

Every step is a function from batch to batch; what a step settles, later steps do not see again.
Finished answers go to the cache at once, so a killed statement loses at most the part in flight.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from meld_duckdb import interrupt, progress
from meld_duckdb.planner.ask_engine import ask_engine
from meld_duckdb.planner.ask_expert import ask_expert, choose_experts
from meld_duckdb.planner.batch import Batch, Resources, Step, keep, readings
from meld_duckdb.planner.budget import is_over, limited, settle_late
from meld_duckdb.planner.cascade import Policy, choose_policy
from meld_duckdb.planner.expert_card import expert_key
from meld_duckdb.planner.finish import NOTHING, finish
from meld_duckdb.planner.flights import InFlight, Turn, Yielding, letting_others, pausing
from meld_duckdb.planner.gate import Gate
from meld_duckdb.planner.guarantee import answer_by_certificate, answer_population
from meld_duckdb.planner.kcmf.step import ask_votes
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.planner.tables import Context
from meld_duckdb.planner.trace import count_settled, note_step, observed
from meld_duckdb.records import digest
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Evidence, Query, Task
from meld_duckdb.tasks.kcmf import KcmfTask, as_labelled

__all__ = ["FREE_STEPS", "KCMF_STEPS", "PART", "STEPS", "Batch", "Planner", "Resources"]

_LOG = logging.getLogger(__name__)

PART = 256
"""Queries that go through the steps at once: small enough to lose little when killed."""


class Planner:
    """Answers queries, each distinct one at most once at a time.

    Threads take turns to compute, and let one another go on while they wait for the engine or for
    a remote service. What one thread computes, the others wait for and find in the cache; without a
    cache a thread keeps its turn to the end.
    """

    def __init__(self, resources: Resources) -> None:
        self._turn = Turn()
        self._flights = InFlight()
        backend = limited(observed(resources.backend))
        resources = replace(resources, backend=backend)
        if resources.cache is not None:

            def load() -> Yielding:
                with letting_others():  # the first time it takes seconds
                    return Yielding(backend())

            resources = replace(resources, backend=load)
        self._resources = resources

    def without_cache(self) -> Planner:
        """A planner that computes everything anew and keeps nothing; it takes turns with this."""
        other = copy.copy(self)
        other._resources = replace(self._resources, cache=None)
        return other

    def is_stored(self, key: str) -> bool:
        """Tell whether an answer is stored under a key of a batch."""
        cache = self._resources.cache
        return cache is not None and bool(cache.get([key]))

    def _policy(self, task: str, options: Options) -> Policy:
        own = self._resources
        return choose_policy(
            task, own.settings.model, options, lambda: bool(own.mixture.digest(task))
        )

    def identity(self, task: Task, query: Query, context: Context, options: Options) -> str:
        """Everything besides a question and its tables that can change its answer."""
        policy = self._policy(task.name, options)
        batch = choose_experts(Batch(task, options, policy, (query,), (context,)), self._resources)
        experts = (expert.digest for expert in batch.experts if expert is not None)
        return digest(_shared_key(batch, self._resources), *experts)

    def answer(
        self,
        task: Task,
        queries: Sequence[Query],
        options: Options,
        contexts: Sequence[Context] | None = None,
        *,
        brief: bool = False,
    ) -> tuple[list[Answer], Outcome]:
        """Answer distinct queries of one task.

        Args:
            task: The task.
            queries: Distinct queries.
            options: Options of the call.
            contexts: Table context of each query; looked up among the indexed tables if None.
            brief: Whether evidence and ranking of the answers may be left out: of a million pairs
                they are a gigabyte.

        Returns:
            One answer per query, in order, and how they came about. Where a target is to be met,
            the queries that come with contexts are its population; the others are answered by a
            certificate; see `guarantee`.
        """
        resources = self._resources
        if options.targets and resources.certificates is not None:
            guaranteed = answer_by_certificate if contexts is None else answer_population
            where = resources.tables.find(queries) if contexts is None else contexts
            return guaranteed(self, resources.certificates, task, queries, options, where)
        progress.expect(len(queries))
        scorer = resources.scorers[task.name]
        answers: list[Answer] = []
        counts: list[Outcome] = []
        for part in self._batches(task, queries, options, contexts):
            batch = settle_late(self._run(part, FREE_STEPS))
            if batch.open:
                steps = KCMF_STEPS if isinstance(task, KcmfTask) else STEPS
                batch = self._compute(batch, steps)
            count_settled(batch)
            given = [
                finish(task, query, options, answer or NOTHING, scorer.least(query, context))
                for answer, query, context in zip(
                    batch.answers, batch.queries, batch.contexts, strict=True
                )
            ]
            answers += [replace(a, evidence=(), ranking=()) for a in given] if brief else given
            # Of a large column only the answers are kept, not the features and prompts.
            counts.append(_outcome(batch))
        return answers, Outcome.of(counts)

    def _batches(
        self,
        task: Task,
        queries: Sequence[Query],
        options: Options,
        contexts: Sequence[Context] | None,
    ) -> Iterator[Batch]:
        """Cut queries into parts that go through the steps at once."""
        policy = self._policy(task.name, options)
        for start in range(0, len(queries), PART):
            interrupt.check()
            part = tuple(queries[start : start + PART])
            given = contexts[start : start + PART] if contexts is not None else None
            nothing = (None,) * len(part)
            yield Batch(
                task,
                options,
                policy,
                part,
                tuple(given if given is not None else self._resources.tables.find(part)),
                answers=nothing,
                tentative=nothing,
            )

    def _compute(self, batch: Batch, steps: Sequence[Step]) -> Batch:
        """Take what is open through the steps, after waiting for what other threads compute.

        The first step looks into the cache, so no input is computed twice.
        """
        if self._resources.cache is None:
            with self._turn.hold():
                return self._run(batch, steps)
        waiting = set(batch.open)
        while waiting:
            with self._flights.claim({batch.keys[i] for i in waiting}) as claimed:
                own = {i for i in waiting if batch.keys[i] in claimed}
                if own:
                    others = frozenset(batch.open) - own
                    with pausing(self._turn):
                        batch = self._run(replace(batch, elsewhere=others), steps)
                    batch = replace(batch, elsewhere=frozenset())
            waiting -= own
            self._flights.wait({batch.keys[i] for i in waiting})
        return batch

    def _run(self, batch: Batch, steps: Sequence[Step]) -> Batch:
        for step in steps:
            if not (n_open := len(batch.open)):
                break
            started = time.perf_counter()
            batch = step(batch, self._resources)
            seconds = time.perf_counter() - started
            note_step(step.__name__, batch, seconds)
            _LOG.debug(
                "%s %s: %d in, %d decided, %.3f s",
                batch.task.name,
                step.__name__,
                n_open,
                n_open - len(batch.open),
                seconds,
            )
        return batch


def look_up_labels(batch: Batch, resources: Resources) -> Batch:
    """Settle queries that were labelled: a learned answer is the answer."""
    asked = [as_labelled(batch.task, query) for query in batch.queries]
    labels = resources.demonstrator.labels(asked[0][0])
    if not labels:
        return batch
    found: dict[int, Answer] = {}
    for i, (query, (_, plain)) in enumerate(zip(batch.queries, asked, strict=True)):
        value = labels.get(plain.digest)
        if value is None or (query.domain is not None and value not in query.domain):
            continue
        positive = batch.task.labels is None or value == batch.task.labels[0]
        found[i] = Answer(
            value=value,
            probability=1.0 if positive else 0.0,
            tier=0,
            evidence=(Evidence("label", value, 1.0),),
        )
    return batch.settle(found, cached=True)


def look_up_cache(batch: Batch, resources: Resources) -> Batch:
    """Settle queries answered before with the same models, settings, context and labels."""
    batch = choose_gates(choose_experts(batch, resources), resources)
    batch = replace(batch, made_with=readings(batch, resources))
    batch = replace(batch, matching=_matching_key(batch, resources))
    shared = _shared_key(batch, resources)
    keys = tuple(
        digest(
            shared,
            query.digest,
            *context,
            *((expert.digest,) if expert is not None else ()),
            *_gate_key(gate, batch.task.name, resources),
        )
        for query, context, expert, gate in zip(
            batch.queries, batch.contexts, batch.experts, batch.gates, strict=True
        )
    )
    batch = replace(batch, keys=keys)
    if resources.cache is None:
        return batch
    wanted = {keys[i]: i for i in batch.open}
    found = resources.cache.get(wanted)
    return batch.settle({wanted[key]: answer for key, answer in found.items()}, cached=True)


def choose_gates(batch: Batch, resources: Resources) -> Batch:
    """Find what training decided on tier 2; nothing where the call names a tier itself."""
    task = batch.task.name
    gates = resources.gates.of(task) if batch.policy.expert == "unsure" else {}
    if not gates:
        return replace(batch, gates=(None,) * len(batch.queries))
    found = (
        gates.get(expert_key(task, query, context))
        for query, context in zip(batch.queries, batch.contexts, strict=True)
    )
    return replace(batch, gates=tuple(found))


def _gate_key(gate: Gate | None, task: str, resources: Resources) -> tuple[str, ...]:
    if gate is None:
        return ()
    return (gate.digest, *(_engine_key(task, resources) if gate.use else ()))


def _engine_key(task: str, resources: Resources) -> tuple[str, ...]:
    mixture = resources.mixture.digest(task)
    return (resources.backend_digest(), mixture) if mixture else (resources.backend_digest(),)


def _matching_key(batch: Batch, resources: Resources) -> str:
    """Rules and knowledge of a call to KcMF, where its tier 2 may be asked.

    Names that cannot be fail whatever tier answers.
    """
    if not isinstance(batch.task, KcmfTask):
        return ""
    if not batch.policy.engine:
        resources.matcher.check(batch.task, batch.options)
        return ""
    return resources.matcher.digest(batch.task, batch.options)


def _shared_key(batch: Batch, resources: Resources) -> str:
    """Everything besides the query and its context that can change its answer."""
    settings = resources.settings
    scorer, policy = resources.scorers[batch.task.name], batch.policy
    labels = "".join(
        resources.demonstrator.digest(name) for name in (batch.task.name, *scorer.label_tasks)
    )
    engine: tuple[str, ...] = ()
    if policy.engine and isinstance(batch.task, KcmfTask):  # no adapter has a part in it
        engine = (resources.backend_digest(),)
    elif policy.engine:
        engine = _engine_key(batch.task.name, resources)
    return digest(
        batch.task.name,
        str(batch.task.version),
        scorer.digest,
        *(str(getattr(settings, name)) for name in AnswerSettings.__slots__),
        *((str(policy.low), str(policy.high), *engine) if policy.engine else ()),
        *((batch.matching,) if batch.matching else ()),
        *(("tier 1",) if policy.expert == "always" else ()),
        resources.encoder_digest() if labels or scorer.encodes else "",
        labels,
    )


def score_features(batch: Batch, resources: Resources) -> Batch:
    """Tier 0: score by features; settle what neither an expert nor the policy takes further.

    Answers are settled per context, so that tables are loaded one group at a time.
    """
    scorer = resources.scorers[batch.task.name]
    groups: dict[Context, list[int]] = {}
    for i in batch.open:
        groups.setdefault(batch.contexts[i], []).append(i)
    tentative = list(batch.tentative)
    for context, positions in groups.items():
        queries = [batch.queries[i] for i in positions]
        for i, answer in zip(positions, scorer.score(queries, context), strict=True):
            tentative[i] = answer
    batch = replace(batch, tentative=tuple(tentative))
    settled = {
        i: answer
        for i in batch.open
        if (answer := tentative[i]) is not None
        and not batch.waits_for_expert(i)
        and not batch.escalates(i, answer)
    }
    return keep(batch, resources, settled)


FREE_STEPS: tuple[Step, ...] = (look_up_labels, look_up_cache)
"""The steps that compute nothing."""

STEPS: tuple[Step, ...] = (look_up_cache, score_features, ask_expert, ask_engine)
"""The steps of every task, cheapest first."""

KCMF_STEPS: tuple[Step, ...] = (look_up_cache, score_features, ask_votes)
"""The steps of the tasks of KcMF: tier 2 is a vote, and there is nothing trained."""


def _outcome(batch: Batch) -> Outcome:
    cached: list[str] = []
    evaluated: list[str] = []
    refused: list[str] = []
    tiers: list[int | None] = []
    for i, (query, answer) in enumerate(zip(batch.queries, batch.answers, strict=True)):
        if i in batch.cached:
            cached.append(query.digest)
        elif answer is not None and is_over(answer.error):
            refused.append(query.digest)
        elif answer is not None:
            evaluated.append(query.digest)
            tiers.append(answer.tier)
    return Outcome(cached, evaluated, tiers, batch.engine_prompts, batch.prompt_tokens, refused)
