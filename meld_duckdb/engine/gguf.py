"""Turn a GGUF file into a Hugging Face model directory, in a process of its own.

`meld_duckdb.models` runs `main` in a child process: the conversion needs twice the model's memory
and has transformers draw progress bars, neither of which belongs into the caller's process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

STEPS = ("loading libraries", "reading the tokenizer", "dequantising", "writing safetensors")
"""What `main` announces on standard output, one line each, before it starts the step."""


def convert(source: Path, target: Path) -> None:
    """Dequantise a Llama GGUF to float32 safetensors with its tokenizer and chat template.

    The state dict goes into a fresh `LlamaForCausalLM` without ``quantization_config``, because
    transformers would otherwise refuse to load the saved directory as an ordinary model.

    Args:
        source: The GGUF file.
        target: An existing, empty directory.
    """
    _announce(0)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    _announce(1)
    folder, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
    _announce(2)
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, local_files_only=True, dtype=torch.float32
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    _announce(3)
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _drop(target / "tokenizer_config.json", "is_local", "local_files_only")
    _drop(target / "config.json", "_model_name_or_path", "_name_or_path")


def main() -> None:
    """Run `convert` on the last two command line arguments."""
    convert(Path(sys.argv[-2]), Path(sys.argv[-1]))


def _announce(step: int) -> None:
    sys.stdout.write(f"{STEPS[step]}\n")
    sys.stdout.flush()


def _drop(path: Path, *keys: str) -> None:
    content = json.loads(path.read_text("utf-8"))
    kept = {key: value for key, value in content.items() if key not in keys}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")
