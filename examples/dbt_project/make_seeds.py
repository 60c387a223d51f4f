"""Draw the seeds from examples/data; three venues are misspelt, so that some need a repair.

python examples/dbt_project/make_seeds.py
"""

from __future__ import annotations

from pathlib import Path

import duckdb

HERE = Path(__file__).parent
DRAW = """
CREATE TABLE gold AS FROM '{data}/dblp_acm_matches.csv' ORDER BY dblp_id LIMIT 60;
CREATE TABLE dblp AS FROM '{data}/dblp.csv' AS d SEMI JOIN gold ON dblp_id = d.id
    UNION ALL
    (FROM '{data}/dblp.csv' AS d ANTI JOIN '{data}/dblp_acm_matches.csv' ON dblp_id = d.id
     ORDER BY id LIMIT 40);
CREATE TABLE acm AS FROM '{data}/acm.csv' AS a SEMI JOIN gold ON acm_id = a.id
    UNION ALL
    (FROM '{data}/acm.csv' AS a ANTI JOIN '{data}/dblp_acm_matches.csv' ON acm_id = a.id
     ORDER BY id LIMIT 40);
UPDATE dblp SET venue = 'sigmod recrd' WHERE id = (
    SELECT min(id) FROM dblp WHERE venue = 'sigmod record');
UPDATE dblp SET venue = 'sigmod confxrence' WHERE id = (
    SELECT min(id) FROM dblp WHERE venue = 'sigmod conference');
UPDATE dblp SET venue = 'vlbd' WHERE id = (SELECT min(id) FROM dblp WHERE venue = 'vldb');
COPY (FROM dblp ORDER BY id) TO '{out}/dblp.csv';
COPY (FROM acm ORDER BY id) TO '{out}/acm.csv';
"""


def main() -> None:
    duckdb.connect().execute(DRAW.format(data=HERE.parent / "data", out=HERE / "seeds"))


if __name__ == "__main__":
    main()
