"""What is said to an OpenAI-compatible server, and how its answers are read; see `openai`.

Three ways, the best first: completions of token ids with log-probabilities of chosen tokens (vLLM);
completions of token ids with those of the likeliest tokens (llama.cpp, older vLLM); chat.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from meld_duckdb.engine.kv import Job
from meld_duckdb.engine.reads import Read, chosen
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.errors import EngineError, EngineUnavailable
from meld_duckdb.tasks.base import Completion

MOST_LISTED = 20
"""Likeliest tokens whose log-probabilities are asked for."""

_MOST_TOKEN_CHARS = 32
"""Characters that a token of words has at most, in the tokenizers of today."""

_ID = "token_id:"
_MARKER = re.compile(r"<(?=[|/a-zA-Z])|\[(?=/?[A-Z]{2,}\])")


class Way(enum.Enum):
    """How a server is asked."""

    CHOSEN = "token ids, log-probabilities of chosen tokens"
    LISTED = "token ids, log-probabilities of the likeliest tokens"
    CHAT = "chat, log-probabilities of the likeliest tokens"


def completion_body(model: str, ids: Sequence[int], read: Read | None, **more: Any) -> Any:
    """Ask for the next token behind token ids, or for a text if there is no ``read``."""
    body: dict[str, Any] = {"model": model, "prompt": list(ids), "temperature": 0, "logprobs": 1}
    body["return_tokens_as_token_ids"] = True
    if read is not None:
        body |= {"max_tokens": 1, "logprobs": MOST_LISTED}
        body["logprob_token_ids"] = list(read.wanted)
    return body | more


def chat_body(model: str, job: Job, limit_name: str = "max_tokens") -> dict[str, Any]:
    """Ask by chat, with the turns that fit; ``limit_name`` bounds the answer."""
    prompt = job.prompt
    turns = [text for turn in prompt.turns[job.dropped :] for text in turn]
    said = [prompt.system, *turns, prompt.question]
    roles = ["system", *(["user", "assistant"] * (len(turns) // 2)), "user"]
    messages = [{"role": r, "content": defused(t)} for r, t in zip(roles, said, strict=True)]
    body: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0}
    body |= {"logprobs": True, limit_name: 1 if prompt.choices else prompt.max_tokens}
    if prompt.choices:
        return body | {"top_logprobs": MOST_LISTED}
    return body | ({"stop": ["\n"]} if prompt.one_line else {})


def defused(text: str) -> str:
    """Break up what a server's tokenizer could take for a control token."""
    return _MARKER.sub(lambda match: f"{match[0]} ", text)


def read_listed(reply: Any, url: str) -> tuple[dict[str, float], list[str], list[float]]:
    """Read a completion: (log-probabilities at its first token, its tokens, their own).

    Raises:
        EngineError: The answer has not the form of a completion.
    """
    try:
        given = reply["choices"][0]["logprobs"]
        listed = (given.get("top_logprobs") or [{}])[0] or {}
        own = [float(p) for p in given["token_logprobs"] if p is not None]
        return dict(listed), [str(token) for token in given["tokens"]], own
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(url, error) from error


def read_chat(reply: Any, url: str) -> tuple[str, list[tuple[str, float]], list[float]]:
    """Read a chat completion: (text, tokens that could come first, log-probabilities of its own).

    Raises:
        EngineUnavailable: There are no log-probabilities.
        EngineError: The answer has not the form of a completion.
    """
    try:
        choice = reply["choices"][0]
        text = str(choice["message"].get("content") or "")
        tokens = (choice.get("logprobs") or {}).get("content")
        if tokens is None:
            raise EngineUnavailable(
                f"the server {url} gives no log-probabilities, without which no answer has a "
                "probability",
                hint="ask a server or model that gives them, such as vllm serve or llama-server",
            )
        first = tokens[0].get("top_logprobs") or [] if tokens else []
        listed = [(str(entry["token"]), float(entry["logprob"])) for entry in first]
        return text, listed, [float(entry["logprob"]) for entry in tokens]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(url, error) from error


def bounded(text: str, job: Job) -> str:
    """Cut a text to as many characters as its tokens can have: a server may say what it likes."""
    return text.strip()[: job.prompt.max_tokens * _MOST_TOKEN_CHARS]


def token_ids(tokens: Sequence[str]) -> list[int] | None:
    """Ids of tokens that are named by them; None where one is not."""
    if not all(token.startswith(_ID) for token in tokens):
        return None
    return [int(token.removeprefix(_ID)) for token in tokens]


def wanted_logprobs(
    listed: Mapping[str, float], wanted: Sequence[int], renderer: Renderer
) -> dict[int, float]:
    """Log-probabilities of those wanted tokens that are listed, by id or by text."""
    found = {}
    for token in wanted:
        named = listed.get(f"{_ID}{token}")
        named = listed.get(renderer.spell(token)) if named is None else named
        if named is not None:
            found[token] = float(named)
    return found


def choose_listed(job: Job, listed: Mapping[str, float], renderer: Renderer) -> Completion:
    """Choose where only the likeliest tokens are known.

    A choice that begins with none of them counts as much as the least likely one, which is the
    most it can be.
    """
    if not job.firsts:
        return _error(job, "choices_alike: the server cannot score choices that begin alike")
    known = wanted_logprobs(listed, sorted(set().union(*job.firsts)), renderer)
    scores = [_sum([known[t] for t in first if t in known]) for first in job.firsts]
    return _bounded(job, scores, list(listed.values()))


def choose_chat(job: Job, listed: Sequence[tuple[str, float]]) -> Completion:
    """Choose by the texts of the likeliest first tokens, whatever the tokenizer.

    A token counts for the one choice that begins with it, in whatever case; one that begins several
    says nothing.
    """
    choices = [choice.strip().casefold() for choice in job.prompt.choices]
    own: list[list[float]] = [[] for _ in choices]
    unclear = 0.0
    for token, logprob in listed:
        start = token.strip().casefold()
        begun = [i for i, choice in enumerate(choices) if start and choice.startswith(start)]
        if len(begun) == 1:
            own[begun[0]].append(logprob)
        elif begun:
            unclear += math.exp(logprob)
    scores = [_sum(logprobs) for logprobs in own]
    if unclear > sum(math.exp(score) for score in scores):
        return _error(job, "choices_alike: the server cannot score choices that begin alike")
    return _bounded(job, scores, [logprob for _, logprob in listed])


def _bounded(job: Job, scores: Sequence[float], listed: Sequence[float]) -> Completion:
    if all(score == -math.inf for score in scores):
        return _error(
            job, f"no_choice_listed: no choice is among the {len(listed)} likeliest beginnings"
        )
    least = min(listed)
    return chosen(job, [least if score == -math.inf else score for score in scores])


def _error(job: Job, error: str) -> Completion:
    return Completion(None, prompt_tokens=job.n_tokens, error=error)


def _sum(logprobs: Sequence[float]) -> float:
    total = sum(math.exp(logprob) for logprob in logprobs)
    return math.log(total) if total else -math.inf


def _malformed(url: str, error: Exception) -> EngineError:
    return EngineError(
        f"the server {url} answered something else than a completion: "
        f"{type(error).__name__} {error}",
        hint="is openai_url the address of an OpenAI-compatible server?",
    )
