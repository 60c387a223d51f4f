"""Engines by their names in the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.transformers import TransformersBackend, engine_digest
from meld_duckdb.settings import Settings


def _open_transformers(path: Path, settings: Settings) -> Backend:
    return TransformersBackend(
        path,
        device=settings.device,
        batch_size=settings.engine_batch,
        max_prompt_tokens=settings.answer.max_prompt_tokens,
    )


@dataclass(frozen=True, slots=True)
class BackendKind:
    """A backend by its two faces: what it is, known without loading, and the thing itself."""

    digest: Callable[[Path, Settings], str]
    open: Callable[[Path, Settings], Backend]


def _transformers_digest(path: Path, settings: Settings) -> str:
    return engine_digest(path, settings.device, settings.answer.max_prompt_tokens)


BACKENDS = {"transformers": BackendKind(_transformers_digest, _open_transformers)}
"""Every backend by its name in the settings."""
