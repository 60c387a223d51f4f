"""Engines by their names in the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb.engine.adapters import CONFIG, read_card, read_config
from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.counting import CountingBackend, model_positions
from meld_duckdb.engine.openai import OpenAIBackend, openai_digest
from meld_duckdb.engine.openai_wire import Patience, is_loopback
from meld_duckdb.engine.transformers import TransformersBackend, engine_digest
from meld_duckdb.engine.vllm import VllmBackend, vllm_digest
from meld_duckdb.errors import ArtefactError, ConfigError
from meld_duckdb.models import model_digest
from meld_duckdb.settings import Settings, read_key
from meld_duckdb.starter import starter_adapters
from meld_duckdb.workspace import Workspace


def _loading(settings: Settings) -> str:
    return f"loading the model {settings.answer.model} (once a process)"


def _open_counting(path: Path, settings: Settings) -> Backend:
    return CountingBackend(path, "", settings.answer.max_prompt_tokens, model_positions(path))


def _open_counting_for_server(path: Path, settings: Settings) -> Backend:
    return CountingBackend(path, "", settings.answer.max_prompt_tokens, None)


@dataclass(frozen=True, slots=True)
class BackendKind:
    """A backend by its faces: what it is, known without loading, and the thing itself.

    Attributes:
        digest: Its identity.
        open: Makes one.
        opening: What is said before that.
        open_counting: Makes one that counts in its place, for estimates; see `CountingBackend`.
        is_here: Whether its model runs on this machine, so that it may be tried out.
    """

    digest: Callable[[Path, Settings], str]
    open: Callable[[Path, Settings], Backend]
    opening: Callable[[Settings], str] = _loading
    open_counting: Callable[[Path, Settings], Backend] = _open_counting
    is_here: bool = True


def _transformers_digest(path: Path, settings: Settings) -> str:
    return engine_digest(path, settings.device, settings.answer.max_prompt_tokens)


def _open_transformers(path: Path, settings: Settings) -> Backend:
    return TransformersBackend(
        path,
        device=settings.device,
        batch_size=settings.engine_batch,
        max_prompt_tokens=settings.answer.max_prompt_tokens,
    )


def _vllm_digest(path: Path, settings: Settings) -> str:
    return vllm_digest(path, settings.device, settings.answer.max_prompt_tokens)


def _open_vllm(path: Path, settings: Settings) -> Backend:
    return VllmBackend(
        path,
        device=settings.device,
        batch_size=settings.engine_batch,
        max_prompt_tokens=settings.answer.max_prompt_tokens,
        max_rank=largest_rank(settings, path),
        most_adapters=settings.vllm_adapters,
        memory_percent=settings.vllm_memory_percent,
    )


def _openai_digest(path: Path, settings: Settings) -> str:
    return openai_digest(
        path, settings.openai_url, settings.openai_model, settings.answer.max_prompt_tokens
    )


def _open_openai(path: Path, settings: Settings) -> Backend:
    _check_server(settings)
    return OpenAIBackend(
        path,
        url=settings.openai_url,
        model=settings.openai_model,
        key=read_key(settings),
        concurrency=settings.openai_concurrency,
        max_prompt_tokens=settings.answer.max_prompt_tokens,
        most_adapters=settings.vllm_adapters,
        patience=Patience(timeout_s=settings.openai_timeout_s),
    )


def _check_server(settings: Settings) -> None:
    for name in ("openai_url", "openai_model"):
        if getattr(settings, name) == "none":
            raise ConfigError(
                f"backend 'openai' needs the setting {name}",
                hint="openai_url = 'http://HOST:PORT/v1', openai_model = what the server calls it",
            )


def _asking(settings: Settings) -> str:
    _check_server(settings)
    url = settings.openai_url
    said = f"the model {settings.openai_model} is asked at {url}"
    if is_loopback(url):
        return said
    safely = "" if url.startswith("https") else ", unencrypted"
    return f"{said}: prompts with contents of rows leave this machine{safely}"


def largest_rank(settings: Settings, path: Path) -> int:
    """Largest rank that adapters may have together, or one of the starter's alone.

    The starter's answers beside those of the workspace only where experts of any task may.

    Args:
        settings: Names both.
        path: The language model, which the starter may not belong to.

    Returns:
        The rank; 0 where there is no adapter.
    """
    answer = settings.answer
    ranks = _ranks(Workspace(settings.workspace).adapters_path)
    starter = starter_adapters(settings.starter) if answer.experts else None
    alone = [] if starter is None else _ranks(starter, model_digest(path))
    together = [*ranks, *alone] if ranks and answer.expert_tasks == "all" else ranks
    total = sum(sorted(together)[-max(answer.experts, 1) :])
    total = min(total, answer.merged_rank or total)
    return max([total, *alone])


def _ranks(folder: Path, base: str | None = None) -> list[int]:
    """Ranks of the adapters in a directory; of those of one language model, if one is given."""
    ranks = []
    for config in folder.glob(f"*/{CONFIG}"):
        try:
            if base is None or read_card(config.parent).get("base") == base:
                ranks.append(int(read_config(config.parent).get("r", 0)))
        except (ArtefactError, TypeError, ValueError):  # said where it is used
            continue
    return ranks


BACKENDS = {
    "transformers": BackendKind(_transformers_digest, _open_transformers),
    "vllm": BackendKind(_vllm_digest, _open_vllm),
    "openai": BackendKind(
        _openai_digest, _open_openai, _asking, _open_counting_for_server, is_here=False
    ),
}
"""Every backend by its name in the settings."""
