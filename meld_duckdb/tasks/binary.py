"""What the binary tasks share: the answer is one of two words, read from their probabilities."""

from __future__ import annotations

from meld_duckdb.tasks.base import Answer, Completion

LANGUAGE_MODEL_TIER = 2


def parse_binary(completion: Completion, labels: tuple[str, str] | None) -> Answer:
    """Turn a scored completion into an answer with the probability of the first choice.

    A completion with an error gives an answer with the same error, one with another text than a
    label none.
    """
    if completion.error is not None:
        return Answer(tier=LANGUAGE_MODEL_TIER, error=completion.error)
    if completion.text not in (labels or ()):
        return Answer(tier=LANGUAGE_MODEL_TIER, error="unparsable: not one of the two answers")
    return Answer(
        value=completion.text,
        probability=completion.choice_probabilities[0],
        tier=LANGUAGE_MODEL_TIER,
        raw=completion.text,
    )
