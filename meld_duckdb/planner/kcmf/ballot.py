"""The votes of the knowledge sources on one question, and the reasons they were given with."""

from __future__ import annotations

from collections.abc import Iterable

from meld_duckdb.kcmf import prompts as wording
from meld_duckdb.kcmf.ensemble import Vote, count
from meld_duckdb.kcmf.prompts import Mode, Parts, Worded
from meld_duckdb.kcmf.rules import NO, YES
from meld_duckdb.planner.budget import is_over
from meld_duckdb.planner.kcmf.asking import Said
from meld_duckdb.planner.options import Options
from meld_duckdb.tasks.base import Answer, Evidence
from meld_duckdb.tasks.binary import LANGUAGE_MODEL_TIER

UNAVAILABLE = "unavailable"
"""Evidence that engine or service could not be asked: such an answer is not kept."""


class Ballot:
    """The votes on one question, and the reasons for them."""

    def __init__(self) -> None:
        self._seen: list[Parts] = []
        self._votes: list[Vote] = []
        self._evidence: list[Evidence] = []
        self._failures: list[str] = []

    def is_new(self, part: Parts) -> bool:
        """Whether a source has anything to say that none before it has said.

        A source that knows nothing asks the same question as one without knowledge: it is no
        second voice.
        """
        if part in self._seen:
            return False
        self._seen.append(part)
        return True

    def count(self, source: str, mode: Mode, part: Parts, worded: Worded, said: Said) -> None:
        """Add the vote of a source."""
        if said.error is not None:
            self._failures.append(said.error)
            self._evidence.append(Evidence(UNAVAILABLE, f"{source}: {said.error}", 0.0))
            return
        vote = _vote(source, mode, said)
        self._votes.append(vote)
        share = float(vote.answer == YES) if vote.probability is None else vote.probability
        reasoning = (part.indicator, said.text if mode == "generate" else None)
        text = "\n".join(line for line in reasoning if line)
        self._evidence += [
            Evidence("vote", f"{source}: {vote.answer or 'bad format'}", share),
            *(Evidence("knowledge", f"{source}: {fact}", 1.0) for fact in worded.knowledge),
            *([Evidence("reasoning", f"{source}: {text}", 1.0)] if text else []),
        ]

    def miss(self, reasons: Iterable[str | None]) -> None:
        """Note that a service could not be asked."""
        self._evidence += [Evidence(UNAVAILABLE, reason, 0.0) for reason in reasons if reason]

    def answer(self, options: Options) -> Answer:
        """The majority, or why there is none."""
        evidence = tuple(self._evidence)
        over = next((error for error in self._failures if is_over(error)), None)
        if over is not None:  # the votes that are missing will be there the next time
            return Answer(tier=LANGUAGE_MODEL_TIER, evidence=evidence, error=over)
        if not self._votes:
            error = self._failures[0] if self._failures else "no_vote: no source was asked"
            return Answer(tier=LANGUAGE_MODEL_TIER, evidence=evidence, error=error)
        verdict = count(self._votes)
        if verdict.n_bad == len(self._votes) and options.tier != "t2":
            return Answer(
                tier=LANGUAGE_MODEL_TIER,
                evidence=evidence,
                error=f"no_vote: {verdict.n_bad} answers, none of them yes or no",
            )
        return Answer(
            value="match" if verdict.answer == YES else "mismatch",
            probability=verdict.probability,
            tier=LANGUAGE_MODEL_TIER,
            evidence=evidence,
        )


def _vote(source: str, mode: Mode, said: Said) -> Vote:
    if mode == "generate":
        return Vote(source, wording.read_answer(said.text or ""))
    answer = said.text if said.text in {YES, NO} else None
    return Vote(source, answer, said.probability)
