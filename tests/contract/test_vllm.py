"""What only vLLM has: places for adapters, and a device that may be too small."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from meld_duckdb.engine.adapters import Adapter, open_adapter
from meld_duckdb.engine.vllm import VllmBackend
from meld_duckdb.errors import EngineRejected, EngineUnavailable
from meld_duckdb.tasks.base import Prompt
from tests.contract.conftest import Makers
from tests.contract.engines import MOST_ADAPTERS
from tests.unit.tiny_adapter import save_random_adapter

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vllm is not installed; make test-vllm installs it",
    ),
    pytest.mark.filterwarnings("ignore"),
]
PROMPTS = [Prompt("Which?", (), "sony", ("yes", "no"))]


def test_adapters_beyond_the_places_go_the_oldest_first(
    made: Makers, adapters: list[Adapter]
) -> None:
    engine = made["vllm"]
    assert isinstance(engine.backend, VllmBackend)
    for adapter in (*adapters, adapters[1]):
        engine.answers(PROMPTS, adapter)
    assert engine.backend.adapters == (adapters[2].name, adapters[1].name)
    assert len(engine.backend.adapters) == MOST_ADAPTERS


def test_an_adapter_of_a_larger_rank_than_there_are_places_for_is_refused(
    made: Makers, model_path: Path, tmp_path: Path
) -> None:
    large = open_adapter(save_random_adapter(model_path, tmp_path / "large", rank=16))
    with pytest.raises(EngineRejected, match="has rank 16, the engine has places for 8") as caught:
        made["vllm"].answers(PROMPTS, large)
    assert "meld engine restart" in str(caught.value)
    assert made["vllm"].answers(PROMPTS)[0].error is None


def test_a_device_that_is_too_small_is_refused_before_anything_starts(model_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="vLLM cannot hold") as caught:
        VllmBackend(model_path, device="cpu", memory_percent=1)
    assert "vllm_memory_percent" in str(caught.value.hint)
