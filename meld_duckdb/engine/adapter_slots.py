"""Adapters on a running language model: put on, taken off, the ones used last kept in memory.

PEFT replaces the linear layers of the model when the first adapter is loaded. With all adapters
off these layers do nothing but call the layer they replaced, so answers without an adapter are the
same bits before and after. (PEFT also freezes the weights; that is undone, because PyTorch picks
another, differently rounding way to multiply by a frozen matrix.) PEFT is imported by the first
adapter, not earlier.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from meld_duckdb.engine.adapters import (
    AGAIN,
    LAYER,
    Adapter,
    Array,
    quiet_peft,
    read_weights,
    verify_adapter,
)
from meld_duckdb.errors import ArtefactCorrupt, EngineUnavailable


class AdapterSlots:
    """Loads and switches adapters of one model. Not safe for threads.

    Args:
        model: A causal language model of transformers.
        model_path: Its directory.
        most: Adapters kept in memory; the one used longest ago goes first.
    """

    def __init__(self, model: Any, model_path: Path, most: int = 8) -> None:
        self._model = model
        self._model_path = model_path
        self._most = max(1, most)
        self._sizes = {
            name: {"A": module.in_features, "B": module.out_features}
            for name, module in model.named_modules()
            if hasattr(module, "in_features")
        }
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._peft: Any = None
        self._loaded: OrderedDict[str, str] = OrderedDict()  # name -> what PEFT calls it
        self._active: str | None = None
        self._n_loads = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Adapters in memory, the one used longest ago first."""
        return tuple(self._loaded)

    def use(self, adapter: Adapter | None) -> None:
        """Have the model answer with an adapter, or without any.

        Raises:
            ArtefactMissing: A file of the adapter is not there.
            ArtefactCorrupt: It is damaged, or was trained on another model.
            ArtefactIncompatible: It is more than a LoRA on linear layers.
            EngineUnavailable: PEFT is not installed.
        """
        name = None if adapter is None else adapter.name
        if name is not None and name in self._loaded:
            self._loaded.move_to_end(name)
        if name == self._active:
            return
        if adapter is None:
            self._take_off()
            return
        if adapter.name not in self._loaded:
            self._take_off()
            self._load(adapter)
        with quiet_peft():
            if self._active is None:
                self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._loaded[adapter.name], inference_mode=True)
        self._active = adapter.name

    def _take_off(self) -> None:
        if self._peft is not None:
            with quiet_peft():
                self._peft.base_model.disable_adapter_layers()
        self._active = None

    def _load(self, adapter: Adapter) -> None:
        tensors = self._checked(adapter)
        self._n_loads += 1
        slot = f"adapter{self._n_loads}"
        try:
            self._inject(adapter.path, slot, tensors)
        except BaseException:
            self._forget(slot)
            raise
        finally:
            for parameter in self._trainable:
                parameter.requires_grad_(True)
        self._loaded[adapter.name] = slot
        while len(self._loaded) > self._most:
            _, oldest = self._loaded.popitem(last=False)
            self._forget(oldest)

    def _checked(self, adapter: Adapter) -> dict[str, Array]:
        """Read an adapter; refuse one that is damaged or does not go with the model."""
        verify_adapter(adapter, self._model_path)
        tensors = read_weights(adapter.path)
        for name, tensor in tensors.items():
            layer = LAYER.fullmatch(name)
            wanted = self._sizes.get(layer[1], {}).get(layer[2]) if layer else None
            got = tensor.shape[1 if layer and layer[2] == "A" else 0] if tensor.ndim == 2 else None
            if wanted is None or got != wanted:
                shown = "no such layer" if wanted is None else f"size {wanted}"
                raise ArtefactCorrupt(
                    f"the adapter {adapter.path} does not go with {self._model_path}: {name} has "
                    f"shape {list(tensor.shape)}, the model has {shown}",
                    hint=AGAIN,
                )
        return tensors

    def _inject(self, path: Path, slot: str, tensors: dict[str, Array]) -> None:
        try:
            import peft
        except ImportError as error:
            raise EngineUnavailable(
                f"an adapter cannot be loaded: {error}", hint="pip install peft"
            ) from error
        import torch

        with quiet_peft(), torch.random.fork_rng(devices=[]):  # PEFT draws weights to overwrite
            try:
                config = peft.PeftConfig.from_pretrained(str(path))
                config.inference_mode = True
                if self._peft is None:
                    self._peft = peft.PeftModel(
                        self._model, config, slot, autocast_adapter_dtype=False
                    )
                else:
                    self._peft.add_adapter(slot, config, autocast_adapter_dtype=False)
                given = {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
                result = peft.set_peft_model_state_dict(self._peft, given, slot)
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise ArtefactCorrupt(
                    f"{path} cannot be loaded as an adapter: {error}", hint=AGAIN
                ) from error
        absent = [name for name in result.missing_keys if f".{slot}." in name]
        if absent or result.unexpected_keys:
            raise ArtefactCorrupt(
                f"configuration and weights of the adapter {path} do not go together: weights "
                f"missing for {absent[:2]}, unexpected {list(result.unexpected_keys)[:2]}",
                hint=AGAIN,
            )
        self._peft.eval()

    def _forget(self, slot: str) -> None:
        if self._peft is not None and slot in self._peft.peft_config:
            with quiet_peft():
                self._peft.delete_adapter(slot)
