"""Draw few-shot labels as the benchmark does: stratified, seeded, in file order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from meld_duckdb.errors import InputError

SHIPPED_SEED = 42
"""Seed of the few-shot files that ship with the data."""

ALL = -1
"""The number of labels that stands for every training row."""


ACTIVE = "active"
"""The protocol in which the product says which tuples it wants labelled."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which labels are given to the product.

    Attributes:
        labels: How many; `ALL` for all training rows, None for the data set's own few-shot file.
        seed: Of the draw and of the bootstrap.
        protocol: ``"stratified"``; of entity matching also ``"meld"``, of error detection and
            repair also `ACTIVE`.
        limit: Most test rows asked about, drawn with the seed; None for all.
        lenient: Whether the papers' lenient metrics are added.
        options: Further options of every call, as SQL literals by name.
    """

    labels: int | None = None
    seed: int = SHIPPED_SEED
    protocol: str = "stratified"
    limit: int | None = None
    lenient: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def shipped(self) -> bool:
        """Whether the few-shot file of a data set is what was asked for."""
        return self.labels is None and self.seed == SHIPPED_SEED

    def count(self, default: int, n_rows: int) -> int:
        """How many labels to draw from ``n_rows``, where ``default`` is the usual number."""
        wanted = default if self.labels is None else self.labels
        return n_rows if wanted == ALL else min(wanted, n_rows)


def draw_stratified(groups: Sequence[str], n: int, seed: int) -> list[int]:
    """Draw ``n`` positions, every group in its share, at least one each where ``n`` allows.

    Shares are by largest remainder; positions of each group, in order, are shuffled with one
    generator, groups in sorted order, and the first ones taken.

    Returns:
        Positions in ascending order.
    """
    if n <= 0:
        return []
    if n >= len(groups):
        return list(range(len(groups)))
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    names = sorted(members)
    quotas = _quotas([len(members[name]) for name in names], n)
    generator = random.Random(seed)
    chosen: list[int] = []
    for name, quota in zip(names, quotas, strict=True):
        shuffled = members[name][:]
        generator.shuffle(shuffled)
        chosen.extend(shuffled[:quota])
    return sorted(chosen)


def _quotas(sizes: Sequence[int], n: int) -> list[int]:
    total = sum(sizes)
    exact = [n * size / total for size in sizes]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (quotas[i] - exact[i], i))
    for i in by_remainder[: n - sum(quotas)]:
        quotas[i] += 1
    if n >= len(sizes):
        for i in range(len(sizes)):
            while quotas[i] == 0:
                largest = max(range(len(sizes)), key=lambda j: quotas[j])
                quotas[largest] -= 1
                quotas[i] += 1
    return quotas


def draw_plain(n_rows: int, n: int, seed: int) -> list[int]:
    """Draw ``n`` of ``n_rows`` positions, ascending."""
    if n >= n_rows:
        return list(range(n_rows))
    return sorted(random.Random(seed).sample(range(n_rows), n))


def positions_of(named: Sequence[object], among: Sequence[object], where: str) -> list[int]:
    """Positions of the rows that a few-shot file names, ascending.

    Raises:
        InputError: A named row is not among the training rows: it may be a test row.
    """
    at = {key: i for i, key in enumerate(among)}
    missing = [key for key in named if key not in at]
    if missing:
        raise InputError(f"the few-shot file of {where} names {missing[0]!r}, no training row")
    return sorted(at[key] for key in dict.fromkeys(named))
