"""Find typing errors in a column and propose what should stand there.

The errors are planted, so that the answers can be counted. Frames of Polars.
"""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl

import meld_duckdb as meld

DATA = Path(__file__).parent / "data"

con = meld.connect()
clean = pl.read_csv(DATA / "dblp.csv")
generator = random.Random(0)
venues = clean["venue"].to_list()
wrong_rows = sorted(generator.sample(range(len(clean)), 15))
for row in wrong_rows:
    at = generator.randrange(len(venues[row]))
    venues[row] = venues[row][:at] + "x" + venues[row][at + 1 :]
dirty = clean.with_columns(venue=pl.Series(venues))
wrong = {clean["id"][row]: clean["venue"][row] for row in wrong_rows}

errors = meld.find_errors(dirty, columns="venue", tier="t0", connection=con).pl()
hits = sum(row in wrong for row in errors["id"])
print(f"errors found: {len(errors)}, planted errors among them: {hits} of {len(wrong)}")

# What should stand there, if it is likely enough: a diff to review.
changes = meld.repairs(dirty, columns="venue", tier="t0", connection=con).pl()
right = sum(wrong.get(row) == new for row, new in changes.select("id", "new").iter_rows())
print(f"repairs proposed: {len(changes)}, right: {right}")
print(changes.select("id", "old", "new", pl.col("probability").round(3)).sort("id"))

# Accepted changes are applied by a join.
accepted = changes.select("id", repaired="new")
mended = dirty.join(accepted, on="id", how="left").with_columns(
    venue=pl.coalesce("repaired", "venue")
)
left = sum(mended.sort("id")["venue"] != clean.sort("id")["venue"])
print(f"wrong cells before: {len(wrong)}, after: {left}")
