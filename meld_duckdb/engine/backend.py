"""The one contract of all engines that run a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.tasks.base import Completion, Prompt


class Backend(Protocol):
    """Answers prompts in batches.

    A prompt that cannot be answered (too long, say) gives a `Completion` with ``error`` set and
    harms no other prompt; an engine that cannot work at all raises `EngineError`.
    """

    @property
    def digest(self) -> str:
        """Identity of model, weights and decoding settings; part of every cache key."""
        ...

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Answer all prompts, with an adapter on the model or without one.

        An adapter changes the answers, so its name belongs into a cache key beside `digest`.

        Yields:
            One list per finished engine batch of (position in ``prompts``, completion), so that a
            caller can keep what is done. Every position occurs exactly once, in any order.

        Raises:
            EngineError: The engine cannot work, or not with adapters.
            ArtefactError: The adapter is missing, damaged or made for another model.
        """
        ...
