"""Input that breaks things, through SQL and the real models, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meld_duckdb.models import list_models
from meld_duckdb.settings import default_model_dir

pytestmark = pytest.mark.integration


def test_every_row_is_answered_or_has_a_reason_in_bounded_memory(tmp_path: Path) -> None:
    missing = [m.name for m in list_models(default_model_dir()) if not m.cached]
    if missing:
        pytest.skip(f"models not fetched: {missing}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_sql", "--one", "hostile", str(tmp_path), "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["t0_answers"] + found["t0_reasons"] == 64
    assert found["t2_answers"] + found["t2_reasons"] == 64
    assert found["t0_wide"] is True and found["t2_wide"] is not None
    assert found["peak_mb"] < 3_000
