"""Stand-ins for the models, for tests of everything else. Never a default anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.counting import COUNTED
from meld_duckdb.tasks.base import Completion, Prompt

Script = Callable[[Prompt], Completion]


def first_choice(prompt: Prompt) -> Completion:
    """Answer the first choice with probability 0.8, or the text ``value`` when generating."""
    if not prompt.choices:
        return Completion("value", probability=0.8, prompt_tokens=10)
    rest = 0.2 / max(len(prompt.choices) - 1, 1)
    shares = (0.8, *([rest] * (len(prompt.choices) - 1)))
    return Completion(prompt.choices[0], shares, 0.8, prompt_tokens=10)


def counted(prompt: Prompt) -> Completion:
    """Count ten tokens, as `first_choice` says, and answer nothing."""
    return Completion(None, prompt_tokens=10, error=COUNTED)


class ScriptedBackend:
    """A `Backend` driven by a function, in batches of ``batch_size``; keeps what it was asked."""

    digest = "scripted"

    def __init__(self, script: Script = first_choice, batch_size: int = 4) -> None:
        self.script = script
        self.batch_size = batch_size
        self.asked: list[Prompt] = []
        self.adapters: list[Adapter | None] = []  # one per prompt asked

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        for start in range(0, len(prompts), self.batch_size):
            part = prompts[start : start + self.batch_size]
            self.asked.extend(part)
            self.adapters.extend([adapter] * len(part))
            yield [(start + i, self.script(prompt)) for i, prompt in enumerate(part)]


class HashingEncoder:
    """Word-hashing vectors: equal texts have cosine 1, texts with no word in common about 0."""

    digest = "hashing"
    dimension = 64

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, sum(ord(c) * (i + 7) for i, c in enumerate(word)) % 64] += 1.0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(norms == 0, 1.0, norms)
