"""The engine that only counts: how many tokens a prompt has, and whether there is room for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.reads import prepare_jobs
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.engine.transformers import load_tokenizer
from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.tasks.base import Completion, Prompt

COUNTED = "counted: an estimate does not ask the language model"
"""Why a prompt that an engine would have answered has no completion."""


class CountingBackend:
    """Implements `meld_duckdb.engine.backend.Backend` without a model, by its tokenizer alone.

    Prompts are rendered and refused as the real engines do it; none is answered. Not safe for
    threads.

    Args:
        model_path: Directory of the language model.
        digest: Identity of the engine it stands for.
        max_prompt_tokens: See `TransformersBackend`.
        positions: Most tokens of a prompt and its answer; None for no limit.

    Raises:
        ArtefactCorrupt: The directory holds no tokenizer.
        EngineUnavailable: transformers is not installed.
    """

    def __init__(
        self, model_path: Path, digest: str, max_prompt_tokens: int, positions: int | None
    ) -> None:
        self.digest = digest
        self._renderer = Renderer(load_tokenizer(model_path))
        self._max_prompt_tokens = max_prompt_tokens
        self._positions = positions

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Count the tokens of all prompts; those that are too long are refused."""
        jobs, refused = prepare_jobs(
            self._renderer, prompts, self._max_prompt_tokens, self._positions
        )
        if refused:
            yield refused
        counted = [
            (job.position, Completion(None, prompt_tokens=job.n_tokens, error=COUNTED))
            for job in jobs
        ]
        if counted:
            yield counted


def model_positions(path: Path) -> int | None:
    """Most tokens of a sequence of a model; None where its configuration names no limit.

    Raises:
        ArtefactCorrupt: The configuration cannot be read.
    """
    try:
        found = safe_json.read(path / "config.json").get("max_position_embeddings")
        return int(found) if found else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtefactCorrupt(f"{path / 'config.json'} cannot be read: {error}") from error
