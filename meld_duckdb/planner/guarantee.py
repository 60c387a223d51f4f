"""Answers with a guarantee: a cheap tier answers, an oracle is asked until the goal is shown.

The population is the questions of one call of a table function. Its certificate says what was shown
and keeps what the oracle said; plain functions use it for the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np

from meld_duckdb.errors import InputError
from meld_duckdb.features.audit import Goal, Kind
from meld_duckdb.features.certify import FAILED, HIT, MISS, Verdict, certify
from meld_duckdb.planner.budget import is_over
from meld_duckdb.planner.certificates import (
    Certificate,
    Certificates,
    Shown,
    cheap_tier,
    none_found,
)
from meld_duckdb.planner.options import DELTA, Options
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.planner.tables import Context
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Query, Task

_NOT_CERTIFIED = "not_certified: the guarantee is for rows of other tables"


class Answering(Protocol):
    """What a guarantee needs of a planner."""

    def answer(
        self,
        task: Task,
        queries: Sequence[Query],
        options: Options,
        contexts: Sequence[Context] | None = None,
    ) -> tuple[list[Answer], Outcome]:
        """Answer distinct queries; see `plan.Planner.answer`."""
        ...

    def identity(self, task: Task, query: Query, context: Context, options: Options) -> str:
        """Everything that can change an answer but question and tables."""
        ...


@dataclass(slots=True)
class Certifying:
    """What goes along with a call that certifies.

    Attributes:
        labels: Answers of the user by digest of the question, in place of the language model.
        made: The certificate, once it is made.
        to_label: The questions that have to be asked next and `labels` has no answer to.
    """

    labels: Mapping[str, str] | None = None
    made: Certificate | None = None
    to_label: list[Query] = field(default_factory=list)


_CALL: ContextVar[Certifying | None] = ContextVar("certifying of this call", default=None)


class LabelsWanted(InputError):
    """The labels given do not answer what has to be asked; `Certifying.to_label` names it."""


@contextmanager
def certifying(labels: Mapping[str, str] | None) -> Iterator[Certifying]:
    """Have the calls of this thread within the block certified by some labels.

    Args:
        labels: See `Certifying`; None to ask the language model.
    """
    call = Certifying(labels)
    before = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(before)


def answer_population(
    planner: Answering,
    kept: Certificates,
    task: Task,
    queries: Sequence[Query],
    options: Options,
    contexts: Sequence[Context],
) -> tuple[list[Answer], Outcome]:
    """Answer the questions of a table function so that its targets are met.

    Raises:
        InputError: A target cannot be shown with the rows that may be asked about.
    """
    if not queries:
        return [], Outcome()
    call = _CALL.get() or Certifying()
    cheap = _cheap(options)
    answers, outcome = planner.answer(task, queries, cheap, contexts)
    population = _Population(task, queries, answers, options)
    tables = tuple(sorted({table for context in contexts for table in context}))
    cheap_digest = planner.identity(task, queries[0], contexts[0], cheap)
    asked = replace(cheap, tier="t2", threshold=None)
    oracle = partial(planner.identity, task, queries[0], contexts[0], asked)

    def ask(rows: Sequence[int]) -> list[Answer]:
        nonlocal outcome
        said, more = planner.answer(
            task, [queries[i] for i in rows], asked, [contexts[i] for i in rows]
        )
        outcome += more
        return said

    certificate = None
    if call.labels is None:
        found = kept.find(task.name, tables, options, cheap_digest)
        certificate = _usable(found, oracle, population.digest)
    if certificate is None:
        run = _Run(population, _given(call, queries, task) if call.labels is not None else ask)
        shown = run.reach(options)
        certificate = Certificate(
            task.name,
            tables,
            population.digest,
            len(queries),
            int(population.known.sum()),
            shown,
            options.delta,
            options.threshold,
            cheap_tier(options),
            "language model" if call.labels is None else "labels",
            cheap_digest,
            oracle() if call.labels is None else "",
            {queries[i].digest: (a.value, a.probability) for i, a in run.said.items()},
        )
        kept.put(certificate)
    call.made = certificate
    return _corrected(certificate, queries, answers), outcome


def answer_by_certificate(
    planner: Answering,
    kept: Certificates,
    task: Task,
    queries: Sequence[Query],
    options: Options,
    contexts: Sequence[Context],
) -> tuple[list[Answer], Outcome]:
    """Answer questions of a plain function by the certificate of their tables.

    Raises:
        ConfigError: None of them has one.
    """
    cheap = _cheap(options)
    certificates: dict[Context, Certificate | None] = {}
    for query, context in zip(queries, contexts, strict=True):
        if context not in certificates:
            own = planner.identity(task, query, context, cheap)
            asked = replace(cheap, tier="t2", threshold=None)
            found = kept.find(task.name, context, options, own) if context else []
            oracle = partial(planner.identity, task, query, context, asked)
            certificates[context] = _usable(found, oracle)
    covered = [i for i, context in enumerate(contexts) if certificates[context] is not None]
    if queries and not covered:
        raise none_found(task.name, options)
    answers: list[Answer] = [Answer(error=_NOT_CERTIFIED)] * len(queries)
    said, outcome = planner.answer(
        task, [queries[i] for i in covered], cheap, [contexts[i] for i in covered]
    )
    for i, answer in zip(covered, said, strict=True):
        certificate = certificates[contexts[i]]
        if certificate is not None:
            answers[i] = certificate.correct(queries[i].digest, answer)
    return answers, outcome


class _Population:
    """The questions of a call and what the cheap tier says, in an order of their own.

    Attributes:
        yes: Whether each is answered yes.
        known: Whether a label of the workspace answers it.
        doubt: Probability that the cheap answer is wrong, as it sees itself; 1 without an answer.
        answers: What the cheap tier says.
        order: Positions in an order that that of the rows has no part in.
        digest: Identity of questions and answers.
    """

    def __init__(
        self, task: Task, queries: Sequence[Query], answers: Sequence[Answer], options: Options
    ) -> None:
        labels = task.labels or ("", "")
        self.labels, self.answers = labels, answers
        self.yes = np.array([a.value == labels[0] for a in answers], dtype=bool)
        self.known = np.array([any(e.kind == "label" for e in a.evidence) for a in answers])
        likely = np.array([_probability(a) for a in answers])
        self.doubt = np.where(self.yes, 1.0 - likely, likely)
        self.doubt[[a.value is None for a in answers]] = 1.0
        self.order = np.array(sorted(range(len(queries)), key=lambda i: queries[i].digest))
        self.digest = digest(
            task.name,
            *(f"{queries[i].digest} {answers[i].value} {likely[i]:.9f}" for i in self.order),
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows that one goal is about.

    Attributes:
        goal: The goal.
        at_risk: Positions of the rows that may be hits.
        returned: Recall: positions of the rows returned.
    """

    goal: Goal
    at_risk: np.ndarray
    returned: np.ndarray


class _Run:
    """Shows the goals of a call one after the other."""

    def __init__(
        self, population: _Population, ask: Callable[[Sequence[int]], Sequence[Answer]]
    ) -> None:
        self._population, self._ask = population, ask
        self.said: dict[int, Answer] = {}

    def reach(self, options: Options) -> tuple[Shown, ...]:
        """Ask until all goals are shown; they share what may go wrong.

        Raises:
            InputError: One cannot be shown.
        """
        shown = []
        targets = options.targets
        for kind in ("accuracy", "precision", "recall"):
            if kind in targets:
                shown.append(self._reach(kind, targets[kind], len(targets), options))
        return tuple(shown)

    def _reach(self, kind: Kind, target: float, n_goals: int, options: Options) -> Shown:
        population = self._population
        part = self._part(kind, target)
        rows = np.concatenate([part.at_risk, part.returned])
        delta = options.delta / n_goals
        seed = digest(population.digest, kind, repr((target, delta, options.threshold)))
        room = options.label_budget - len(self.said) if options.label_budget else None
        verdict = certify(
            part.goal,
            delta,
            population.doubt[part.at_risk],
            lambda at: self._judge(kind, rows[at]),
            np.random.default_rng(int(seed, 16)),
            returned=1.0 - population.doubt[part.returned],
            most=room,
        )
        if not verdict.certified:
            raise _refused(kind, target, verdict, options)
        return Shown(
            kind,
            target,
            verdict.bound,
            part.goal.n if kind != "recall" else len(part.returned) + part.goal.n,
            verdict.n_drawn,
            verdict.n_escalated,
            0.0 if verdict.floor is None else round(1.0 - verdict.floor, 6),
        )

    def _part(self, kind: Kind, target: float) -> _Part:
        """The rows of a goal; those that were asked about for another one are known."""
        p = self._population
        asked = np.zeros(len(p.yes), dtype=bool)
        asked[list(self.said)] = True
        right = np.array([a.value == p.labels[0] for a in self.said.values()], dtype=bool)
        none = np.zeros(0, dtype=np.int64)
        open_rows = p.order[~(p.known | asked)[p.order]]
        open_yes = open_rows[p.yes[open_rows]]
        if kind == "accuracy":
            return _Part(Goal(kind, target, len(p.yes)), open_rows, none)
        if kind == "precision":
            return _Part(Goal(kind, target, int(p.yes.sum())), open_yes, none)
        n_known = int((p.known & p.yes).sum()) + int(right.sum())
        return _Part(Goal(kind, target, n_known), open_rows[~p.yes[open_rows]], open_yes)

    def _judge(self, kind: Kind, rows: np.ndarray) -> list[int]:
        positions = rows.tolist()
        judged = []
        for i, answer in zip(positions, self._ask(positions), strict=True):
            if is_over(answer.error):
                raise InputError(
                    f"the budget of the statement was used up before {kind} could be shown: "
                    f"{answer.error}",
                    hint="what was answered is kept: run it again to go on; or raise the budget",
                )
            self.said[i] = answer if answer.error is None else Answer()
            yes = answer.value == self._population.labels[0]
            hit = {"accuracy": answer.value != self._population.answers[i].value,
                   "precision": not yes, "recall": yes}[kind]  # fmt: skip
            judged.append(FAILED if self.said[i].value is None else HIT if hit else MISS)
        return judged


def _given(
    call: Certifying, queries: Sequence[Query], task: Task
) -> Callable[[Sequence[int]], list[Answer]]:
    """An oracle of labels."""
    labels, yes = call.labels or {}, (task.labels or ("",))[0]

    def ask(rows: Sequence[int]) -> list[Answer]:
        call.to_label = [queries[i] for i in rows if queries[i].digest not in labels]
        if call.to_label:
            raise LabelsWanted(
                f"{len(call.to_label)} rows have to be labelled first",
                hint="column to_label of FROM meld.certify lists them",
            )
        said = [labels[queries[i].digest] for i in rows]
        return [Answer(one, float(one == yes), 0) for one in said]

    return ask


def _cheap(options: Options) -> Options:
    """The options of the same call for its cheap tier alone."""
    return replace(
        options,
        tier=cheap_tier(options),
        on_error="null",
        accuracy=None,
        precision=None,
        recall=None,
        delta=DELTA,
        label_budget=0,
    )


def _corrected(
    certificate: Certificate, queries: Sequence[Query], answers: Sequence[Answer]
) -> list[Answer]:
    return [certificate.correct(q.digest, a) for q, a in zip(queries, answers, strict=True)]


def _usable(
    found: Sequence[Certificate], oracle: Callable[[], str], population: str | None = None
) -> Certificate | None:
    """The first certificate whose oracle has not changed, of a population if one is named."""
    return next(
        (
            one
            for one in found
            if population in {None, one.population} and one.oracle_digest in {"", oracle()}
        ),
        None,
    )


def _probability(answer: Answer) -> float:
    return 0.0 if answer.probability is None else answer.probability


def _refused(kind: Kind, target: float, verdict: Verdict, options: Options) -> InputError:
    n_asked = len(verdict.asked)
    shown = f"{verdict.bound:.2f}" if verdict.bound else "nothing"
    budget = (
        f"label_budget = {options.label_budget}" if options.label_budget else "all rows asked about"
    )
    lower = f"a target of {verdict.bound:.2f}, " if verdict.bound else ""
    return InputError(
        f"{kind} {target:g} with delta {options.delta:g} cannot be certified with {budget}: "
        f"{n_asked} answers show {shown}",
        hint=f"{lower}a larger label_budget or delta, or labels (meld_learn) that make the cheap "
        "tier right more often",
    )
