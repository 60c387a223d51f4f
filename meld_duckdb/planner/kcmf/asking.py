"""Ask a language model prompts, each distinct one once, whatever it is needed for.

Answers are kept by prompt, so that a keyword, a summary or a vote is computed once per item or
prompt, not once per pair, and is not lost when a statement is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meld_duckdb import interrupt
from meld_duckdb.engine.backend import Backend
from meld_duckdb.planner.cache import AnswerCache
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Answer, Prompt

TOO_LONG = "prompt_too_long"
"""Beginning of the error of a prompt that the engine has no room for."""

_PART = 256


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said.

    Attributes:
        text: The chosen or generated text; None where there is none.
        probability: Of the first choice, in [0, 1]; None where it was generated.
        error: Why there is no text.
    """

    text: str | None
    probability: float | None = None
    error: str | None = None


class Asker:
    """Asks prompts and counts what they cost.

    Args:
        backend: The engine, loaded on first use.
        backend_digest: Its identity.
        cache: Where answers are kept; None for nowhere.

    Attributes:
        n_prompts: Prompts that the engine really answered.
        n_tokens: Tokens of these.
        n_failed: Prompts that the engine could not answer, but for their length.
    """

    def __init__(
        self,
        backend: Callable[[], Backend],
        backend_digest: Callable[[], str],
        cache: AnswerCache | None,
    ) -> None:
        self._backend = backend
        self._backend_digest = backend_digest
        self._cache = cache
        self.n_prompts = 0
        self.n_tokens = 0
        self.n_failed = 0

    def ask(self, prompts: Sequence[Prompt]) -> list[Said]:
        """Answer prompts, in order; see `Backend.complete` for what can go wrong."""
        engine = self._backend_digest()
        keys = [_key(engine, prompt) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        found: dict[str, Said] = {}
        if self._cache is not None:
            for key, answer in self._cache.get(distinct).items():
                found[key] = Said(answer.value, answer.probability)
        waiting = [key for key in distinct if key not in found]
        for start in range(0, len(waiting), _PART):
            part = waiting[start : start + _PART]
            self._complete(part, [distinct[key] for key in part], found)
        return [found[key] for key in keys]

    def _complete(
        self, keys: Sequence[str], prompts: Sequence[Prompt], found: dict[str, Said]
    ) -> None:
        for finished in self._backend().complete(prompts):
            kept: dict[str, Answer] = {}
            for position, completion in finished:
                scored = completion.choice_probabilities
                said = Said(completion.text, scored[0] if scored else None, completion.error)
                found[keys[position]] = said
                kept[keys[position]] = Answer(said.text, said.probability, error=said.error)
                if completion.error is None:
                    self.n_prompts += 1
                    self.n_tokens += completion.prompt_tokens
                elif not completion.error.startswith(TOO_LONG):
                    self.n_failed += 1
            if self._cache is not None:
                self._cache.put(kept)
            interrupt.check()


def _key(engine: str, prompt: Prompt) -> str:
    turns = (part for turn in prompt.turns for part in turn)
    return digest(
        "prompt",
        engine,
        prompt.system,
        str(len(prompt.turns)),
        *turns,
        prompt.question,
        str(prompt.max_tokens if not prompt.choices else 0),
        *prompt.choices,
    )
