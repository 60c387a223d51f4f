"""Which rows are worth labelling: those that stand for many others, and those that are in doubt."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence

_TEXT_LIMIT = 200
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")


def shape(text: str | None) -> str:
    """The format of a value: letters run together to ``a``, digits to ``9``; signs are kept."""
    if text is None:
        return ""
    return _DIGITS.sub("9", _LETTERS.sub("a", text[:_TEXT_LIMIT]))[:50]


def choose_rows(signatures: Sequence[Sequence[Hashable]], n: int) -> list[int]:
    """Choose rows that together show as many frequent kinds of cells as possible.

    Greedy weighted cover: a kind of cell counts by the logarithm of how often it occurs, and only
    the first time it is shown; a kind that occurs once stands for nothing else and counts nothing.

    Args:
        signatures: For every row the kinds of its cells.
        n: How many rows to choose.

    Returns:
        Positions in the order chosen, at most ``n``; equally good rows in their own order.
    """
    counts = Counter(kind for row in signatures for kind in set(row))
    shown: set[Hashable] = set()

    def gain(position: int) -> float:
        fresh = (counts[kind] for kind in set(signatures[position]) - shown)
        return math.fsum(math.log(count) for count in fresh)  # exact: the same in any order

    queue = [(-gain(i), i) for i in range(len(signatures))]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < n:
        promised, position = heapq.heappop(queue)
        current = -gain(position)
        if current > promised and queue and current > queue[0][0]:
            heapq.heappush(queue, (current, position))  # worth less since others were chosen
            continue
        chosen.append(position)
        shown.update(signatures[position])
    return chosen


def choose_uncertain(
    probabilities: Sequence[float], cut: float, groups: Sequence[Hashable], n: int
) -> list[int]:
    """Choose items about which most is to be learned: half nearest the cut, half spread evenly.

    The half in doubt moves the decision, the spread half shows how far probabilities can be
    trusted.

    Args:
        probabilities: Of each item.
        cut: Where the answer changes.
        groups: At most one item of a group is chosen while there are others.
        n: How many to choose.

    Returns:
        Positions in the order chosen, at most ``n``.
    """
    order = sorted(range(len(probabilities)), key=lambda i: (probabilities[i], i))
    doubtful = sorted(order, key=lambda i: (abs(probabilities[i] - cut), i))
    n_spread = min(n // 2, len(order))
    step = len(order) / n_spread if n_spread else 1.0
    spread = [order[int((i + 0.5) * step)] for i in range(n_spread)]
    chosen: dict[int, None] = {}
    taken: set[Hashable] = set()
    for i in (*spread, *doubtful):
        if len(chosen) < n and groups[i] not in taken:
            chosen[i] = None
            taken.add(groups[i])
    for i in doubtful:
        if len(chosen) >= n:
            break
        chosen.setdefault(i)
    return list(chosen)
