"""Loading the transformers engine: silent, light to import, and clear where it cannot be done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.errors import ArtefactCorrupt, EngineUnavailable
from tests.unit.tiny_llama import save_tiny_llama


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


def test_loading_is_silent_and_restores_the_progress_hook(
    model_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    def hook(factory: Any, args: Any, options: Any) -> Any:
        return factory(*args, **options)

    before = logging.set_tqdm_hook(hook)
    try:
        TransformersBackend(model_path, device="cpu")
        assert logging.set_tqdm_hook(before) is hook
    finally:
        logging.set_tqdm_hook(before)
    assert capfd.readouterr() == ("", "")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactCorrupt, match="cannot be loaded as a language model"):
        TransformersBackend(tmp_path, device="cpu")


def test_truncated_weights_are_refused(model_path: Path, tmp_path: Path) -> None:
    for file in model_path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtefactCorrupt, match="cannot be loaded as a language model"):
        TransformersBackend(tmp_path, device="cpu")


def test_a_missing_library_names_the_command(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EngineUnavailable, match="Hint: pip install torch transformers"):
        TransformersBackend(model_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_missing_gpu_is_named(model_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="PyTorch sees no GPU"):
        TransformersBackend(model_path, device="cuda")


def test_importing_the_engine_imports_nothing_heavy() -> None:
    code = (
        "import sys, meld_duckdb.engine.transformers, meld_duckdb.models;"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
