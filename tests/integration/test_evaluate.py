"""``meld eval`` as a user runs it: a real process with the real models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.test_cli import meld
from tests.unit import eval_data

pytestmark = pytest.mark.integration


def test_eval_measures_a_directory_of_data_sets(tmp_path: Path) -> None:
    eval_data.em(tmp_path / "EM" / "toy", False)
    done = meld("eval", "--task", "match", "--data", str(tmp_path), "--json", "--no-encoder")
    assert done.returncode == 0, done.stderr
    [line] = json.loads(done.stdout)["results"]
    assert (line["task"], line["dataset"], line["labels"], line["n"]) == ("match", "toy", 6, 6)
    assert line["ci_low"] <= line["value"] <= line["ci_high"]
    assert {b["name"] for b in line["baselines"]} >= {"majority"}
    assert "match on toy: 6 labels, 6 questions" in done.stderr
    table = meld("eval", "--task", "block", "--data", str(tmp_path / "EM" / "toy")).stdout
    assert "| block | toy | 0 | 6 | 6 | recall@1 |" in table


def test_eval_words_its_errors(tmp_path: Path) -> None:
    for arguments in (("--labels", "many"), ("--tier", "t9"), ()):
        done = meld("eval", "--task", "match", "--data", str(tmp_path), *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: [MELD-E002]") and "Hint:" in done.stderr
        assert "Traceback" not in done.stderr
    both = meld("eval", "--task", "match", "--data", str(tmp_path), "--json", "--markdown")
    assert both.returncode == 2


def test_eval_of_amazon_google_counts_as_the_papers_do(data: Path) -> None:
    done = meld(
        "eval", "--task", "match", "--data", str(data / "EM" / "amazon_google"), "--json",
        "--no-encoder",
    )  # fmt: skip
    [line] = json.loads(done.stdout)["results"]
    assert (line["n"], line["positives"], line["labels"]) == (2_293, 234, 100)
    assert line["failures"] == 0 and line["tiers"] == {"0": 2_293}
