"""What the binary tasks share: the answer is one of two words, read from their probabilities."""

from __future__ import annotations

from meld_duckdb.tasks.base import Answer, Completion

LANGUAGE_MODEL_TIER = 2


def parse_binary(completion: Completion) -> Answer:
    """Turn a scored completion into an answer with the probability of the first choice.

    A completion with an error gives an answer with the same error.
    """
    if completion.error is not None:
        return Answer(tier=LANGUAGE_MODEL_TIER, error=completion.error)
    return Answer(
        value=completion.text,
        probability=completion.choice_probabilities[0],
        tier=LANGUAGE_MODEL_TIER,
        raw=completion.text,
    )
