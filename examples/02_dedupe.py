"""Find duplicates: two bibliographies in one table, each paper once.

A frame of pandas goes in; every row comes back with its cluster.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import meld_duckdb as meld

DATA = Path(__file__).parent / "data"

con = meld.connect()
dblp = pd.read_csv(DATA / "dblp.csv")
acm = pd.read_csv(DATA / "acm.csv")
dblp["id"] = "dblp-" + dblp["id"].astype(str)
acm["id"] = "acm-" + acm["id"].astype(str)
papers = pd.concat([dblp, acm], ignore_index=True)

clusters = meld.dedupe(papers, tier="t0", connection=con).df()
print(f"rows: {len(papers)}, clusters: {clusters['cluster_id'].nunique()}")

largest = clusters.sort_values(["cluster_size", "cluster_id", "id"], ascending=[False, True, True])
members = largest[largest["cluster_id"] == largest["cluster_id"].iloc[0]]
print("\nthe largest cluster:")
print(members.merge(papers, on="id")[["id", "title", "year"]].to_string(index=False))

# One row of each cluster: the one with the longest text stands for all.
papers["length"] = papers[["title", "authors", "venue"]].fillna("").sum(axis=1).str.len()
kept = papers.merge(clusters, on="id").sort_values("length").groupby("cluster_id").tail(1)
print(f"\nrows that are kept: {len(kept)}")

# Against the published matches: pairs of one cluster that are of both bibliographies.
both = clusters.merge(clusters, on="cluster_id")
both = both[both["id_x"].str.startswith("dblp") & both["id_y"].str.startswith("acm")]
found = set(zip(both["id_x"], both["id_y"], strict=True))
labels = pd.read_csv(DATA / "dblp_acm_matches.csv").astype(str)
true = set(zip("dblp-" + labels["dblp_id"], "acm-" + labels["acm_id"], strict=True))
f1 = 2 * len(found & true) / (len(found) + len(true))
print(f"F1 of the pairs: {f1:.3f}")
