"""Call a causal language model of transformers, whatever its version calls the arguments."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from meld_duckdb import interrupt

_CACHE_NAMES = ("cache", "past_key_values")  # the first since transformers 5.24
_KEEP_NAMES = ("logits_to_keep", "num_logits_to_keep")  # the first since transformers 4.48


class Forward:
    """The forward pass of one model.

    Args:
        model: The causal language model; an adapter may be on it.
        new_cache: Makes an empty key-value cache of transformers.
    """

    def __init__(self, model: Any, new_cache: Callable[[], Any]) -> None:
        accepted = inspect.signature(model.forward).parameters
        self._model = model
        self._cache_name = _first_of(_CACHE_NAMES, accepted) or _CACHE_NAMES[-1]
        self._keep_name = _first_of(_KEEP_NAMES, accepted)
        self.new_cache = new_cache

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self._model.device

    def __call__(self, ids: Any, mask: Any, cache: Any = None, *, keep: int | None = None) -> Any:
        """Compute logits.

        Args:
            ids: Token ids, [n, length].
            mask: What is seen, [n, length of the cache + length]; zeros are padding on the left.
            cache: Keys and values of what comes before; those of ``ids`` are added to it.
            keep: How many last positions are wanted, None for all.

        Returns:
            Logits [n, positions, vocabulary].
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options: dict[str, Any] = {self._cache_name: cache}
        if keep is not None and self._keep_name is not None:
            options[self._keep_name] = keep
        logits = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None,
            **options,
        ).logits
        return logits if keep is None else logits[:, -keep:]

    def cache_of(self, layers: Sequence[tuple[Any, Any]], n_rows: int) -> Any:
        """Make a cache of keys and values, one row of them repeated for ``n_rows``."""
        cache = self.new_cache()
        for number, (keys, values) in enumerate(layers):
            size = (n_rows, -1, -1, -1)
            cache.update(keys.expand(size), values.expand(size), number)
        return cache


def look_between_layers(model: Any) -> None:
    """Have a model look for an interruption before each of its layers: a batch takes seconds."""
    for module in model.modules():
        if type(module).__name__ == "ModuleList":
            for layer in module:
                layer.register_forward_pre_hook(_look)


def _look(layer: Any, arguments: Any) -> None:
    interrupt.check()


def _first_of(names: Sequence[str], accepted: Any) -> str | None:
    return next((name for name in names if name in accepted), None)
