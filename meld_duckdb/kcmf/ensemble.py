"""One vote per knowledge source, counted.

Paper: KcMF §3.5 (IntGE): one prompt per source, never all knowledge in one, and the majority of the
answers. We let an answer in a bad format abstain instead of counting as "no".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meld_duckdb.kcmf.rules import NO, YES


@dataclass(frozen=True, slots=True)
class Vote:
    """What was answered with the knowledge of one source.

    Attributes:
        source: Name of the source.
        answer: ``"yes"``, ``"no"``, or None where the format was bad.
        probability: Of yes, in [0, 1]; None where the answer was generated and not scored.
    """

    source: str
    answer: str | None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The votes counted.

    Attributes:
        answer: What the majority says; ``"no"`` for a tie and where nobody voted.
        probability: Of yes: the mean of the votes' probabilities; where they have none, the share
            of yes among the valid votes. 0 where nobody voted. It can lie on the other side of
            one half than the answer.
        n_yes: Votes for yes.
        n_no: Votes for no.
        n_bad: Answers in a bad format.
    """

    answer: str
    probability: float
    n_yes: int
    n_no: int
    n_bad: int


def count(votes: Sequence[Vote]) -> Verdict:
    """Count votes, one per source."""
    valid = [vote for vote in votes if vote.answer is not None]
    n_yes = sum(vote.answer == YES for vote in valid)
    n_no = len(valid) - n_yes
    shares = [v.probability if v.probability is not None else float(v.answer == YES) for v in valid]
    probability = sum(shares) / len(shares) if shares else 0.0
    answer = YES if n_yes > n_no else NO
    return Verdict(answer, probability, n_yes, n_no, len(votes) - len(valid))
