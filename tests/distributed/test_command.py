from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from meld_duckdb.cli.main import cli
from meld_duckdb.distributed.cluster import Cluster, running
from meld_duckdb.errors import ConfigError, EngineUnavailable
from tests.distributed.conftest import rows_of


def meld(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["distributed", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_jobs_by_command(in_process: None, left: Path, right: Path, tmp_path: Path) -> None:
    common = ["--actors", 2, "--batch-rows", 60]
    said = meld("run", "SELECT id FROM part", left, tmp_path / "run", *common)
    assert "150 rows in 3 files" in said
    assert [row["id"] for row in rows_of(tmp_path / "run")] == list(range(150))
    said = meld("block", left, right, tmp_path / "block", "--k", 2, "--json", *common)
    report = json.loads(said)
    assert report["rows"] == len(rows_of(tmp_path / "block")) == 300
    report = json.loads(meld("join", left, right, tmp_path / "join", "--k", 2, "--json", *common))
    assert report["rows"] == len(rows_of(tmp_path / "join")) > 0
    meld("dedupe", left, tmp_path / "dedupe", "--linkage", "components", *common)
    assert len(rows_of(tmp_path / "dedupe")) == 150


def test_a_failure_is_told(
    in_process: None, left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    result = runner.invoke(
        cli, ["distributed", "run", "SELECT x FROM part", str(left), str(tmp_path / "out")]
    )
    assert "the rows are called part" in str(result.exception)
    with pytest.raises(ConfigError, match="actors"):
        Cluster(actors=0).check()


def test_an_address_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(EngineUnavailable, match="ray start"),
        running(Cluster(address="127.0.0.1:1")),
    ):
        pass


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"meld-duckdb\[ray\]"), running(Cluster()):
        pass
