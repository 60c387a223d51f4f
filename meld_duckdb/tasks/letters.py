"""Closed answers: options are listed by letter, and the letters are scored, not written.

Paper: MELD §2.2 (output domain of a query).
"""

from __future__ import annotations

from collections.abc import Sequence

from meld_duckdb.records import plain_text
from meld_duckdb.tasks.base import Answer, Completion, Query
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER
from meld_duckdb.tasks.serialise import as_data, quote

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_ANSWER_CHARS = 200
MOST_OPTIONS = len(LETTERS)
"""Options that a language model can be offered at once."""


def letters(domain: Sequence[str] | None) -> tuple[str, ...]:
    """The letters of a domain; none for an open question."""
    return tuple(LETTERS[: len(domain)]) if domain else ()


def list_options(domain: Sequence[str]) -> str:
    """Render the options, a line each, as data."""
    return "\n".join(
        f"{letter}: {as_data('option', quote(value))}"
        for letter, value in zip(LETTERS, domain, strict=False)
    )


def shown_answer(domain: Sequence[str] | None, answer: str) -> str:
    """What a demonstration answers: the letter of its option, or the option itself on one line."""
    if domain and answer in domain[:MOST_OPTIONS]:
        return LETTERS[domain.index(answer)]
    return plain_text(answer, _MOST_ANSWER_CHARS)


def parse_letter(query: Query, completion: Completion) -> Answer:
    """Map a scored letter back to its option; all options are ranked by their share."""
    if completion.error is not None:
        return Answer(tier=LANGUAGE_MODEL_TIER, error=completion.error)
    domain = query.domain or ()
    text = completion.text or ""
    at = LETTERS.find(text) if len(text) == 1 else -1
    if not 0 <= at < len(domain):
        return Answer(
            tier=LANGUAGE_MODEL_TIER, raw=text, error="unparsable: not the letter of an option"
        )
    ranked = sorted(zip(domain, completion.choice_probabilities, strict=False), key=lambda x: -x[1])
    return Answer(
        value=domain[at],
        probability=completion.probability,
        tier=LANGUAGE_MODEL_TIER,
        raw=text,
        ranking=tuple(ranked),
    )
