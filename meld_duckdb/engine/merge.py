"""Merge LoRA adapters of one base model into one adapter, exactly, with numpy alone.

    weights w, scales s:   w1 s1 B1 A1 + w2 s2 B2 A2  =  [B1 B2] [w1 s1 A1]
                                                                 [w2 s2 A2]

The A matrices are scaled and stacked, the B matrices stand side by side, and the rank is the sum of
the ranks. Where another rank is asked for, the product is cut to it by singular values, which is
the nearest matrix of that rank; QR of both factors keeps that as small as the sum of the ranks.

Paper: MELD §4.4 merges the top-k experts into one adapter; PEFT calls the two ways ``cat`` and
``svd``. Its ``linear`` adds A and B separately, which is not the weighted sum of the products.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.engine.adapters import (
    LAYER,
    PREFIX,
    Array,
    check_kind,
    files_digest,
    lora_config,
    read_card,
    read_config,
    read_weights,
    write_adapter,
)
from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, InputError
from meld_duckdb.records import digest

VERSION = 1
"""Raised whenever the same parts could give another adapter."""

Part = tuple[Path, float]
"""An adapter directory and its weight."""


@dataclass(frozen=True, slots=True)
class _Factors:
    """One adapter: per layer (A scaled by weight and scale, B), and what it was trained on."""

    digest: str
    weight: float
    base: str | None
    base_digest: str | None
    layers: dict[str, tuple[Array, Array]]


def merge_adapters(parts: Sequence[Part], out: Path, rank: int | None = None) -> None:
    """Write the weighted sum of adapters into a directory; equal parts give equal bytes.

    The order of the parts does not matter, ranks and layers may differ. Tensors are stored in
    float16 where that loses nothing, else in float32.

    Args:
        parts: Adapter directories and weights; a part of weight 0 counts for nothing.
        out: The directory to write into; made if it is not there.
        rank: Cut the sum to this rank; None keeps it exact.

    Raises:
        InputError: There is nothing to merge, or a weight or the rank makes no sense.
        ArtefactMissing: A file of a part is not there.
        ArtefactCorrupt: A part is damaged.
        ArtefactIncompatible: A part is more than a LoRA on linear layers, or the parts belong to
            different base models.
    """
    check_parts(parts, rank)
    factors = sorted(
        (_read(path, weight) for path, weight in parts if weight),
        key=lambda part: (part.digest, part.weight),
    )
    _check_bases(factors)
    layers = {
        name: _join([part.layers[name] for part in factors if name in part.layers], name)
        for name in sorted({name for part in factors for name in part.layers})
    }
    if rank is not None:
        layers = {name: _cut(a, b, rank) for name, (a, b) in layers.items()}
    total = max(len(a) for a, _ in layers.values())
    tensors: dict[str, Array] = {}
    for name, (a, b) in layers.items():
        missing = total - len(a)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = _narrow(np.pad(a, ((0, missing), (0, 0))))
        tensors[f"{PREFIX}{name}.lora_B.weight"] = _narrow(np.pad(b, ((0, 0), (0, missing))))
    base = next((part.base for part in factors if part.base), None)
    out.mkdir(parents=True, exist_ok=True)
    card = {
        "base": next((part.base_digest for part in factors if part.base_digest), None),
        "merged": [{"weights": part.digest, "weight": part.weight} for part in factors],
        "rank": rank,
        "version": VERSION,
    }
    write_adapter(out, lora_config(total, total, layers, base), tensors, card)


def parts_digest(parts: Sequence[Part], rank: int | None = None) -> str:
    """Identity of what `merge_adapters` would write, in whatever order the parts come.

    Raises:
        InputError: There is nothing to merge, or a weight or the rank makes no sense.
        ArtefactMissing: A file of a part is not there.
    """
    check_parts(parts, rank)
    said = sorted(f"{files_digest(path)} {float(weight)!r}" for path, weight in parts if weight)
    return digest("merged", str(VERSION), str(rank), *said)


def check_parts(parts: Sequence[Part], rank: int | None) -> None:
    """Refuse weights and ranks that make no sense.

    Raises:
        InputError: There is nothing to merge, or a weight or the rank makes no sense.
    """
    wrong = [weight for _, weight in parts if not math.isfinite(weight)]
    if wrong:
        raise InputError(f"the weight of an adapter is {wrong[0]}, expected a finite number")
    if not any(weight for _, weight in parts):
        raise InputError(
            f"nothing to merge: got {len(parts)} adapters, expected one or more with a weight that "
            "is not 0"
        )
    if rank is not None and rank < 1:
        raise InputError(f"the rank of a merged adapter is {rank}, expected 1 or more")


def _read(path: Path, weight: float) -> _Factors:
    config, card = read_config(path), read_card(path)
    check_kind(path, config)
    halves: dict[str, dict[str, Array]] = {}
    for name, tensor in read_weights(path).items():
        found = LAYER.fullmatch(name)
        if found is None or tensor.ndim != 2:
            raise ArtefactIncompatible(
                f"{path} holds {name} of shape {list(tensor.shape)}, expected A and B matrices of "
                "linear layers only",
                hint="train it without biases, embeddings, DoRA and modules to save",
            )
        halves.setdefault(found[1], {})[found[2]] = tensor
    layers = {}
    for name, pair in halves.items():
        if pair.keys() != {"A", "B"} or len(pair["A"]) != pair["B"].shape[1]:
            shapes = {letter: list(tensor.shape) for letter, tensor in pair.items()}
            raise ArtefactCorrupt(
                f"{path} has {shapes} for {name}, expected A of [rank, in] and B of [out, rank]"
            )
        a, b = (pair[letter].astype(np.float64) for letter in "AB")
        layers[name] = (a * (weight * _scale(config, name, len(a))), b)
    if not layers:
        raise ArtefactCorrupt(f"{path} is empty: no layer has an A and a B matrix")
    return _Factors(
        files_digest(path),
        float(weight),
        config.get("base_model_name_or_path"),
        card.get("base"),
        layers,
    )


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What a layer multiplies B A by: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_bases(factors: Sequence[_Factors]) -> None:
    """Refuse parts of different base models: by digest where cards name it, else by name."""
    digests = {part.base_digest for part in factors if part.base_digest}
    names = {Path(part.base).name.lower() for part in factors if part.base}
    known = all(part.base_digest for part in factors)
    if len(digests) > 1 or (len(names) > 1 and not known):
        shown = ", ".join(sorted(digests if len(digests) > 1 else names))
        raise ArtefactIncompatible(
            f"the adapters belong to different base models: got {shown}, expected one",
            hint="merge adapters that were trained on the same model",
        )


def _join(pairs: Sequence[tuple[Array, Array]], name: str) -> tuple[Array, Array]:
    shapes = {(a.shape[1], b.shape[0]) for a, b in pairs}
    if len(shapes) > 1:
        raise ArtefactIncompatible(
            f"the adapters differ in the (input, output) size of {name}: got {sorted(shapes)}, "
            "expected one",
            hint="merge adapters that were trained on the same model",
        )
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs], axis=1)


def _cut(a: Array, b: Array, rank: int) -> tuple[Array, Array]:
    """The nearest product of that rank: singular values of B A through the QR of both."""
    if len(a) <= rank:
        return a, b
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    root = np.sqrt(values[:rank])
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    signs[signs == 0] = 1.0  # a singular vector is known up to its sign only
    return (signs * root)[:, None] * (right @ q_a.T), q_b @ (left * (signs * root))


def _narrow(values: Array) -> Array:
    """In float16 where that is exact, else in float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float64), values) else values.astype(np.float32)
