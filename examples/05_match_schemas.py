"""Find, for every column of a study, the column of a data model that means the same.

Two frames without rows: their columns and a table of descriptions are all that is known.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

import meld_duckdb as meld

DATA = Path(__file__).parent / "data"

con = meld.connect()
source = pl.read_csv(DATA / "gdc_source_columns.csv")
target = pl.read_csv(DATA / "gdc_target_columns.csv")
true = set(pl.read_csv(DATA / "gdc_matches.csv").iter_rows())
study = pl.DataFrame(schema=dict.fromkeys(source["column_name"], pl.String))
model = pl.DataFrame(schema=dict.fromkeys(target["column_name"], pl.String))

# Tables without a name are called left and right.
descriptions = pl.concat(
    [
        source.with_columns(table_name=pl.lit("left")),
        target.with_columns(table_name=pl.lit("right")),
    ]
)
ranked = meld.match_schemas(
    study, model, k=5, descriptions=descriptions, tier="t0", connection=con
).pl()
print(ranked.filter(rank=1).select("l_column", "r_column", pl.col("probability").round(3)).head(8))

first = set(ranked.filter(rank=1).select("l_column", "r_column").iter_rows())
first_five = set(ranked.select("l_column", "r_column").iter_rows())
print(f"true pairs: {len(true)} of {source.height * target.height}")
print(f"found first: {len(first & true)}")
print(f"found among the first five: {len(first_five & true)}")
