"""Fill missing values from the rest of the table: how ACM names the venue of a DBLP paper.

A fifth of the names is taken out, so that the answers can be counted. Relations of DuckDB.
"""

from __future__ import annotations

from pathlib import Path

import meld_duckdb as meld

DATA = Path(__file__).parent / "data"

con = meld.connect()
papers = con.sql(f"""
    SELECT d.id, d.title, d.venue AS dblp_venue, d.year, any_value(a.venue) AS acm_venue
    FROM '{DATA / "dblp.csv"}' AS d
    JOIN '{DATA / "dblp_acm_matches.csv"}' ON dblp_id = d.id
    JOIN '{DATA / "acm.csv"}' AS a ON a.id = acm_id
    GROUP BY ALL
""")
holes = papers.project("* REPLACE (CASE WHEN id % 5 = 0 THEN NULL ELSE acm_venue END AS acm_venue)")

proposed = meld.impute_nulls(holes, columns="acm_venue", tier="t0")
checked = con.sql("""
    SELECT dblp_venue, year, value, probability, coalesce(value = acm_venue, false) AS is_right
    FROM proposed JOIN papers USING (id)
""").df()
print(f"missing: {len(checked)}, filled: {checked['value'].count()}", end=", ")
print(f"right: {checked['is_right'].sum()}")

print("\nthe least certain values:")
print(checked.sort_values(["probability", "year"]).head(5).round(3).to_string(index=False))
