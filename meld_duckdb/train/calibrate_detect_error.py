"""Calibrate error detection on synthetic errors in clean public tables.

No labelled error of a benchmark is used: seeded errors of ten kinds are put into tables that come
from other tasks (entity matching, imputation), as they are and joined with themselves (which gives
the repeated values and dependencies that a table of one row per entity lacks).

    python -m meld_duckdb.train.calibrate_detect_error --data DIR [--out FILE]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.columns import TableProfile
from meld_duckdb.features.detect_error import (
    FEATURES,
    Language,
    context_features,
    record_features,
)
from meld_duckdb.records import make_record
from meld_duckdb.train.calibration import (
    SEED,
    VERSION,
    Row,
    Sample,
    TreeSettings,
    arguments,
    calibrate,
    read_rows,
    write_json,
)

SOURCES: dict[str, tuple[str, ...]] = {
    "abt_buy": ("EM/abt_buy/tableA.parquet", "EM/abt_buy/tableB.parquet"),
    "walmart_amazon": (
        "EM/walmart_amazon/tableA.parquet",
        "EM/walmart_amazon/tableB.parquet",
    ),
    "dblp_scholar": ("EM/dblp_scholar/tableA.parquet", "EM/dblp_scholar/tableB.parquet"),
    "restaurant": ("DI/restaurant/train.parquet",),
}
"""Tables by data set. DI walmart and amazon are the rows of EM walmart_amazon."""
DROPPED = frozenset({"id", "row_id", "city_masked", "city_alias"})
MAX_TABLE = 1000
ROUNDS = 3
MARKERS = ("N/A", "n/a", "nan", "NULL", "none", "-", "?", "unknown")
UNITS = ("kg", " kg", " lbs", " USD", "%", " cm", " mm.", " GB", "h", " pcs")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SETTINGS = TreeSettings()

Change = Callable[[list[Row], int, str, random.Random], str]


def _typo(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    text = table[row][column]
    for _ in range(rng.choice((1, 1, 1, 2))):
        at = rng.randrange(max(1, len(text)))
        kind = rng.randrange(4)
        letter = rng.choice(LETTERS)
        if kind == 0:
            text = text[:at] + letter + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + letter + text[at:]
        elif kind == 2:
            text = text[:at] + text[at + 1 :]
        else:
            text = text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]
    return text


def _swap_in(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    return table[rng.randrange(len(table))][column]


def _marker(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    return rng.choice(MARKERS)


def _blank(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    return ""


def _truncate(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    text = table[row][column]
    return text[: max(1, int(len(text) * rng.uniform(0.3, 0.8)))]


def _shift(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    return table[row][rng.choice([c for c in table[row] if c != column])]


def _merge(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    return f"{table[row][column]} {_shift(table, row, column, rng)}"


def _encoding(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    text = table[row][column]
    at = rng.randrange(max(1, len(text)))
    noise = rng.choice(("\ufffd", "Ã©", "&amp;", "â€™", "&#39;", "\x07"))
    return text[:at] + noise + text[at + rng.randrange(2) :]


def _format(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    text = table[row][column]
    if any(c.isdigit() for c in text) and not any(c.isalpha() for c in text):
        digits = [i for i, c in enumerate(text) if c.isdigit()]
        kind = rng.randrange(4)
        if kind == 0:
            return text + ("0" if "." in text else ".0")
        if kind == 1:
            return rng.choice(("$", "#", "'", "+")) + text
        if kind == 2:
            return "".join(c for c in text if c.isdigit() or c == ".").replace(".", ",")
        at = digits[len(digits) // 2]
        return text[:at] + rng.choice("-/. ") + text[at:]
    return rng.choice((text.upper(), text.title(), text.replace(" ", "_"), text + ".", f'"{text}"'))


def _unit(table: list[Row], row: int, column: str, rng: random.Random) -> str:
    text = table[row][column]
    if text.replace(".", "", 1).isdigit():
        return text + rng.choice(UNITS)
    return _format(table, row, column, rng)


KINDS: tuple[Change, ...] = (
    _typo, _typo, _typo, _swap_in, _swap_in, _marker, _blank, _truncate, _shift, _merge, _encoding,
    _format, _unit,
)  # fmt: skip
SYSTEMATIC: tuple[Change, ...] = (_unit, _marker, _format)


@dataclass(frozen=True)
class Corrupted:
    """A table with known errors: rows, and whether each cell was changed, bool [n, columns]."""

    rows: list[Row]
    columns: tuple[str, ...]
    wrong: NDArray[np.bool_]


def corrupt(table: Sequence[Row], rng: random.Random) -> Corrupted:
    """Put errors into a table.

    Each column gets its own rate (none, 0.5 to 15 %, rarely most of it) and its own one to four
    kinds of error. Systematic errors hit 20 to 95 % of the column, or its blank cells.
    """
    source = [dict(row) for row in table]
    rows = [dict(row) for row in table]
    columns = tuple(source[0])
    wrong = np.zeros((len(rows), len(columns)), dtype=bool)
    for j, column in enumerate(columns):
        blanks = systematic = False
        rate, kinds = 0.0, [rng.choice(KINDS) for _ in range(rng.randint(1, 4))]
        draw = rng.random()
        if draw < 0.70:
            rate = 0.005 * 30 ** rng.random()
        elif draw < 0.80:
            systematic, rate, kinds = True, rng.uniform(0.2, 0.95), [rng.choice(SYSTEMATIC)]
            blanks = kinds[0] is _marker
        marker = rng.choice(MARKERS)
        for i, row in enumerate(source):
            if not row[column] and not (blanks and systematic):
                continue
            if rng.random() >= rate or (blanks and row[column]):
                continue
            value = marker if blanks else rng.choice(kinds)(source, i, column, rng)
            wrong[i, j] = value.strip() != row[column].strip()
            rows[i][column] = value
    return Corrupted(rows, columns, wrong)


def joined(table: Sequence[Row], rng: random.Random) -> list[Row]:
    """Join samples of a table with each other, so that values repeat and columns depend."""
    left = rng.sample(list(table), min(len(table), rng.randint(30, 120)))
    right = rng.sample(list(table), min(len(table), rng.randint(10, 60)))
    kept = [c for c in table[0] if rng.random() < 0.7]
    return [
        {**one, **{f"{c}_2": other[c] for c in kept}}
        for one, other in ((rng.choice(left), rng.choice(right)) for _ in range(MAX_TABLE))
    ]


def read_sources(data: Path) -> dict[str, list[list[Row]]]:
    """Read the clean tables, identifiers dropped."""
    return {
        name: [
            [{k: v for k, v in row.items() if k not in DROPPED} for row in read_rows(data / p)]
            for p in paths
        ]
        for name, paths in SOURCES.items()
    }


def samples_of(tables: dict[str, list[list[Row]]], variant: str, seed: int = SEED) -> list[Sample]:
    """Corrupt the tables and describe every cell, with 3-grams of the other data sets only."""
    result = []
    for dataset, found in tables.items():
        language = language_of({d: t for d, t in tables.items() if d != dataset})
        rng = random.Random(f"{dataset} {seed}")
        for table in found:
            for turn in range(2 * ROUNDS):
                drawn = rng.sample(table, min(MAX_TABLE, len(table)))
                plain = joined(table, rng) if turn % 2 else drawn
                result.append(_sample(dataset, corrupt(plain, rng), language, variant))
    return result


def _sample(dataset: str, table: Corrupted, language: Language, variant: str) -> Sample:
    records = [make_record(row) for row in table.rows]
    cells = [(r, c) for c in table.columns for r in records]
    owners, columns = [r for r, _ in cells], [c for _, c in cells]
    if variant == "record":
        features = record_features(owners, columns, language)
    else:
        features = context_features(TableProfile(records), owners, columns, language)
    labels = table.wrong.T.ravel().astype(np.int64)
    return Sample(dataset, features, labels, np.arange(len(labels)))


def language_of(tables: dict[str, list[list[Row]]]) -> Language:
    """Count the 3-grams of all values of clean tables."""
    return Language.fit(
        [v for found in tables.values() for table in found for row in table for v in row.values()]
    )


def main() -> None:
    """Fit both variants and write the calibration."""
    options = arguments("detect_error", "Calibrate error detection on synthetic errors.")
    tables = read_sources(options.data)
    samples = {variant: samples_of(tables, variant) for variant in FEATURES}
    variants, metrics = calibrate("detect_error", samples, FEATURES, SETTINGS)
    content = {
        "task": "detect_error",
        "version": VERSION,
        "variants": variants,
        "language": language_of(tables).to_text(),
        "trained_on": [f"{name} (synthetic errors)" for name in SOURCES],
        "held_out": ["hospital", "beers", "rayyan"],
        "metrics": metrics,
        "fitted_by": "python -m meld_duckdb.train.calibrate_detect_error",
    }
    write_json(options.out, content)


if __name__ == "__main__":
    main()
