"""What engines that run elsewhere are asked: log-probabilities of given tokens behind a prompt.

A read is one request: a prompt, some more tokens behind it, and the tokens whose log-probabilities
are wanted next. Choices that begin with different tokens take one read. Choices that begin alike
take one at every place where they go on, so that each gets the sum over all its tokens, as in the
embedded engine, without asking for log-probabilities of the prompt, which vLLM gets wrong with
adapters (vllm#16668, vllm#29955).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.engine.kv import Job, Tokens
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.tasks.base import Completion, Prompt

Logprobs = Mapping[Tokens, Mapping[int, float]]
"""Per tokens behind the prompt the log-probabilities of those that may follow."""


@dataclass(frozen=True, slots=True)
class Read:
    """One request.

    Attributes:
        behind: Tokens behind the prompt.
        wanted: Tokens whose log-probabilities are wanted next.
    """

    behind: Tokens
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt with choices and what has to be read for it.

    Attributes:
        job: The prompt.
        texts: Tokens of each choice and of the end of the turn, where choices begin alike.
        reads: The requests.
    """

    job: Job
    texts: tuple[Tokens, ...]
    reads: tuple[Read, ...]

    def answer(self, found: Logprobs) -> Completion:
        """Choose by what the reads gave."""
        if not self.texts:
            behind = found[()]
            return chosen(self.job, [_logsumexp([behind[i] for i in f]) for f in self.job.firsts])
        sums = [sum(found[t[:i]][t[i]] for i in range(len(t))) for t in self.texts]
        return chosen(self.job, sums)


def plan_reads(job: Job, renderer: Renderer, most: int) -> Reading:
    """Say what has to be read to score the choices of a job.

    Args:
        job: A job with choices.
        renderer: Renderer of its model.
        most: Tokens whose log-probabilities one request can give.
    """
    texts: tuple[Tokens, ...] = ()
    places: dict[Tokens, set[int]] = {}
    if job.firsts:
        places[()] = set().union(*job.firsts)
    else:
        end = renderer.end_of_turn
        texts = tuple(renderer.encode_text(choice) + end for choice in job.prompt.choices)
        for text in texts:
            for i, token in enumerate(text):
                places.setdefault(text[:i], set()).add(token)
    reads = [
        Read(behind, tuple(wanted[start : start + most]))
        for behind, tokens in places.items()
        for wanted in [sorted(tokens)]
        for start in range(0, len(wanted), most)
    ]
    return Reading(job, texts, tuple(reads))


def prepare_jobs(
    renderer: Renderer,
    prompts: Sequence[Prompt],
    max_prompt_tokens: int,
    positions: int | None,
    adapter: str = "",
) -> tuple[list[Job], list[tuple[int, Completion]]]:
    """Render all prompts; those that are too long are answered at once.

    Args:
        renderer: Renderer of the model.
        prompts: What is asked.
        max_prompt_tokens: Most tokens of a prompt.
        positions: Most tokens of a prompt and its answer; None for no limit.
        adapter: Name of the adapter, empty without one.
    """
    firsts: dict[tuple[str, ...], tuple[frozenset[int], ...]] = {}
    jobs: list[Job] = []
    refused: list[tuple[int, Completion]] = []
    for position, prompt in enumerate(prompts):
        if prompt.choices not in firsts:
            firsts[prompt.choices] = renderer.choice_tokens(prompt.choices)
        limit = max_prompt_tokens
        if positions is not None:
            limit = min(limit, positions - prompt.max_tokens)
        rendered = renderer.render(prompt, limit)
        if len(rendered) <= limit:
            tokens, dropped = firsts[prompt.choices], rendered.dropped
            job = Job(position, prompt, rendered.prefix, rendered.own, tokens, adapter, dropped)
            jobs.append(job)
            continue
        error = f"prompt_too_long: {len(rendered)} tokens, at most {limit}"
        refused.append((position, Completion(None, prompt_tokens=len(rendered), error=error)))
    return jobs, refused


def configured_stops(path: Path) -> frozenset[int]:
    """Tokens that end an answer by the model's own configuration."""
    for name in ("generation_config.json", "config.json"):
        with contextlib.suppress(OSError, ValueError):
            stops = safe_json.read(path / name).get("eos_token_id")
            if stops is not None:
                return frozenset(stops if isinstance(stops, list) else [stops])
    return frozenset()


def chosen(job: Job, scores: Sequence[float]) -> Completion:
    """Normalise log-scores over the choices; the first of equals wins."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    shares = tuple(weight / sum(weights) for weight in weights)
    best = max(range(len(shares)), key=shares.__getitem__)
    return Completion(
        text=job.prompt.choices[best],
        choice_probabilities=shares,
        probability=shares[best],
        prompt_tokens=job.n_tokens,
    )


def generated(
    job: Job,
    renderer: Renderer,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    stop_ids: frozenset[int],
) -> Completion:
    """Word what was generated; the token that ended it is not shown, but counts."""
    shown = list(tokens)
    if shown and shown[-1] in stop_ids:
        shown.pop()
    mean = math.exp(sum(logprobs) / len(logprobs)) if logprobs else None
    return Completion(renderer.decode(shown), probability=mean, prompt_tokens=job.n_tokens)


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(value - top) for value in values))
