"""Two large tables with known matches, made of real rows by seeded recombination and corruption.

A row's title, and the rest of it, come from different real rows of one public table; half of the titles are
spliced from two. So a million different rows come about whose words are as frequent as in life, and
in which many rows share a title or everything but the title. Seven tenths of the left rows have a
corrupted copy in the right table: one to three faults out of typing errors, words dropped, swapped
or abbreviated, columns emptied or swapped.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("title", "maker", "kind", "code", "price")
SHARE = 0.7
"""Left rows that have a match."""

_SOURCES: Mapping[str, Sequence[str | None]] = {
    "dblp_scholar": ("title", "authors", "venue", None, "year"),
    "walmart_amazon": ("title", "brand", "category", "modelno", "price"),
    "amazon_google": ("title", "manufacturer", None, None, "price"),
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Row = list[str | None]


def real_rows(data: Path) -> list[list[Row]]:
    """Rows of each public table."""
    sources = []
    for name, columns in _SOURCES.items():
        table = pq.read_table(data / "EM" / name / "tableB.parquet").to_pylist()
        rows = [[_text(line[c]) if c else None for c in columns] for line in table]
        sources.append([row for row in rows if row[0]])
    return sources


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _recombined(sources: list[list[Row]], weights: list[int], rng: random.Random) -> Row:
    rows = rng.choices(sources, weights)[0]
    title, rest = str(rng.choice(rows)[0]), rng.choice(rows)
    if rng.random() < 0.5:
        words, others = title.split(), str(rng.choice(rows)[0]).split()
        title = " ".join(words[: (len(words) + 1) // 2] + others[len(others) // 2 :])
    return [title, *rest[1:]]


def corrupt(row: Row, rng: random.Random) -> Row:
    """A copy of a row with one to three faults."""
    found = list(row)
    for _ in range(rng.randint(1, 3)):
        fault = rng.randrange(6)
        filled = [i for i, value in enumerate(found) if value]
        at = 0 if found[0] and rng.random() < 0.6 else rng.choice(filled)
        words = str(found[at]).split()
        if fault == 0:
            found[at] = _mistype(str(found[at]), rng)
        elif fault in {1, 2} and len(words) > 2:
            i = rng.randrange(len(words) - 1)
            words[i : i + 2] = words[i + 1 : i + 2] if fault == 1 else words[i : i + 2][::-1]
            found[at] = " ".join(words)
        elif fault == 3 and len(filled) > 2:
            found[rng.choice(filled[1:])] = None
        elif fault == 4 and len(filled) > 2:
            i, j = rng.sample(filled[1:], 2)
            found[i], found[j] = found[j], found[i]
        elif fault == 5:
            i = rng.randrange(len(words))
            words[i] = words[i][: rng.randint(1, 4)] + "." if len(words[i]) > 4 else words[i]
            found[at] = " ".join(words)
    return found


def _mistype(text: str, rng: random.Random) -> str:
    i = rng.randrange(len(text))
    letter = rng.choice(_LETTERS) if rng.random() < 0.7 else ""
    return (text[:i] + letter + text[i + rng.randrange(2) :]) or text


def make_tables(data: Path, n_rows: int, seed: int) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Build both tables.

    Returns:
        Left table, right table (``id`` is the position in each), and the position of each left
        row's match in the right table, -1 for none: int64 [n_rows].
    """
    rng = random.Random(seed)
    sources = real_rows(data)
    weights = [len(rows) for rows in sources]
    seen: set[int] = set()
    rows: list[Row] = []
    n_matched = round(n_rows * SHARE)
    while len(rows) < 2 * n_rows - n_matched:
        row = _recombined(sources, weights, rng)
        key = zlib.crc32(repr(row).encode()) << 32 | zlib.adler32(repr(row).encode())
        if key not in seen:
            seen.add(key)
            rows.append(row)
    right = [corrupt(row, rng) for row in rows[:n_matched]] + rows[n_rows:]
    del rows[n_rows:]
    order = np.random.default_rng(seed).permutation(n_rows)
    place = np.empty(n_rows, dtype=np.int64)
    place[order] = np.arange(n_rows)
    truth = np.full(n_rows, -1, dtype=np.int64)
    truth[:n_matched] = place[:n_matched]
    mixed = np.random.default_rng(seed + 1).permutation(n_rows)
    left_table = _table([rows[i] for i in mixed])
    return left_table, _table([right[i] for i in order]), truth[mixed]


def _table(rows: list[Row]) -> pa.Table:
    columns = {name: pa.array([r[i] for r in rows], pa.string()) for i, name in enumerate(COLUMNS)}
    return pa.table({"id": pa.array(range(len(rows)), pa.int64()), **columns})
