"""Models fitted to learned labels: made when first needed, kept until the labels change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from meld_duckdb.tasks.base import Demonstration

MOST_LABELS = 30_000
"""Labels that something is fitted to, the first ones: a fit takes seconds per ten thousand."""

_KEPT = 8
_T = TypeVar("_T")

Key = tuple[str, ...]


class Fits(Generic[_T]):
    """One fit per key, for example per table context. Safe for threads: one fits, others wait.

    Args:
        labels: All labels of the task; the same sequence object as long as they are unchanged.
        build: Fits to the labels that belong to a key; may give None where they are too few.
    """

    def __init__(
        self,
        labels: Callable[[], Sequence[Demonstration]],
        build: Callable[[Key, Sequence[Demonstration]], _T],
    ) -> None:
        self._labels = labels
        self._build = build
        self._fitted_to: Sequence[Demonstration] = ()
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, _T] = OrderedDict()

    def get(self, key: Key) -> _T:
        """The fit of a key, to no label at all where there are none."""
        labels = self._labels()
        with self._lock:
            if labels is not self._fitted_to and (labels or self._fitted_to):
                self._fitted_to = labels
                self._kept.clear()
            if key not in self._kept:
                self._kept[key] = self._build(key, labels)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]
