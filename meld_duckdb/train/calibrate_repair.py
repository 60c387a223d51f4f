"""Fit the weights that repair starts from, on synthetic errors in clean public tables.

Tables and random errors are those of `train.calibrate_detect_error`; added are systematic errors:
one rule per column that hits a good part of it, as a change of format or a merged field does. No
labelled error of a benchmark is used. The command prints the weights, which stand rounded in
`features.repair_fit.PRIOR`.

    python -m meld_duckdb.train.calibrate_repair --data DIR
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from meld_duckdb.features.choose import fit_weights
from meld_duckdb.features.columns import TableProfile
from meld_duckdb.features.detect_error import Language, context_features
from meld_duckdb.features.load import load_calibration
from meld_duckdb.features.repair import FEATURES, Question
from meld_duckdb.features.repair_fit import PRIOR, FittedRepairs, Odd, answer_of
from meld_duckdb.features.repair_labels import CellLabel
from meld_duckdb.records import Record, make_record
from meld_duckdb.train.calibrate_detect_error import UNITS, corrupt, joined, read_sources
from meld_duckdb.train.calibration import SEED, Row

ODDS_LIMIT = 6.0
LABELLED = (0, 10, 20, 20, 40)
"""Labelled rows of a table, one of these at random."""

MAX_TABLE = 500
ROUNDS = 6
TURNS = 3
"""Times all tables are corrupted anew: with fewer, the weights hang on the draw."""

MAX_ASKED = 80
"""Rows of a table that are asked about."""

_SUPPORT = ("right ", "wrong ", "program ", "odd ", "usual ")
"""Features that may only speak for what they stand for."""

_LOWER = np.array([0.0 if name.startswith(_SUPPORT) else -np.inf for name in FEATURES])

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")

Rule = Callable[[Row, str, random.Random], str]


def odd_by(profile: TableProfile) -> Odd:
    """Error detection by the shipped model, in a table."""
    calibration = load_calibration("detect_error")
    language = Language.from_text(calibration.text("language"))
    model = calibration.variant("context").model

    def odd(records: Sequence[Record], columns: Sequence[str]) -> Sequence[float]:
        rows = context_features(profile, records, columns, language)
        found: list[float] = np.clip(model.log_odds(rows), -ODDS_LIMIT, ODDS_LIMIT).tolist()
        return found

    return odd


def _rules(column: str, rng: random.Random) -> Rule:
    """Draw a rule by which a column is written wrongly."""
    units = rng.sample(UNITS, rng.randint(1, 3))
    case = rng.choice((str.upper, str.lower, str.title, str.capitalize))
    sign = rng.choice(("_", "-", "/", "  ", "."))

    def unit(row: Row, name: str, draw: random.Random) -> str:
        return row[name] + draw.choice(units)

    def cased(row: Row, name: str, draw: random.Random) -> str:
        return case(row[name])

    def joint(row: Row, name: str, draw: random.Random) -> str:
        return row[name].replace(" ", sign)

    def turned(row: Row, name: str, draw: random.Random) -> str:
        first, _, rest = row[name].partition(" ")
        return f"{rest}, {first}" if rest else first

    def decimal(row: Row, name: str, draw: random.Random) -> str:
        return f"{row[name]}.0" if row[name].isdigit() else f'"{row[name]}"'

    return rng.choice((unit, unit, cased, joint, turned, decimal))


def systematic(rows: list[Row], clean: Sequence[Row], rng: random.Random) -> None:
    """Put a systematic error into some columns, in place; some only hit a range of numbers."""
    names = list(rows[0])
    for column in names:
        draw = rng.random()
        share = rng.choice((0.1, 0.3, 0.6, 0.9, 1.0))
        if draw < 0.25:
            rule, hits = _rules(column, rng), _range(clean, column, rng)
            for row, right in zip(rows, clean, strict=True):
                if right[column] and rng.random() < share and hits(right[column]):
                    row[column] = rule(right, column, rng)
        elif draw < 0.33 and len(names) > 1:
            other = rng.choice([n for n in names if n != column])
            for row, right in zip(rows, clean, strict=True):
                if right[column] and right[other] and rng.random() < share / 3:
                    row[column], row[other] = f"{right[column]} {right[other]}", ""


def _range(clean: Sequence[Row], column: str, rng: random.Random) -> Callable[[str], bool]:
    """Which values of a column a rule hits: all, or those on one side of a number."""
    numbers = sorted(x for row in clean if (x := _first_number(row[column])) is not None)
    if rng.random() < 0.5 or len(numbers) < len(clean) // 2:
        return lambda text: True
    cut, above = numbers[int(len(numbers) * rng.uniform(0.2, 0.8))], rng.random() < 0.5
    return lambda text: ((_first_number(text) or 0.0) > cut) == above


def _first_number(text: str) -> float | None:
    found = _NUMBER.search(text)
    return float(found[0]) if found else None


def examples(
    tables: dict[str, list[list[Row]]], seed: int, prior: np.ndarray | None = None
) -> Iterator[tuple[str, FittedRepairs, list[Question], list[int]]]:
    """Corrupt tables, label some rows, and describe cells of the others."""
    for dataset, found in tables.items():
        rng = random.Random(f"{dataset} {seed}")
        for table in found:
            for turn in range(2 * ROUNDS):
                drawn = rng.sample(table, min(MAX_TABLE, len(table)))
                clean = joined(table, rng)[:MAX_TABLE] if turn % 2 else drawn
                rows = corrupt(clean, rng).rows
                systematic(rows, clean, rng)
                yield dataset, *_described(rows, clean, rng, prior)


def _described(
    rows: list[Row], clean: Sequence[Row], rng: random.Random, prior: np.ndarray | None
) -> tuple[FittedRepairs, list[Question], list[int]]:
    records = [make_record(row) for row in rows]
    order = rng.sample(range(len(rows)), len(rows))
    n_labels = rng.choice(LABELLED)

    def cell(i: int, column: str) -> CellLabel:
        before, after = rows[i][column], clean[i][column]
        return CellLabel(records[i], before, after, before.strip() != after.strip())

    profile = TableProfile(records)
    labels = {c: [cell(i, c) for i in order[:n_labels]] for c in rows[0]} if n_labels else {}
    fitted = FittedRepairs(profile, labels, odd_by(profile), prior)
    questions: list[Question] = []
    right: list[int] = []
    asked = order[n_labels : n_labels + MAX_ASKED]
    for column in rows[0]:
        found = fitted.questions([records[i] for i in asked], [column] * len(asked))
        questions += found
        right += [answer_of(q, cell(i, column)) for q, i in zip(found, asked, strict=True)]
    return fitted, questions, right


def main() -> None:
    """Fit the weights and print them."""
    parser = argparse.ArgumentParser(description="Fit the weights that repair starts from.")
    parser.add_argument("--data", type=Path, required=True, help="root of the benchmark data")
    tables = read_sources(parser.parse_args().data)
    start = np.array([PRIOR[f] for f in FEATURES])
    questions: list[Question] = []
    right: list[int] = []
    for turn in range(TURNS):
        for _, _, found, answers in examples(tables, SEED + turn):
            questions += found
            right += answers
    weights = fit_weights([q.features for q in questions], right, start, _LOWER)
    for name, weight in zip(FEATURES, weights.tolist(), strict=True):
        sys.stdout.write(f'    "{name}": {round(weight, 2)},\n')


if __name__ == "__main__":
    main()
