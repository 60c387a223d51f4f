"""Find the same papers in two bibliographies: candidates, matches, and how good they are.

Frames of pandas go in; relations come out, read as frames.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import meld_duckdb as meld

DATA = Path(__file__).parent / "data"

con = meld.connect()
dblp = pd.read_csv(DATA / "dblp.csv")
acm = pd.read_csv(DATA / "acm.csv")
true = set(pd.read_csv(DATA / "dblp_acm_matches.csv").itertuples(index=False, name=None))

# Candidates: the five most similar ACM records of each DBLP record, instead of all pairs.
candidates = meld.block(dblp, acm, k=5, connection=con).df()
kept = set(zip(candidates["l_id"], candidates["r_id"], strict=True)) & true
print(f"candidates: {len(candidates)} of {len(dblp) * len(acm)} pairs")
print(f"recall of the candidates: {len(kept) / len(true):.3f}")

# Both steps at once: candidates, judged with both tables as context. The relation is lazy; here
# titles are added by SQL before it is read.
pairs = meld.join(dblp, acm, k=5, tier="t0", connection=con)
matches = con.sql("""
    SELECT l_id, r_id, round(probability, 3) AS probability,
           d.title[:40] AS dblp_title, a.title[:40] AS acm_title
    FROM pairs JOIN dblp AS d ON d.id = l_id JOIN acm AS a ON a.id = r_id
    ORDER BY pairs.probability, l_id, r_id
""").df()
print("\nthe least certain matches:")
print(matches.head(5).to_string(index=False))

answered = set(zip(matches["l_id"], matches["r_id"], strict=True))
f1 = 2 * len(answered & true) / (len(answered) + len(true))
print(f"\nmatches: {len(answered)}, right: {len(answered & true)}, wanted: {len(true)}")
print(f"F1 of the matches: {f1:.3f}")

# Pairs that come from elsewhere get a line each, with the evidence.
some = candidates.head(3)
judged = meld.match(dblp, acm, some, tier="t0", connection=con)
print("\nthree pairs, judged alone:")
print(judged.project("l_id, r_id, matches, round(probability, 3) AS probability"))
