"""Scripted models in the actors: Ray calls `patch` in each of its processes before any work."""

from __future__ import annotations

import time
from pathlib import Path

from meld_duckdb.planner import loaded
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import HashingEncoder, ScriptedBackend, first_choice


def script(prompt: Prompt) -> Completion:
    if "fail-prompt" in prompt.question:
        return Completion(None, error="engine: this prompt fails")
    if "slow-prompt" in prompt.question:
        time.sleep(0.02)
    return first_choice(prompt)


def patch() -> None:
    kind = loaded.BackendKind(lambda *given: "scripted", lambda *given: ScriptedBackend(script))
    loaded.BACKENDS["transformers"] = kind
    loaded.models.locate = lambda *arguments: Path("/")  # type: ignore[assignment]
    loaded.models.model_digest = lambda path: "scripted"  # type: ignore[assignment]
    loaded.Encoder = lambda *arguments, **options: HashingEncoder()  # type: ignore[assignment,misc]
