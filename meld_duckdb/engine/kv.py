"""Key-value caches of shared prefixes, and the grouping of prompts that profits from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from meld_duckdb.tasks.base import Prompt

Tokens = tuple[int, ...]
PrefixKey = tuple[str, Tokens]
"""Name of the adapter, empty without one, and the prefix: keys and values depend on both."""

_WORTHWHILE = 16
"""A common beginning of fewer tokens than this is not worth a forward pass of its own."""


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt on its way through the model.

    Attributes:
        position: Its position in the caller's sequence.
        prompt: What was asked.
        prefix: Tokens it shares with others; may be empty.
        own: The rest, never empty.
        firsts: Per choice the tokens that begin it; empty where these cannot tell choices apart.
        adapter: Name of the adapter on the model, empty without one.
        dropped: How many of the prompt's turns were left out to fit.
    """

    position: int
    prompt: Prompt
    prefix: Tokens
    own: Tokens
    firsts: tuple[frozenset[int], ...] = ()
    adapter: str = ""
    dropped: int = 0

    @property
    def key(self) -> PrefixKey:
        """What its prefix is cached under."""
        return self.adapter, self.prefix

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return len(self.prefix) + len(self.own)


class PrefixCache:
    """Least-recently-used keys and values of prefixes, bounded by bytes.

    The newest entry is always kept, whatever its size.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[PrefixKey, list[tuple[Any, Any]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: PrefixKey) -> bool:
        return key in self._entries

    def get(self, key: PrefixKey) -> list[tuple[Any, Any]] | None:
        """Return (keys, values) per layer, [1, heads, tokens, head size] each."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: PrefixKey, layers: list[tuple[Any, Any]]) -> None:
        """Keep a prefix; older ones go until all fit."""
        self._entries[key] = layers
        self._entries.move_to_end(key)
        while len(self._entries) > 1 and self.n_bytes > self._capacity_bytes:
            self._entries.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """Memory held by all entries."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layers in self._entries.values()
            for pair in layers
            for tensor in pair
        )


def group_by_prefix(jobs: Sequence[Job], cached: PrefixCache) -> list[list[Job]]:
    """Group jobs of one adapter so that every group has one prefix.

    Jobs alone with their prefix would each be a batch of one. They are put together under the
    beginning they have in common, usually the instruction, unless their prefix is cached already.
    """
    groups: dict[Tokens, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.prefix, []).append(job)
    alone = [g[0] for g in groups.values() if len(g) == 1 and g[0].key not in cached]
    if len(alone) < 2:
        return list(groups.values())
    for job in alone:
        del groups[job.prefix]
    whole = [job.prefix + job.own for job in alone]
    shared = common_length(min(whole), max(whole))
    shared = min(shared, min(map(len, whole)) - 1)
    if shared < _WORTHWHILE:
        shared = 0
    together = [
        replace(job, prefix=tokens[:shared], own=tokens[shared:])
        for job, tokens in zip(alone, whole, strict=True)
    ]
    groups.setdefault(together[0].prefix, []).extend(together)
    return list(groups.values())


def cache_layers(cache: Any) -> list[tuple[Any, Any]]:
    """Take the tensors out of a transformers ``DynamicCache`` (before 4.54 it had no layers)."""
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))


def common_length(first: Tokens, last: Tokens) -> int:
    """Length of the common beginning; of a set, that of its smallest and largest member."""
    for length, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return length
    return min(len(first), len(last))
