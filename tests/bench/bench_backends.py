"""Do vLLM and the embedded engine give the same answers? Same rows, same adapters, both in turn.

    python -m tests.bench.bench_backends [--prompts N] [--adapter DIR] [--json FILE]

Pairs of publications, half of them matches, are asked without an adapter, with one, and with a
merged one. Without ``--adapter`` the adapter has random weights. Needs the environment that
``make test-vllm`` makes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meld_duckdb import models
from meld_duckdb.engine.adapters import Adapter, open_adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.engine.merge_store import MergeStore
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.engine.vllm import VllmBackend
from meld_duckdb.records import make_record
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks.base import Completion, Prompt, Query
from meld_duckdb.train.lora_rows import zero_shot
from meld_duckdb.train.rows import TrainingRow
from tests.bench.bench_engine import commit, hardware
from tests.unit.tiny_adapter import save_random_adapter

DATA = Path(__file__).parent.parent.parent / "examples" / "data"


def make_prompts(n: int) -> list[Prompt]:
    """Pairs of publications, every second one a match."""
    tables = []
    for name in ("dblp", "acm"):
        with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
            tables.append({row.pop("id"): row for row in csv.DictReader(file)})
    with (DATA / "dblp_acm_matches.csv").open(encoding="utf-8") as file:
        matches = [(row["dblp_id"], row["acm_id"]) for row in csv.DictReader(file)][:n]
    prompts = []
    for i in range(n):
        left, right = matches[i // 2][0], matches[i // 2 + i % 2][1]
        query = Query((make_record(tables[0][left]), make_record(tables[1][right])))
        answer = "mismatch" if i % 2 else "match"
        prompts.append(zero_shot(TrainingRow("match", query, answer), 2_000))
    return prompts


def ask(
    backend: Backend, prompts: Sequence[Prompt], adapter: Adapter | None
) -> tuple[list[Completion], float]:
    """Answers and prompts per second."""
    start = time.perf_counter()
    done = dict(pair for part in backend.complete(prompts, adapter) for pair in part)
    return [done[i] for i in range(len(prompts))], len(prompts) / (time.perf_counter() - start)


def log_odds(completion: Completion) -> float:
    first, second = completion.choice_probabilities
    return math.log(first / second)


def compare(
    backends: Sequence[Backend], prompts: Sequence[Prompt], adapter: Adapter | None
) -> dict[str, Any]:
    (some, rate), (others, other_rate) = (ask(b, prompts, adapter) for b in backends)
    pairs = list(zip(some, others, strict=True))
    odds = [log_odds(completion) for completion in some]
    return {
        "equal_choices": sum(a.text == b.text for a, b in pairs) / len(pairs),
        "largest_difference_of_log_odds": max(abs(log_odds(a) - log_odds(b)) for a, b in pairs),
        "log_odds": [min(odds), max(odds)],
        "transformers_prompts_per_s": rate,
        "vllm_prompts_per_s": other_rate,
    }


def measure(n: int, given: Path | None) -> dict[str, Any]:
    path = models.locate(DEFAULT_MODEL, default_model_dir(), "language model")
    prompts = make_prompts(n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = save_random_adapter(path, folder / "random", rank=16, alpha=4)
        single = open_adapter(given or random)
        merged = MergeStore(folder / "merged").get([(single.path, 0.5), (random, 0.5)])
        start = time.perf_counter()
        vllm = VllmBackend(path, device="cpu", max_rank=32)
        seconds = time.perf_counter() - start
        backends = (TransformersBackend(path, device="cpu"), vllm)
        result: dict[str, Any] = {"prompts": n, "vllm_start_s": seconds}
        for kind, adapter in (("none", None), ("one", single), ("merged", merged)):
            result[kind] = compare(backends, prompts, adapter)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument(
        "--adapter", type=Path, help="directory of an adapter of the language model"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    measured = measure(given.prompts, given.adapter)
    result = {"commit": commit(), "hardware": hardware(), **measured}
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
