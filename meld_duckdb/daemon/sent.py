"""Which settings a client sends to an engine, and which it keeps to itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from meld_duckdb.models import REGISTRY
from meld_duckdb.settings import AnswerSettings, Settings

OWN = ("on_error", "cache", "max_calls", "max_seconds", "max_pairs", "remote", "remote_contact")
"""Settings, besides those that can change an answer, that every client has its own of."""

COMMON = (
    "backend",
    "device",
    "openai_url",
    "openai_model",
    "starter",
    "model",
    "encoder",
    "max_prompt_tokens",
    "wikidata_url",
    "wikidata_sparql_url",
    "wikipedia_url",
    "snomed_url",
    "snomed_branch",
)
"""Settings that the engine has once: a client that wants others is refused."""

NOT_SENT = {
    "workspace": "the greeting names it beside the settings",
    "model_dir": "models are told apart by name, and those of the engine are where it runs",
    "engine_batch": "how much memory a batch takes is the engine's affair; no answer depends on it",
    "progress": "the client itself shows or drops what the engine says",
    "learn": "the client itself refuses",
    "engine": "it says whether an engine is asked at all",
    "engine_timeout_s": "every call names it",
    "engine_most_mb": "the engine protects itself; the client learns it from the welcome",
    "engine_address": "it says which engine is asked",
    "engine_token_file": "a file of the client; its content goes along with each request",
    "engine_tls_cert": "a file of the client",
    "vllm_memory_percent": "the memory is the engine's",
    "vllm_adapters": "the memory is the engine's",
    "openai_key_file": "the key is the engine's, and secret",
    "openai_key_env": "the key is the engine's, and secret",
    "openai_concurrency": "one limit for all clients",
    "openai_timeout_s": "the client's own limit is engine_timeout_s",
    "log_data": "the log is the engine's: whoever starts it decides",
}
"""Settings that are not sent, and why."""

_BUILT_IN = frozenset({"built-in", "none"})


def sent_settings(settings: Settings) -> dict[str, str | int | bool]:
    """What a client sends: every setting of `COMMON`, of `OWN`, and all that change answers."""
    return dict(_sent(settings))


def _sent(settings: Settings) -> Iterator[tuple[str, str | int | bool]]:
    answer = {field.name for field in fields(AnswerSettings)}
    for name in sorted({*COMMON, *OWN, *answer}):
        yield name, getattr(settings.answer if name in answer else settings, name)


def anchored(settings: Settings) -> Settings:
    """The same settings with absolute paths: they mean the same in another working directory."""
    answer = settings.answer
    return replace(
        settings,
        workspace=settings.workspace.absolute(),
        starter=settings.starter if settings.starter in _BUILT_IN else _absolute(settings.starter),
        answer=replace(answer, model=_absolute(answer.model), encoder=_absolute(answer.encoder)),
    )


def _absolute(name: str) -> str:
    """The path of a directory; a name of the registry, or one that is no directory, as it is."""
    if name in REGISTRY:
        return name
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name
