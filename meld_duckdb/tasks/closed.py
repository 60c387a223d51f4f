"""What the tasks share that choose one of the options given about one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meld_duckdb.tasks.base import Answer, Completion, Demonstration, Prompt, Query
from meld_duckdb.tasks.letters import letters, list_options, parse_letter, shown_answer
from meld_duckdb.tasks.serialise import as_data, serialise


@dataclass(frozen=True, slots=True)
class ClosedTask:
    """A closed task: one of the options of the query, named by its letter.

    Attributes:
        name: Name of the task.
        system: The instruction.
        tag: Tag that the record stands in.
        question: What is asked about the record.
    """

    name: str
    system: str
    tag: str
    question: str
    version: int = 1
    labels: tuple[str, str] | None = None
    symmetric: bool = False
    when_unsure: str = "error"

    def prompt(
        self, query: Query, demonstrations: Sequence[Demonstration], max_chars: int
    ) -> Prompt:
        """Render the prompt: instruction, labelled records, then the record and the options."""
        domain = query.domain or ()
        turns = tuple(
            (self._ask(d.query, domain, max_chars), shown_answer(domain, d.answer))
            for d in demonstrations
        )
        asked = self._ask(query, domain, max_chars)
        return Prompt(self.system, turns, asked, choices=letters(domain))

    def parse(self, query: Query, completion: Completion) -> Answer:
        """Map the letter back to its option."""
        return parse_letter(query, completion)

    def _ask(self, query: Query, domain: Sequence[str], max_chars: int) -> str:
        record = as_data(self.tag, serialise(query.records[0], max_chars))
        return f"{record}\n{self.question}\n{list_options(domain)}\nAnswer with one letter."
