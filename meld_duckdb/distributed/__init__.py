"""Work past one machine: the functions over partitions of large tables, by actors of Ray Data.

    from meld_duckdb.distributed import Cluster, Work, map_rows

    map_rows("SELECT id, meld_impute(t, 'brand') AS brand FROM part AS t", "offers/*.parquet",
             "filled", Work(Cluster(actors=8, gpus=1)))

Results are Parquet files that are written exactly once; a job that was killed goes on where it was.
Needs the extra ``ray``.
"""

from meld_duckdb.distributed.cluster import Cluster
from meld_duckdb.distributed.deduplication import dedupe
from meld_duckdb.distributed.job import Report
from meld_duckdb.distributed.run import Work, block, join, map_rows

__all__ = ["Cluster", "Report", "Work", "block", "dedupe", "join", "map_rows"]
