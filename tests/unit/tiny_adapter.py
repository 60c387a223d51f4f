"""LoRA adapters with random weights on the tiny Llama, written by PEFT itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meld_duckdb.engine.adapters import files_digest

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_random_adapter(
    model_path: Path,
    folder: Path,
    *,
    rank: int = 4,
    alpha: int = 8,
    modules: Sequence[str] = ALL,
    seed: int = 1,
    half: bool = False,
    **options: Any,
) -> Path:
    """Write an adapter as ``PeftModel.save_pretrained`` does, B not zero; gives the folder."""
    import peft
    import torch
    from transformers import LlamaForCausalLM

    from meld_duckdb.engine.adapters import quiet_peft

    model = LlamaForCausalLM.from_pretrained(model_path, local_files_only=True)
    with torch.random.fork_rng(), quiet_peft():
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(modules),
            task_type="CAUSAL_LM",
            **options,
        )
        adapted = peft.get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
            if half and "lora_" in name:
                parameter.data = parameter.data.half()
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
    assert files_digest(folder)
    return folder
