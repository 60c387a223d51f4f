"""The zero-label promise of entity matching, on the real benchmark through SQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld_duckdb.features.load import load_calibration
from tests.bench.bench_sql import quality

pytestmark = pytest.mark.integration


def test_amazon_google_without_one_of_its_labels(data: Path, tmp_path: Path) -> None:
    """Bounds are the lower ends of the 95 % intervals in docs/benchmarks.md: this finds breakage."""
    calibration = load_calibration("match")
    assert "amazon_google" in calibration.held_out
    assert "amazon_google" not in calibration.trained_on
    found = quality(str(tmp_path / "w"), str(data))
    for form, least in (("indexed", 0.62), ("bare", 0.44)):
        assert found[form]["n"] == 2_293 and found[form]["positives"] == 234
        assert found[form]["f1"] > least
        assert found[form]["tier0"] == found[form]["evaluations"] == 2_293
