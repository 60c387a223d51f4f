"""What the reuse of shared prefixes saves in the transformers engine: off and on.

    python -m tests.bench.bench_prefix [--data DIR] [--prompts N] [--shown N ...] [--rounds N]

Prompts of `meld_match` for pairs of ``EM/amazon_google``, with the same demonstrations in all. Off and on
take turns; processor time counts, the least of the rounds, with ``OMP_NUM_THREADS=1`` on a busy machine.
The probabilities of both are compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meld_duckdb import models
from meld_duckdb.engine import transformers as engine
from meld_duckdb.engine.kv import Job, PrefixCache, group_by_prefix
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration, Prompt, Query
from meld_duckdb.train.calibrate_match import read_columns, read_table
from tests.conftest import DATA


def apart(jobs: Sequence[Job], cached: PrefixCache) -> list[list[Job]]:
    """All jobs in one group that shares nothing."""
    return [[replace(job, prefix=(), own=job.prefix + job.own) for job in jobs]]


def match_prompts(data: Path, n: int, n_shown: int) -> list[Prompt]:
    folder = data / "EM" / "amazon_google"
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    split = read_columns(folder, "valid")
    rows = list(zip(split["ltable_id"], split["rtable_id"], split["label"], strict=True))
    queries = [Query((left[at_left[a]], right[at_right[b]])) for a, b, _ in rows[: n + n_shown]]
    labels = TASKS["match"].labels or ("", "")
    shown = [
        Demonstration(query, labels[0 if label == 1 else 1])
        for query, (_, _, label) in zip(queries[n:], rows[n:], strict=False)
    ]
    return [TASKS["match"].prompt(query, shown, 2_000) for query in queries[:n]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--shown", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    path = models.locate(DEFAULT_MODEL, default_model_dir(), "language model")
    backend = engine.TransformersBackend(path, device="cpu")
    for n_shown in given.shown:
        prompts = match_prompts(given.data, given.prompts, n_shown)
        worked: dict[str, list[float]] = {"off": [], "on": []}
        said: dict[str, dict[int, float]] = {}
        tokens = 0
        for _ in range(given.rounds):
            for name, grouping in (("off", apart), ("on", group_by_prefix)):
                engine.group_by_prefix = grouping
                backend._prefixes = backend._decoder._prefixes = PrefixCache(engine._PREFIX_BYTES)
                started = time.process_time()
                found = dict(pair for part in backend.complete(prompts) for pair in part)
                worked[name].append(time.process_time() - started)
                said[name] = {at: c.choice_probabilities[0] for at, c in found.items()}
                tokens = sum(c.prompt_tokens for c in found.values())
        off, on = min(worked["off"]), min(worked["on"])
        line = {
            "shown": n_shown,
            "prompts": len(prompts),
            "tokens_a_prompt": round(tokens / len(prompts)),
            "off_prompts_per_cpu_s": round(len(prompts) / off, 2),
            "on_prompts_per_cpu_s": round(len(prompts) / on, 2),
            "speed_up": round(off / on, 2),
            "largest_difference": max(abs(said["off"][at] - said["on"][at]) for at in said["on"]),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
