"""Every backend, made ready for the same questions."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.openai import OpenAIBackend
from meld_duckdb.engine.openai_wire import Patience
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.settings import Settings, resolve
from meld_duckdb.tasks.base import Completion, Prompt
from tests.contract.stand_in import MODEL, StandIn
from tests.scripted import ScriptedBackend

MOST_TOKENS = 400
MOST_ADAPTERS = 2
RANK = 8
SERVER_START_S = 240.0
SERVER_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}

Ends = list[Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Engine:
    """A backend, and the settings that would open one like it."""

    name: str
    backend: Backend
    settings: Settings

    def answers(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> list[Completion]:
        parts = [pair for part in self.backend.complete(prompts, adapter) for pair in part]
        assert sorted(position for position, _ in parts) == list(range(len(prompts)))
        return [completion for _, completion in sorted(parts, key=lambda pair: pair[0])]


def _settings(name: str, **more: Any) -> Settings:
    given = {"backend": name, "device": "cpu", "max_prompt_tokens": MOST_TOKENS, **more}
    return resolve(given, {})[0]


def _scripted(model_path: Path, ends: Ends) -> Engine:
    return Engine("scripted", ScriptedBackend(), _settings("transformers"))


def _transformers(model_path: Path, ends: Ends) -> Engine:
    backend = TransformersBackend(
        model_path,
        device="cpu",
        batch_size=4,
        max_prompt_tokens=MOST_TOKENS,
        most_adapters=MOST_ADAPTERS,
    )
    return Engine("transformers", backend, _settings("transformers"))


def _openai(model_path: Path, ends: Ends) -> Engine:
    server = StandIn(model_path)
    backend = OpenAIBackend(
        model_path,
        url=server.url,
        model=MODEL,
        concurrency=4,
        max_prompt_tokens=MOST_TOKENS,
        most_adapters=MOST_ADAPTERS,
        patience=Patience(timeout_s=60.0, backoff_s=0.01),
    )
    ends += [backend.close, server.stop]
    return Engine("openai", backend, _settings("openai", openai_url=server.url, openai_model=MODEL))


def _vllm(model_path: Path, ends: Ends) -> Engine:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed; make test-vllm installs it")
    from meld_duckdb.engine.vllm import VllmBackend

    backend = VllmBackend(
        model_path,
        device="cpu",
        batch_size=2,
        max_prompt_tokens=MOST_TOKENS,
        max_rank=RANK,
        most_adapters=MOST_ADAPTERS,
    )
    return Engine("vllm", backend, _settings("vllm"))


def _served(model_path: Path, ends: Ends) -> Engine:
    """The openai backend on the server of ``vllm serve``; that command fails in CPU builds."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed; make test-vllm installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tempfile.TemporaryFile("w+")
    server = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "vllm.entrypoints.openai.api_server",
                "--model",
                str(model_path),
            ),
            *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL),
            *("--dtype", "float32", "--max-model-len", "640", "--enforce-eager"),
            *("--kv-cache-memory-bytes", str(1 << 27), "--max-num-seqs", "32"),
            *("--enable-lora", "--max-loras", str(MOST_ADAPTERS), "--max-lora-rank", str(RANK)),
        ],
        env={**os.environ, **SERVER_ENVIRONMENT},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    ends.extend([lambda: _end(server), log.close])
    url = f"http://127.0.0.1:{port}/v1"
    until = time.monotonic() + SERVER_START_S
    while not _answers(f"{url}/models"):
        if server.poll() is not None or time.monotonic() > until:
            log.seek(0)
            pytest.fail(f"vllm serve did not start:\n{log.read()[-3000:]}")
        time.sleep(0.5)
    backend = OpenAIBackend(
        model_path,
        url=url,
        model=MODEL,
        max_prompt_tokens=MOST_TOKENS,
        most_adapters=MOST_ADAPTERS,
    )
    ends.insert(0, backend.close)
    return Engine("openai", backend, _settings("openai", openai_url=url, openai_model=MODEL))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == HTTPStatus.OK)
    except OSError:
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and the engine process that it started: they are a session of their own."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)


REAL = {"transformers": _transformers, "openai": _openai, "vllm": _vllm, "served": _served}
EVERY = {"scripted": _scripted, **REAL}
