"""What a task is: its questions, its prompt, its answers.

A task module is pure: it reads no file, loads no model and knows no SQL. The planner turns SQL
arguments into `Query` objects, engines see `Prompt` objects only, and every row ends as an
`Answer`.

Paper: MELD §2.2, Definition 2.1: a query is (instruction, demonstrations, tuple, output domain).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from meld_duckdb import safe_json
from meld_duckdb.records import Record, digest, make_record


@dataclass(frozen=True, slots=True)
class Query:
    """One distinct question of a task.

    Attributes:
        records: The records asked about: two for pair tasks, mention and candidates for entity
            linking, else one.
        target: The column or attribute asked about, else None.
        domain: The only answers allowed, in the order given; None where any value may be answered.
    """

    records: tuple[Record, ...]
    target: str | None = None
    domain: tuple[str, ...] | None = None

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of everything the question says."""
        domain = ("domain", *self.domain) if self.domain is not None else ("open",)
        target = "" if self.target is None else self.target
        return digest(*(r.digest for r in self.records), "target", target, *domain)

    def to_json(self) -> str:
        """Return a form to keep; see `from_json`."""
        fields = {
            "records": [list(r.fields.items()) for r in self.records],
            "target": self.target,
            "domain": self.domain,
        }
        return json.dumps(fields, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Query:
        """Read what `to_json` wrote."""
        fields: dict[str, Any] = safe_json.loads(text)
        domain = fields["domain"]
        return Query(
            tuple(make_record(dict(items)) for items in fields["records"]),
            fields["target"],
            tuple(domain) if domain is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason for an answer: a feature, a neighbour, a label, a vote.

    Attributes:
        kind: What it is, for example ``"feature"``, ``"label"``, ``"neighbour"``.
        text: Feature name, neighbour record or message.
        weight: Feature value, similarity or vote; higher is stronger.
    """

    kind: str
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query, or the reason why there is none.

    Attributes:
        value: The answer as text; binary tasks answer one of the task's two labels. The empty
            text is an answer too: nothing should stand there. It is NULL in SQL.
        probability: For binary tasks the probability of the first label, else of ``value``;
            in [0, 1].
        tier: Which tier settled it: 0 features, 1 encoder expert, 2 language model; None for none.
        evidence: Reasons, strongest first.
        experts: Names of the experts that answered.
        raw: What the language model said, if it was asked.
        error: ``"code: message"`` where there is no answer, else None.
        changed: Repair: whether the right value differs from the one that stands there.
        ranking: Options with their probabilities, best first, where options were compared.
    """

    value: str | None = None
    probability: float | None = None
    tier: int | None = None
    evidence: tuple[Evidence, ...] = ()
    experts: tuple[str, ...] = ()
    raw: str | None = None
    error: str | None = None
    changed: bool | None = None
    ranking: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A labelled query shown to the language model."""

    query: Query
    answer: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is asked. Shared parts come first so that prefix caching pays.

    Attributes:
        system: Instruction and rules, the same for every query of a task.
        turns: Demonstrations as (question, answer) pairs, the same for a cluster of queries.
        question: The part of its own. Data in it is delimited and never read as instruction.
        choices: The answers allowed, scored by next-token log-probability; empty to generate.
        max_tokens: Upper bound when generating.
        keep_turns: Whether a prompt that is too long is refused as it is, because who made it
            shortens it in an order of its own, instead of losing its oldest turns.
        one_line: Whether a generated answer ends with its line.
    """

    system: str
    turns: tuple[tuple[str, str], ...]
    question: str
    choices: tuple[str, ...] = ()
    max_tokens: int = 32
    keep_turns: bool = False
    one_line: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered to one `Prompt`.

    Attributes:
        text: The chosen choice, or the generated text.
        choice_probabilities: One per choice, in order, summing to 1; empty when generated.
        probability: Of ``text``: the choice's share, or the geometric mean of the token
            probabilities.
        prompt_tokens: Tokens of the whole prompt, shared prefix included.
        error: Why there is no completion, else None.
    """

    text: str | None
    choice_probabilities: tuple[float, ...] = ()
    probability: float | None = None
    prompt_tokens: int = 0
    error: str | None = None


class Task(Protocol):
    """One of the ten tasks. ``version`` changes whenever its prompt or its parsing changes."""

    @property
    def name(self) -> str:
        """Name in SQL, in files and on the command line."""
        ...

    @property
    def version(self) -> int:
        """Part of every cache key."""
        ...

    @property
    def labels(self) -> tuple[str, str] | None:
        """(positive, negative) label of a binary task, None for an open task."""
        ...

    @property
    def symmetric(self) -> bool:
        """True when swapping the two records cannot change the answer."""
        ...

    @property
    def when_unsure(self) -> str:
        """What an open task answers when no value is likely enough.

        ``"error"``: NULL with a reason; ``"keep"``: the value that stands there; ``"absent"``:
        that there is none.
        """
        ...

    def prompt(
        self, query: Query, demonstrations: Sequence[Demonstration], max_chars: int
    ) -> Prompt:
        """Render a query; its records together take about ``max_chars`` characters."""
        ...

    def parse(self, query: Query, completion: Completion) -> Answer:
        """Read the answer out of a completion; what cannot be read has ``error`` set."""
        ...


@dataclass(frozen=True, slots=True)
class RowError:
    """Why one row cannot be asked at all; becomes an `Answer` with ``error`` set."""

    code: str
    message: str = field(default="")

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
