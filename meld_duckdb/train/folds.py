"""Parts of the labels for cross-fitting: labels of the same records always fall into one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from meld_duckdb.tasks.base import Demonstration, Query
from meld_duckdb.train.stack import IntArray

_LARGEST = 0.4
"""Share of the labels above which those that hang together are one part no more."""


def groups_of(queries: Sequence[Query]) -> IntArray:
    """Number the groups of questions that share a record, directly or over others, [n].

    Where nearly everything hangs together (many labels of a small table) only questions about the
    same records in the same order are one group.
    """
    joined = _connected([[r.digest for r in query.records] for query in queries])
    if len(queries) and max(Counter(joined).values()) > max(1, _LARGEST * len(queries)):
        joined = _connected([["/".join(r.digest for r in query.records)] for query in queries])
    return np.array(joined, dtype=np.int64)


def _connected(members: Sequence[Sequence[str]]) -> list[int]:
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in members:
        for name in names[1:]:
            parent[root(name)] = root(names[0])
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(names[0]), len(numbers)) for names in members]


def draw_folds(groups: IntArray, answers: Sequence[str] | None, folds: int, seed: int) -> IntArray:
    """Draw the fold of each question, [n]: whole groups, answers spread evenly.

    Args:
        groups: Group of each question.
        answers: Its answer, where there are few different ones; None if that does not matter.
        folds: How many, at most.
        seed: Of the order in which groups of equal size are dealt out.
    """
    rng = np.random.default_rng(seed)
    kinds = sorted(set(answers)) if answers is not None else [""]
    said = np.array([kinds.index(a) for a in answers] if answers is not None else [0] * len(groups))
    names = rng.permutation(np.unique(groups))
    counts = {
        int(g): np.bincount(said[groups == g], minlength=len(kinds)).astype(float) for g in names
    }
    total = sum(counts.values(), np.zeros(len(kinds)))
    # The rarest answer counts most: groups that hold it are dealt out first, and evenly.
    weight = 1.0 / np.maximum(total, 1.0)
    order = sorted(names.tolist(), key=lambda g: -float((counts[g] * weight).max()))
    loads = np.zeros((min(folds, max(1, len(names))), len(kinds)))
    fold_of: dict[int, int] = {}
    for group in order:
        cost = (((loads + counts[group]) * weight) ** 2).sum(axis=1) - ((loads * weight) ** 2).sum(
            axis=1
        )
        best = int(np.argmin(cost))
        loads[best] += counts[group]
        fold_of[group] = best
    return np.array([fold_of[int(g)] for g in groups], dtype=np.int64)


def without(labels: Sequence[Demonstration], hidden: Collection[str]) -> list[Demonstration]:
    """Labels whose records, by digest, are not among the hidden ones."""
    return [d for d in labels if not any(r.digest in hidden for r in d.query.records)]
