"""The command ``dbt`` on the example project: a real process, on the embedded and scripted models."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from meld_duckdb.settings import DEFAULT_MODEL
from tests.integration.embedded import path_of

ROOT = Path(__file__).parent.parent.parent
DBT = [str(Path(sys.executable).with_name("dbt"))]
SCRIPTED = [sys.executable, "-m", "tests.integration.dbt_scripted"]
DATA = ROOT / "examples" / "data"
MATCHING = ("--select", "+matches", "--exclude-resource-types", "test", "unit_test")
BY_MODEL = ("--vars", "{meld_tier_pairs: t2, candidates_per_record: 2}")


@dataclass(frozen=True)
class Counts:
    """What ``meld_report`` says of one function."""

    rows: int
    known: int
    evaluated: int
    prompts: int
    failures: int


class Project:
    """A copy of the example project; ``dbt`` is started beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "project"
        ignored = shutil.ignore_patterns("target", "logs")
        shutil.copytree(ROOT / "examples" / "dbt_project", self.path, ignore=ignored)

    def arguments(self, command: str) -> list[str]:
        places = ["--project-dir", str(self.path), "--profiles-dir", str(self.path)]
        return ["--no-use-colors", *command.split(), *places]

    def environ(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **more}

    def dbt(
        self, command: str, *options: str, by: list[str] = SCRIPTED
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*by, *self.arguments(command), *options],
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environ(),
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "leaked" not in done.stderr
        return done

    def counts(self, command: str, *options: str, by: list[str] = SCRIPTED) -> dict[str, Counts]:
        found = re.findall(
            r"(\S+): (\d+) rows, (\d+) known, (\d+) evaluated, (\d+) prompts, (\d+) failures",
            self.dbt(command, *options, by=by).stdout,
        )
        return {name: Counts(*map(int, numbers)) for name, *numbers in found}

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """What a program that knows nothing of the plugin finds in the database."""
        with duckdb.connect(str(self.home / "bibliographies.duckdb"), read_only=True) as con:
            return con.execute(sql).fetchall()

    def n_cached(self) -> int:
        """How many answers are kept; none while the cache is still being made."""
        try:
            path = f"file:{self.home}/.meld/cache.sqlite?mode=ro"
            with contextlib.closing(sqlite3.connect(path, uri=True)) as cache:
                [(count,)] = cache.execute("SELECT count(*) FROM answers").fetchall()
        except sqlite3.OperationalError:
            return 0
        return int(count)

    def add_paper(self) -> int:
        """Append a record of the sample data to the seed; gives its id."""
        seed = self.path / "seeds" / "dblp.csv"
        present = {line.split(",")[0] for line in seed.read_text("utf-8").splitlines()}
        lines = (DATA / "dblp.csv").read_text("utf-8").splitlines()
        new = next(line for line in lines if line.split(",")[0] not in present)
        with seed.open("a", encoding="utf-8") as file:
            file.write(f"{new}\n")
        return int(new.split(",")[0])

    def mend_venue(self) -> None:
        """Correct the misspelt venue of paper 24 in the seed."""
        seed = self.path / "seeds" / "dblp.csv"
        text = seed.read_text("utf-8")
        assert "sigmod confxrence" in text
        seed.write_text(text.replace("sigmod confxrence", "sigmod conference"), "utf-8")

    def keep(self, rows: int) -> None:
        """Cut the seeds down to their first rows."""
        for seed in (self.path / "seeds").glob("*.csv"):
            lines = seed.read_text("utf-8").splitlines(keepends=True)
            seed.write_text("".join(lines[: rows + 1]), "utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.integration
def test_the_project_builds_as_shipped(project: Project) -> None:
    path_of(DEFAULT_MODEL, "language model")
    counts = project.counts("build", by=DBT)
    assert {c.prompts for c in counts.values()} == {0}

    results = json.loads((project.path / "target" / "run_results.json").read_text("utf-8"))
    by_status: dict[str, set[str]] = {}
    for result in results["results"]:
        by_status.setdefault(result["status"], set()).add(result["unique_id"].split(".")[2])
    assert by_status.keys() == {"success", "pass", "warn"}
    assert by_status["warn"] == {
        "meld_no_errors_dblp_authors",
        "meld_unique_entity_dblp_title__authors__year",
        "meld_no_errors_papers_venue",
    }
    assert "meld_no_errors_papers_clean_venue__0_02" in by_status["pass"]

    [(found, answered)] = project.query(
        f"""SELECT count(gold.dblp_id), count(*) FROM matches
            LEFT JOIN '{DATA}/dblp_acm_matches.csv' AS gold USING (dblp_id, acm_id)
            WHERE is_match"""
    )
    assert found == 60 and answered < 70
    repaired = {(24, "sigmod conference"), (29, "sigmod record"), (33, "vldb")}
    assert set(project.query("SELECT id, new_value FROM repairs")) >= repaired
    assert set(project.query("SELECT id, new_value FROM repairs_history")) >= repaired
    failures = "FROM main_dbt_test__audit.meld_no_errors_papers_venue"
    assert {row[0] for row in project.query(f"SELECT id {failures}")} == {24, 29, 33}
    [(missing, filled)] = project.query(
        "SELECT count(*) FILTER (p.acm_venue IS NULL), count(c.acm_venue)"
        " - count(p.acm_venue) FROM papers AS p JOIN papers_clean AS c USING (id)"
    )
    assert missing == 38 and filled > 30  # type: ignore[operator]

    project.dbt("docs generate --no-compile", by=DBT)
    catalogue = json.loads((project.path / "target" / "catalog.json").read_text("utf-8"))
    assert not catalogue["errors"] and len(catalogue["nodes"]) >= 10


@pytest.mark.integration
def test_a_run_asks_only_about_what_is_new(project: Project) -> None:
    first = project.counts("build", *MATCHING, *BY_MODEL)
    # Two of the pairs differ in their keys alone, which a prompt does not show.
    assert first == {"meld_match_detail": Counts(200, 0, 200, 199, 0)}
    assert project.counts("build", *MATCHING, *BY_MODEL) == {}

    anew = project.counts("run --full-refresh --select matches", *BY_MODEL)
    assert anew == {"meld_match_detail": Counts(200, 200, 0, 0, 0)}

    new = project.add_paper()  # 1 % more rows
    third = project.counts("build", *MATCHING, *BY_MODEL)
    pairs = project.query(f"SELECT count(*) FROM candidates WHERE dblp_id = {new}")
    assert pairs == [(2,)]
    assert third == {"meld_match_detail": Counts(2, 0, 2, 2, 0)}
    assert project.query("SELECT count(*) FROM matches") == [(202,)]


@pytest.mark.integration
def test_the_language_model_is_asked_once_about_a_pair(project: Project) -> None:
    path_of(DEFAULT_MODEL, "language model")
    project.keep(12)
    options = (*MATCHING, "--vars", "{meld_tier_pairs: t2, candidates_per_record: 1}")
    first = project.counts("build", *options, by=DBT)["meld_match_detail"]
    assert first == Counts(12, 0, 12, 12, 0)
    assert project.query("SELECT DISTINCT tier FROM matches") == [(2,)]
    verdicts = "SELECT dblp_id, acm_id, pair_digest FROM matches"
    before = set(project.query(verdicts))

    project.add_paper()
    project.mend_venue()
    second = project.counts("build", *options, by=DBT)["meld_match_detail"]
    new = set(project.query(verdicts)) - before
    assert 24 in {dblp_id for dblp_id, *_ in new}
    # In so small a table a new record also changes which record is most similar to others.
    assert second == Counts(len(new), 0, len(new), len(new), 0) and 2 <= len(new) < 10
    assert project.query("SELECT count(*) FROM matches") == [(13,)]


@pytest.mark.integration
def test_ctrl_c_ends_a_build_and_keeps_its_answers(project: Project) -> None:
    process = subprocess.Popen(
        [*SCRIPTED, *project.arguments("build"), *MATCHING, *BY_MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=project.home,
        env=project.environ(MELD_TEST_SLEEP="0.25"),  # 200 prompts take 50 s
    )
    assert process.stdout is not None
    assert any("loading the model" in line for line in process.stdout)
    while not project.n_cached():
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Exited because of keyboard interrupt" in output
    assert 0 < project.n_cached() < 200
