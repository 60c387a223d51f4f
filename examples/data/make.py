"""Draw the sample tables of this folder from the published benchmark files (see README.md).

    python examples/data/make.py --data DIR

DIR holds ``EM/dblp_acm`` and ``SM/gdc`` as Parquet files. The draw is seeded and looks at no score.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb

HERE = Path(__file__).parent
DRAW = """
CREATE TABLE labels AS
    SELECT DISTINCT ltable_id, rtable_id FROM (
        FROM '{em}/train.parquet' UNION ALL FROM '{em}/valid.parquet'
        UNION ALL FROM '{em}/test.parquet') WHERE label = 1;
CREATE TABLE matched AS SELECT ltable_id, rtable_id FROM '{em}/test.parquet' WHERE label = 1
    ORDER BY hash(ltable_id || '-42') LIMIT 200;
CREATE TABLE dblp AS SELECT id::INTEGER AS id, * EXCLUDE (id) FROM '{em}/tableA.parquet'
    WHERE id IN (SELECT ltable_id FROM matched)
       OR id IN (SELECT id FROM '{em}/tableA.parquet' WHERE id NOT IN (SELECT ltable_id FROM labels)
                 ORDER BY hash(id || '-42') LIMIT 100);
CREATE TABLE acm AS SELECT id::INTEGER AS id, * EXCLUDE (id) FROM '{em}/tableB.parquet'
    WHERE id IN (SELECT rtable_id FROM matched)
       OR id IN (SELECT rtable_id FROM '{em}/test.parquet'
                 WHERE label = 0 AND ltable_id IN (SELECT ltable_id FROM matched));
COPY (FROM dblp ORDER BY hash(id || '-1')) TO '{out}/dblp.csv';
COPY (FROM acm ORDER BY hash(id || '-1')) TO '{out}/acm.csv';
COPY (SELECT ltable_id::INTEGER AS dblp_id, rtable_id::INTEGER AS acm_id FROM labels
      WHERE ltable_id::INTEGER IN (SELECT id FROM dblp)
        AND rtable_id::INTEGER IN (SELECT id FROM acm)
      ORDER BY ALL) TO '{out}/dblp_acm_matches.csv';
COPY (SELECT DISTINCT source_column AS column_name, source_description AS description
      FROM '{sm}/pairs.parquet' WHERE source_table = 'huang_2021' ORDER BY ALL)
    TO '{out}/gdc_source_columns.csv';
COPY (SELECT DISTINCT target_column AS column_name, target_description AS description
      FROM '{sm}/pairs.parquet' WHERE source_table = 'huang_2021'
        AND (label = 1 OR hash(target_column || '-42') % 8 = 0) ORDER BY ALL)
    TO '{out}/gdc_target_columns.csv';
COPY (SELECT source_column, target_column FROM '{sm}/pairs.parquet'
      WHERE source_table = 'huang_2021' AND label = 1 ORDER BY ALL)
    TO '{out}/gdc_matches.csv';
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    duckdb.connect().execute(DRAW.format(em=data / "EM/dblp_acm", sm=data / "SM/gdc", out=HERE))


if __name__ == "__main__":
    main()
