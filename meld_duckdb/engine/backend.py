"""The one contract of all engines that run a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.errors import EngineError, MeldError
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


class Around:
    """What backends around another one have in common: it is the same engine."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def digest(self) -> str:
        """Identity of the backend."""
        return self._backend.digest


_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, NumPy or Arrow says that there is no memory left."""
    lower = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in lower for word in _MEMORY)
    )


def no_memory(what: str, error: BaseException) -> EngineError:
    """Word that memory did not suffice."""
    said = f": {error}" if str(error) else ""
    return EngineError(
        f"{what} has no memory left{said}",
        hint="free memory, or take less of it: a lower engine_batch, a smaller model, fewer rows "
        "in a statement; finished answers are kept, so that it goes on when it is run again",
    )


@contextmanager
def worded_failures() -> Iterator[None]:
    """Word what an engine raises that is no error of this product.

    Raises:
        EngineError: The engine failed.
    """
    try:
        yield
    except MeldError:
        raise
    except (RuntimeError, ValueError, LookupError, TypeError, OSError, MemoryError) as error:
        if is_out_of_memory(error):
            raise no_memory("the engine", error) from error
        raise EngineError(
            f"the engine failed: {type(error).__name__}: {error}",
            hint="finished answers are kept: run it again; if it fails on the same row, leave that "
            "out, or ask another tier about it",
        ) from error
