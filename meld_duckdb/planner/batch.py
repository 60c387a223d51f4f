"""What the planner's steps pass on, and what they use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from meld_duckdb.engine.backend import Backend
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.planner.cascade import Policy
from meld_duckdb.planner.certificates import Certificates
from meld_duckdb.planner.demonstrations import Demonstrator
from meld_duckdb.planner.experts import Expert, ExpertSource
from meld_duckdb.planner.gate import Gate, Gates
from meld_duckdb.planner.kcmf.matcher import Matcher
from meld_duckdb.planner.mixture import Mixture
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.scorers import Scorer
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import digest
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks.base import Answer, Query, Task
from meld_duckdb.tasks.kcmf import KcmfTask


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
    mixture: Mixture
    gates: Gates
    matcher: Matcher
    experts: ExpertSource | None = None
    certificates: Certificates | None = None

    def ask_tier0(self, task: str, queries: Sequence[Query]) -> list[Answer | None]:
        """What tier 0 says to questions of a task, in order, each among its own tables."""
        answers: list[Answer | None] = [None] * len(queries)
        groups: dict[Context, list[int]] = {}
        for i, context in enumerate(self.tables.find(queries)):
            groups.setdefault(context, []).append(i)
        for context, positions in groups.items():
            said = self.scorers[task].score([queries[i] for i in positions], context)
            for i, answer in zip(positions, said, strict=True):
                answers[i] = answer
        return answers


@dataclass(frozen=True)
class Batch:
    """Distinct queries on their way; all tuples are in the order of ``queries``.

    Attributes:
        contexts: Tables of each query's records.
        keys: Cache key of each query.
        made_with: Identity of the labels and experts before the keys were made, see `readings`.
        matching: KcMF: identity of the rules and knowledge that the keys were made with.
        experts: Expert of tier 1 that may be asked about each query, None where there is none.
        gates: What was decided on tier 2 for each query, None where nothing was.
        answers: Final answers, None while undecided.
        tentative: Answers of tier 0 or 1 that a later tier may replace.
        cached: Positions answered without computing.
        engine_prompts: Prompts answered by the language model.
        prompt_tokens: Tokens of these.
        elsewhere: Positions that are not computed in this run, because another thread computes
            them or they were computed before.
    """

    task: Task
    options: Options
    policy: Policy
    queries: tuple[Query, ...]
    contexts: tuple[Context, ...]
    keys: tuple[str, ...] = ()
    made_with: str = ""
    matching: str = ""
    experts: tuple[Expert | None, ...] = ()
    gates: tuple[Gate | None, ...] = ()
    answers: tuple[Answer | None, ...] = ()
    tentative: tuple[Answer | None, ...] = ()
    cached: frozenset[int] = frozenset()
    engine_prompts: int = 0
    prompt_tokens: int = 0
    elsewhere: frozenset[int] = frozenset()

    @property
    def open(self) -> list[int]:
        """Positions still undecided, those elsewhere left out."""
        elsewhere = self.elsewhere
        return [i for i, a in enumerate(self.answers) if a is None and i not in elsewhere]

    def waits_for_expert(self, position: int) -> bool:
        """Tell whether an expert is to be asked about a query, given its tier-0 answer."""
        if self.policy.expert == "always":
            return True
        expert = self.experts[position]
        return expert is not None and expert.wants(self.tentative[position])

    def escalates(self, position: int, answer: Answer | None) -> bool:
        """Tell whether a query goes to the language model, given what the tiers before say."""
        gate = self.gates[position] if self.gates else None
        if gate is None:
            return self.policy.escalates(answer)
        silent = answer is None or answer.error is not None
        return gate.escalates(None if silent or answer is None else answer.probability)

    def settle(self, found: dict[int, Answer], *, cached: bool = False) -> Batch:
        """Return the batch with answers filled in."""
        answers = tuple(found.get(i, answer) for i, answer in enumerate(self.answers))
        hits = self.cached | found.keys() if cached else self.cached
        return replace(self, answers=answers, cached=frozenset(hits))


Step = Callable[[Batch, Resources], Batch]


def readings(batch: Batch, resources: Resources) -> str:
    """Identity of what is read again while answers are computed, and others may change."""
    names = (batch.task.name, *resources.scorers[batch.task.name].label_tasks)
    labels = (resources.demonstrator.digest(name) for name in names)
    may_ask = batch.policy.engine or any(gate is not None and gate.use for gate in batch.gates)
    asks_experts = may_ask and not isinstance(batch.task, KcmfTask)
    experts = resources.mixture.digest(batch.task.name) if asks_experts else ""
    return digest(*labels, experts)


def keep(batch: Batch, resources: Resources, found: dict[int, Answer]) -> Batch:
    """Settle queries and put their answers into the cache.

    Where labels or experts changed since the keys were made, the answers are given but not kept:
    the keys say what was there before.
    """
    if resources.cache is not None and _is_unchanged(batch, resources):
        resources.cache.put({batch.keys[i]: answer for i, answer in found.items()}, batch.task.name)
    return batch.settle(found)


def _is_unchanged(batch: Batch, resources: Resources) -> bool:
    try:
        return batch.made_with == readings(batch, resources)
    except ArtefactError:  # an expert is being replaced
        return False
