"""Baselines over the cells of a table: rare values, the nearest common value, dependent columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meld_duckdb.evaluate.baselines import at_threshold, given, said
from meld_duckdb.evaluate.case import Baseline, Reply
from meld_duckdb.evaluate.metrics import FloatArray

Row = Mapping[str, Any]
Cell = tuple[int, str]

_COMMON = 300
_LEAST_GROUP = 3


def error_baselines(
    rows: Sequence[Row], taught: Sequence[Cell], wrong: Sequence[bool], asked: Sequence[Cell]
) -> dict[str, Baseline]:
    """Baselines of error detection; ``rows`` is the dirty table."""
    return {
        "all correct": lambda: said([False] * len(asked)),
        "rare value": lambda: said(_rare(rows, taught, wrong, asked)),
    }


def _counts(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    return {c: Counter(str(r[c]) for r in rows) for c in (rows[0] if rows else {})}


def _rare(
    rows: Sequence[Row], taught: Sequence[Cell], wrong: Sequence[bool], asked: Sequence[Cell]
) -> list[bool]:
    """Values that stand in few rows are wrong; how few is learned from the labels."""
    counts = _counts(rows)

    def rarity(cells: Sequence[Cell]) -> FloatArray:
        return np.array([-counts[c][str(rows[i][c])] for i, c in cells], dtype=np.float64)

    flags: list[bool] = at_threshold(rarity(asked), rarity(taught), wrong).tolist()
    return flags


def repair_baselines(
    rows: Sequence[Row], taught: Sequence[Cell], wrong: Sequence[bool], asked: Sequence[Cell]
) -> dict[str, Baseline]:
    """Baselines of repair; None as a value leaves the cell as it is."""
    return {
        "rare value to nearest common": lambda: _to_common(rows, taught, wrong, asked),
        "dependent column, majority": lambda: _by_dependency(rows, asked),
    }


def _to_common(
    rows: Sequence[Row], taught: Sequence[Cell], wrong: Sequence[bool], asked: Sequence[Cell]
) -> list[Reply]:
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    common = {c: [v for v, n in k.most_common(_COMMON) if n > 1] for c, k in _counts(rows).items()}
    memory: dict[tuple[str, str], str | None] = {}
    found: list[str | None] = []
    for (i, c), flagged in zip(asked, _rare(rows, taught, wrong, asked), strict=True):
        value = str(rows[i][c])
        if not flagged:
            found.append(None)
            continue
        if (c, value) not in memory:
            others = [v for v in common[c] if v != value]
            best = process.extractOne(value, others, scorer=Levenshtein.normalized_similarity)
            memory[(c, value)] = best[0] if best is not None and best[1] > 0 else None
        found.append(memory[(c, value)])
    return given(found)


def _by_dependency(rows: Sequence[Row], asked: Sequence[Cell]) -> list[Reply]:
    """Every cell gets the majority of the rows that agree in the column that determines it best."""
    rules = {c: _rule(rows, c) for c in dict.fromkeys(c for _, c in asked)}
    found: list[str | None] = []
    for i, c in asked:
        other, majority = rules[c]
        value = majority.get(str(rows[i][other])) if other is not None else None
        found.append(value if value != str(rows[i][c]) else None)
    return given(found)


def _rule(rows: Sequence[Row], column: str) -> tuple[str | None, dict[str, str]]:
    """The best determining column and the majority value of each of its large groups."""
    best: tuple[float, str | None, dict[str, str]] = (0.0, None, {})
    for other in rows[0]:
        if other == column:
            continue
        groups: dict[str, Counter[str]] = {}
        for row in rows:
            if row[other]:
                groups.setdefault(str(row[other]), Counter())[str(row[column])] += 1
        top = {g: k.most_common(1)[0] for g, k in groups.items() if k.total() >= _LEAST_GROUP}
        covered = sum(groups[g].total() for g in top)
        agree = sum(n for _, n in top.values())
        score = agree / covered * min(1.0, 2 * covered / len(rows)) if covered else 0.0
        if score > best[0]:
            majority = {g: v for g, (v, n) in top.items() if 2 * n > groups[g].total()}
            best = (score, other, majority)
    return best[1], best[2]
