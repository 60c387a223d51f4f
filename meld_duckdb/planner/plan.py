"""One answer, step by step: the planner runs `STEPS` over a batch of distinct queries.

    SQL arguments -> queries -> STEPS -> one `Answer` per query

Every step is a function from batch to batch; what a step settles, later steps do not see again.
Finished answers go to the cache at once, so a killed statement loses at most the part in flight.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from meld_duckdb import interrupt
from meld_duckdb.engine.backend import Backend
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.cascade import Policy, choose_policy
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.finish import NOTHING, finish
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.scorers import Scorer
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import digest
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Evidence, Query, Task
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER
from meld_duckdb.tasks.letters import MOST_OPTIONS

_LOG = logging.getLogger(__name__)

HALVINGS = 4
"""Times the records of a prompt that is too long are cut to half."""

PART = 256
"""Queries that go through the steps at once: small enough to lose little when killed."""


@dataclass(frozen=True)
class Resources:
    """What the steps use. The heavy ones are behind functions that load on first call."""

    settings: AnswerSettings
    cache: AnswerCache | None
    tables: Tables
    scorers: dict[str, Scorer]
    demonstrator: Demonstrator
    backend: Callable[[], Backend]
    backend_digest: Callable[[], str]
    encoder_digest: Callable[[], str]


@dataclass(frozen=True)
class Batch:
    """Distinct queries on their way; all tuples are in the order of ``queries``.

    Attributes:
        contexts: Tables of each query's records.
        keys: Cache key of each query.
        answers: Final answers, None while undecided.
        tentative: Tier-0 answers that a later tier may replace.
        cached: Positions answered without computing.
        engine_prompts: Prompts answered by the language model.
        prompt_tokens: Tokens of these.
    """

    task: Task
    options: Options
    policy: Policy
    queries: tuple[Query, ...]
    contexts: tuple[Context, ...]
    keys: tuple[str, ...] = ()
    answers: tuple[Answer | None, ...] = ()
    tentative: tuple[Answer | None, ...] = ()
    cached: frozenset[int] = frozenset()
    engine_prompts: int = 0
    prompt_tokens: int = 0

    @property
    def open(self) -> list[int]:
        """Positions still undecided."""
        return [i for i, answer in enumerate(self.answers) if answer is None]

    def settle(self, found: dict[int, Answer], *, cached: bool = False) -> Batch:
        """Return the batch with answers filled in."""
        answers = tuple(found.get(i, answer) for i, answer in enumerate(self.answers))
        hits = self.cached | found.keys() if cached else self.cached
        return replace(self, answers=answers, cached=frozenset(hits))


Step = Callable[[Batch, Resources], Batch]


class Planner:
    """Answers queries, each distinct one at most once at a time."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lock = threading.Lock()

    def answer(
        self,
        task: Task,
        queries: Sequence[Query],
        options: Options,
        contexts: Sequence[Context] | None = None,
    ) -> tuple[list[Answer], Outcome]:
        """Answer distinct queries of one task.

        Args:
            task: The task.
            queries: Distinct queries.
            options: Options of the call.
            contexts: Table context of each query; looked up among the indexed tables if None.

        Returns:
            One answer per query, in order, and how they came about.
        """
        resources = self._resources
        policy = choose_policy(task.name, resources.settings.model, options)
        done: list[Batch] = []
        for start in range(0, len(queries), PART):
            interrupt.check()
            part = tuple(queries[start : start + PART])
            given = contexts[start : start + PART] if contexts is not None else None
            batch = Batch(
                task,
                options,
                policy,
                part,
                tuple(given if given is not None else resources.tables.find(part)),
                answers=(None,) * len(part),
                tentative=(None,) * len(part),
            )
            batch = self._run(batch, FREE_STEPS)
            if batch.open:
                # One evaluation at a time: what another thread has just answered is found in the
                # cache now, and no input is computed twice.
                with self._lock:
                    batch = self._run(batch, STEPS)
            done.append(batch)
        scorer = resources.scorers[task.name]
        answers = [
            finish(task, query, options, answer or NOTHING, scorer.least(query, context))
            for batch in done
            for answer, query, context in zip(
                batch.answers, batch.queries, batch.contexts, strict=True
            )
        ]
        return answers, _outcome(done)

    def _run(self, batch: Batch, steps: Sequence[Step]) -> Batch:
        for step in steps:
            if not (n_open := len(batch.open)):
                break
            started = time.perf_counter()
            batch = step(batch, self._resources)
            _LOG.debug(
                "%s %s: %d in, %d decided, %.3f s",
                batch.task.name,
                step.__name__,
                n_open,
                n_open - len(batch.open),
                time.perf_counter() - started,
            )
        return batch


def look_up_labels(batch: Batch, resources: Resources) -> Batch:
    """Settle queries that were labelled: a learned answer is the answer."""
    labels = resources.demonstrator.labels(batch.task.name)
    if not labels:
        return batch
    found: dict[int, Answer] = {}
    for i, query in enumerate(batch.queries):
        value = labels.get(replace(query, domain=None).digest)
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
    shared = _shared_key(batch, resources)
    keys = tuple(
        digest(shared, query.digest, *context)
        for query, context in zip(batch.queries, batch.contexts, strict=True)
    )
    batch = replace(batch, keys=keys)
    if resources.cache is None:
        return batch
    wanted = {keys[i]: i for i in batch.open}
    found = resources.cache.get(wanted)
    return batch.settle({wanted[key]: answer for key, answer in found.items()}, cached=True)


def _shared_key(batch: Batch, resources: Resources) -> str:
    """Everything besides the query and its context that can change its answer."""
    settings = resources.settings
    scorer, policy = resources.scorers[batch.task.name], batch.policy
    labels = "".join(
        resources.demonstrator.digest(name) for name in (batch.task.name, *scorer.label_tasks)
    )
    return digest(
        batch.task.name,
        str(batch.task.version),
        scorer.digest,
        *(str(getattr(settings, name)) for name in AnswerSettings.__slots__),
        *((str(policy.low), str(policy.high), resources.backend_digest()) if policy.engine else ()),
        resources.encoder_digest() if labels or scorer.encodes else "",
        labels,
    )


def score_features(batch: Batch, resources: Resources) -> Batch:
    """Tier 0: score by features; settle what the policy does not escalate.

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
        if (answer := tentative[i]) is not None and not batch.policy.escalates(answer)
    }
    batch = _keep(batch, resources, settled)
    # Labels near a question are looked up only where the model will be shown them: that embeds the
    # question, which costs ten times what tier 0 costs.
    waiting = batch.open
    shown = resources.demonstrator.add_neighbours(
        batch.task, [batch.queries[i] for i in waiting], [tentative[i] for i in waiting]
    )
    for i, answer in zip(waiting, shown, strict=True):
        tentative[i] = answer
    return replace(batch, tentative=tuple(tentative))


def ask_engine(batch: Batch, resources: Resources) -> Batch:
    """Tier 2: ask the language model about what is still open, batch by batch.

    A prompt that is too long is asked again with its records cut to half; a row the model cannot
    answer falls back to its tier-0 answer where there is one.
    """
    max_chars = resources.settings.max_record_chars
    crowded = {
        i: Answer(tier=LANGUAGE_MODEL_TIER, error=f"too_many_options: {n}, at most {MOST_OPTIONS}")
        for i in batch.open
        if (n := len(_shortlist(batch, i).domain or ())) > MOST_OPTIONS
    }
    batch = batch.settle({i: _with_tier0(batch, i, answer) for i, answer in crowded.items()})
    waiting = batch.open
    for _ in range(HALVINGS):
        batch, waiting = _ask_round(batch, resources, waiting, max_chars)
        if not waiting:
            return batch
        max_chars //= 2
    return _ask_round(batch, resources, waiting, max_chars, last=True)[0]


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
    queries = [_shortlist(batch, i) for i in positions]
    shown = resources.demonstrator.demonstrations(task, queries)
    prompts = [
        task.prompt(query, demonstrations, max_chars)
        for query, demonstrations in zip(queries, shown, strict=True)
    ]
    too_long: list[int] = []
    n_prompts = n_tokens = 0
    for finished in resources.backend().complete(prompts):
        found: dict[int, Answer] = {}
        for number, completion in finished:
            i = positions[number]
            if not last and (completion.error or "").startswith("prompt_too_long"):
                too_long.append(i)
                continue
            n_prompts += 1
            n_tokens += completion.prompt_tokens
            answer = task.parse(queries[number], completion)
            found[i] = _with_tier0(batch, i, answer)
        batch = _keep(batch, resources, found)
        interrupt.check()
    batch = replace(
        batch,
        engine_prompts=batch.engine_prompts + n_prompts,
        prompt_tokens=batch.prompt_tokens + n_tokens,
    )
    return batch, sorted(too_long)


def _with_tier0(batch: Batch, position: int, answer: Answer) -> Answer:
    """Combine an answer of tier 2 with what tier 0 said: beside it, or instead of it."""
    tentative = batch.tentative[position]
    if tentative is None:
        return answer
    if answer.error is None:
        said = Evidence("tier 0", tentative.value or "", tentative.probability or 0.0)
        near = tuple(e for e in tentative.evidence if e.kind == "neighbour")
        return replace(answer, evidence=(said, *near))
    if batch.options.tier == "t2" or tentative.error is not None:
        return answer
    failed = Evidence("tier 2", answer.error, 0.0)
    return replace(tentative, evidence=(*tentative.evidence, failed))


def _keep(batch: Batch, resources: Resources, found: dict[int, Answer]) -> Batch:
    if resources.cache is not None:
        resources.cache.put({batch.keys[i]: answer for i, answer in found.items()})
    return batch.settle(found)


FREE_STEPS: tuple[Step, ...] = (look_up_labels, look_up_cache)
"""The steps that compute nothing."""

STEPS: tuple[Step, ...] = (look_up_cache, score_features, ask_engine)
"""The steps of every task, cheapest first."""


def _outcome(batches: Iterable[Batch]) -> Outcome:
    cached: list[str] = []
    evaluated: list[str] = []
    answers: list[Answer] = []
    n_prompts = n_tokens = 0
    for batch in batches:
        for i, (query, answer) in enumerate(zip(batch.queries, batch.answers, strict=True)):
            if i in batch.cached:
                cached.append(query.digest)
            elif answer is not None:
                evaluated.append(query.digest)
                answers.append(answer)
        n_prompts += batch.engine_prompts
        n_tokens += batch.prompt_tokens
    return Outcome(cached, evaluated, answers, n_prompts, n_tokens)
