"""A driver of its own process, to be killed.

python -m tests.distributed.driver ADDRESS SOURCE OUTPUT WORKSPACE
"""

from __future__ import annotations

import os
import sys

import ray

from meld_duckdb.distributed import Cluster, Work, map_rows
from tests.distributed.conftest import SLOW, ray_options
from tests.distributed.scripted_worker import patch

if __name__ == "__main__":
    patch()
    address, source, output, workspace = sys.argv[1:]
    ray.init(address=address, **ray_options())
    how = Work(Cluster(actors=2), batch_rows=20)
    map_rows(SLOW, source, output, how, workspace=workspace)
    os._exit(0)
