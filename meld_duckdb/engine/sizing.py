"""How much memory a language model takes, and whether a device has it; known without loading.

weights + adapters + keys and values of one prompt + working space  <=  what may be taken
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, EngineUnavailable

WORKING_BYTES = 1 << 30
"""Left for activations and the libraries themselves."""

_LEAST_PROMPT = 256
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_STORED = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes.

    Attributes:
        weights: Bytes of the weights.
        adapters: Bytes of the places for adapters.
        token: Bytes of keys and values of a token.
        positions: Most tokens of a sequence; None for no limit.
    """

    weights: int
    adapters: int
    token: int
    positions: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """What a device has.

    Attributes:
        kind: ``"cpu"`` or ``"cuda"``.
        total: Bytes of its memory.
        free: Bytes nobody uses.
        percent: Share of ``total`` that may be taken.
    """

    kind: str
    total: int
    free: int
    percent: int

    @property
    def allowed(self) -> int:
        """Bytes that may be taken."""
        return min(self.free, self.total * self.percent // 100)


def model_need(path: Path, number_bytes: int, rank: int = 0, adapters: int = 0) -> Need:
    """Estimate what a model takes.

    Args:
        path: A directory written by ``save_pretrained``.
        number_bytes: Bytes of a number as it is loaded.
        rank: Largest rank of an adapter.
        adapters: Places for adapters.

    Raises:
        ArtefactMissing: It has no configuration.
        ArtefactCorrupt: The configuration is damaged or lacks the sizes of the layers.
    """
    config = _read_config(path)
    try:
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        width = int(config.get("head_dim") or hidden // heads)
        inner = int(config.get("intermediate_size") or 4 * hidden)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactCorrupt(
            f"{path / 'config.json'} lacks the sizes of the layers: {error}"
        ) from error
    stored = _STORED.get(str(config.get("dtype") or config.get("torch_dtype")), number_bytes)
    if config.get("quantization_config"):
        stored = number_bytes  # its files are as large as its weights
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    query, keys = heads * width, kv_heads * width
    sides = 2 * (hidden + query) + 2 * (hidden + keys) + 3 * (hidden + inner)
    positions = config.get("max_position_embeddings")
    return Need(
        weights=size * number_bytes // stored,
        adapters=adapters * rank * sides * layers * number_bytes,
        token=2 * layers * keys * number_bytes,
        positions=int(positions) if positions else None,
    )


def memory_of_host() -> tuple[int, int]:
    """Bytes of memory of this machine: (all, free)."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        free = total
    return total, free


def bytes_for_keys(name: str, need: Need, device: Device, tokens: int, answer_tokens: int) -> int:
    """Bytes left for keys and values beside all else.

    Args:
        name: What the model is called in messages.
        need: What it takes.
        device: Where it is to run.
        tokens: Most tokens of a prompt and its answer.
        answer_tokens: How many of them are for the answer.

    Raises:
        EngineUnavailable: Not even one prompt fits; the hint names settings that would.
    """
    fixed = need.weights + need.adapters + WORKING_BYTES
    left = device.allowed - fixed
    if left >= tokens * need.token:
        return left
    raise EngineUnavailable(
        f"vLLM cannot hold {name}: it takes {_gb(fixed + tokens * need.token)} "
        f"(weights {_gb(need.weights)}, adapters {_gb(need.adapters)}, a prompt of {tokens} tokens "
        f"{_gb(tokens * need.token)}, working space {_gb(WORKING_BYTES)}), and may take "
        f"{_gb(device.allowed)} of {device.kind} (free {_gb(device.free)} of {_gb(device.total)}, "
        f"vllm_memory_percent = {device.percent})",
        hint=_what_would_fit(need, device, tokens, answer_tokens),
    )


def _what_would_fit(need: Need, device: Device, tokens: int, answer_tokens: int) -> str:
    fixed = need.weights + need.adapters + WORKING_BYTES
    prompt = tokens * need.token
    if fixed + prompt <= min(device.free, device.total * 95 // 100):
        return f"set vllm_memory_percent to {-(-(fixed + prompt) * 100 // device.total)}"
    fewer = (device.allowed - fixed) // need.token - answer_tokens
    if fewer >= _LEAST_PROMPT:
        return f"set max_prompt_tokens to {fewer} or less"
    if device.allowed >= fixed - need.adapters + prompt:
        return "set vllm_adapters to 1, and merged_rank to 16 or less"
    if device.allowed >= need.weights + WORKING_BYTES // 2 + prompt // 4:
        return "free memory of the device, or set backend to 'transformers'"
    return "set model to a smaller one, or device to one with more memory"


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        found = safe_json.read(file)
    except OSError as error:
        raise ArtefactMissing(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtefactCorrupt(f"{file} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ArtefactCorrupt(f"{file} is damaged: no JSON object")
    return {**found, **(found.get("text_config") or {})}


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


def place_rank(rank: int) -> int:
    """Round a rank up to one that vLLM makes places for; 0 for no adapters."""
    if rank <= 0:
        return 0
    return next((place for place in _RANKS if place >= rank), _RANKS[-1])
