"""LoRA adapters of a language model on disk: directories as PEFT writes them, read without PEFT.

An adapter is ``adapter_config.json`` and ``adapter_model.safetensors``. Those made here also have a
``card.json`` that names their base model and the digest of both files, so that damage and a wrong
base are found before a wrong answer is given. Nothing in a directory is executed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, ArtefactMissing
from meld_duckdb.models import model_digest, sha256
from meld_duckdb.records import digest

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "card.json"

PREFIX = "base_model.model."
"""What PEFT puts before the name of a layer."""

LAYER = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
"""Name of a tensor: the layer and which of the two matrices."""

_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "use_qalora": (False, None),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    # What PEFT imports a module for, or reads a pickle from.
    "megatron_config": (None,),
    "corda_config": (None,),
    "eva_config": (None,),
    "lora_ga_config": (None,),
    "loftq_config": (None, {}),
    "init_lora_weights": (True, False, "gaussian"),
}
"""What a configuration may say for its delta to be ``scale * B @ A`` on linear layers."""

Array = npt.NDArray[Any]

AGAIN = "train it again on this model: meld train --stages experts; or remove its directory"
"""The hint for an adapter that cannot be used."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that a `Backend` can be asked with; see `open_adapter`.

    Attributes:
        name: What it is called, ``@``, and the digest of its content: another content never has
            the same name, so answers and caches may be kept by it.
        path: Its directory.
    """

    name: str
    path: Path

    @property
    def digest(self) -> str:
        """Digest of its content when it was opened."""
        return self.name.rpartition("@")[2]


def open_adapter(path: Path, label: str | None = None) -> Adapter:
    """Name an adapter by its content; loads no model.

    Args:
        path: Its directory.
        label: What to call it, the directory's name by default.

    Raises:
        ArtefactMissing: A file is not there.
        ArtefactCorrupt: Its files are not those that its card speaks of.
    """
    found = files_digest(path)
    expected = read_card(path).get("weights", found)
    if expected != found:
        raise ArtefactCorrupt(
            f"the adapter {path} is damaged: its files have digest {found}, expected {expected}",
            hint=AGAIN,
        )
    return Adapter(f"{label or path.name}@{found}", path)


def files_digest(path: Path) -> str:
    """Identity of configuration and weights, whatever the card says.

    Raises:
        ArtefactMissing: A file is not there.
    """
    parts = []
    for name in (CONFIG, WEIGHTS):
        try:
            parts.append(_file_digest(path.absolute() / name))
        except OSError as error:
            raise ArtefactMissing(
                f"{path / name} cannot be read: {error.strerror or error}", hint=AGAIN
            ) from error
    return digest("adapter/1", *parts)


_SETTLED_NS = 2_000_000_000


def _file_digest(file: Path) -> str:
    """Hash a file, once for as long as it stands unchanged.

    A file written a moment ago is hashed each time: it could be written again within the same tick
    of the file system's clock.
    """
    stat = file.stat()
    if abs(time.time_ns() - stat.st_mtime_ns) < _SETTLED_NS:
        return sha256(file)
    return _kept_digest(file, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=1024)
def _kept_digest(file: Path, stamp: tuple[int, int, int]) -> str:
    return sha256(file)


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of an adapter.

    Raises:
        ArtefactMissing: It is not there.
        ArtefactCorrupt: It is no JSON object.
    """
    return _read_object(path / CONFIG)


def check_kind(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose effect is more than a sum of B A products.

    Raises:
        ArtefactIncompatible: It is.
    """
    for field, accepted in _EXPECTED.items():
        got = config.get(field, accepted[0])
        if got not in accepted:
            raise ArtefactIncompatible(
                f"{path / CONFIG} has {field} = {got!r}, expected {accepted[0]!r}: only LoRA on "
                "linear layers can be merged, and taken off a model without a trace",
                hint=f"train it with {field} = {accepted[0]!r}",
            )


def check_loadable(path: Path) -> None:
    """Refuse an adapter that PEFT would not load as plain numbers.

    Raises:
        ArtefactMissing: It has no configuration, or no safetensors, for which PEFT would take a
            pickle.
        ArtefactCorrupt: Its configuration is no JSON object.
        ArtefactIncompatible: It is more than a LoRA on linear layers.
    """
    check_kind(path, read_config(path))
    if not (path / WEIGHTS).is_file():
        raise ArtefactMissing(f"{path / WEIGHTS} is not there", hint=AGAIN)


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of an adapter; an adapter from elsewhere has none, which gives ``{}``.

    Raises:
        ArtefactCorrupt: It is no JSON object.
    """
    return _read_object(path / CARD) if (path / CARD).is_file() else {}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = safe_json.read(file)
    except OSError as error:
        raise ArtefactMissing(
            f"{file} cannot be read: {error.strerror or error}", hint=AGAIN
        ) from error
    except ValueError as error:
        raise ArtefactCorrupt(f"{file} is damaged: {error}", hint=AGAIN) from error
    if not isinstance(found, dict):
        raise ArtefactCorrupt(f"{file} is damaged: no JSON object", hint=AGAIN)
    return found


def check_base(path: Path, model_path: Path) -> None:
    """Refuse an adapter whose card names another base model; a card that names none may pass.

    Raises:
        ArtefactCorrupt: It names another.
    """
    base = read_card(path).get("base")
    if base and base != (own := model_digest(model_path)):
        raise ArtefactCorrupt(
            f"the adapter {path} was trained on the model with digest {base}, not on {model_path} "
            f"with digest {own}",
            hint=AGAIN,
        )


def verify_adapter(adapter: Adapter, model_path: Path) -> None:
    """Refuse an adapter that changed since it was opened, or does not go with the model.

    Raises:
        ArtefactMissing: A file is not there.
        ArtefactCorrupt: It has changed, is damaged, or names another base model.
        ArtefactIncompatible: It is more than a LoRA on linear layers.
    """
    found = files_digest(adapter.path)
    if found != adapter.digest:
        raise ArtefactCorrupt(
            f"the adapter {adapter.path} has changed: its files have digest {found}, expected "
            f"{adapter.digest}",
            hint=AGAIN,
        )
    check_kind(adapter.path, read_config(adapter.path))
    check_base(adapter.path, model_path)


def read_weights(path: Path) -> dict[str, Array]:
    """Read the tensors of an adapter by name; ``bfloat16`` comes as float32, which loses nothing.

    Raises:
        ArtefactMissing: The file is not there.
        ArtefactCorrupt: It is damaged or holds a number format that no adapter has.
    """
    from safetensors import SafetensorError, deserialize

    file = path / WEIGHTS
    try:
        tensors = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
        return {name: _array(tensor) for name, tensor in tensors}
    except OSError as error:
        raise ArtefactMissing(
            f"{file} cannot be read: {error.strerror or error}", hint=AGAIN
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtefactCorrupt(f"{file} is damaged: {error}", hint=AGAIN) from error


_FORMATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _array(tensor: Mapping[str, Any]) -> Array:
    kind = tensor["dtype"]
    if kind not in _FORMATS:
        raise ValueError(f"number format {kind}, expected one of {', '.join(_FORMATS)}")
    found: Array = np.frombuffer(tensor["data"], dtype=_FORMATS[kind]).reshape(tensor["shape"])
    if kind == "BF16":  # the upper half of a float32
        found = (found.astype("<u4") << np.uint32(16)).view("<f4")
    return found


def write_adapter(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    card: Mapping[str, Any],
) -> None:
    """Write configuration, weights and card into a directory that is there; equal bytes for equals.

    The digest of the files is added to the card as ``weights``.
    """
    from safetensors.numpy import save

    weights = save({n: np.ascontiguousarray(t) for n, t in tensors.items()}, {"format": "pt"})
    _write(folder / WEIGHTS, weights)
    _write(folder / CONFIG, _json(dict(sorted(config.items()))))
    _write(folder / CARD, _json({**card, "weights": files_digest(folder)}))


def lora_config(
    rank: int, alpha: int, modules: Iterable[str], base: str | None, dropout: float = 0.0
) -> dict[str, Any]:
    """Configure an adapter of scale ``alpha / rank``; ``modules`` are whole names of layers."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep away the warning of PEFT 0.21 that it calls what transformers 5 has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        yield


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
