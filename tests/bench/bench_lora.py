"""Speed of training an adapter of the language model, of putting it on, and of asking with it.

    python -m tests.bench.bench_lora [--rows N] [--rounds N] [--json FILE]

Training is measured as one pass over N rows less a run of no pass, so that loading and saving do
not count. Seconds are given as time and as time of the processor: on a busy machine, with
``OMP_NUM_THREADS=1``, the latter is the one to read. Of several rounds the best counts, because
other work on the machine only ever slows one down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meld_duckdb import models
from meld_duckdb.engine.adapters import WEIGHTS, Adapter
from meld_duckdb.engine.merge_store import MergeStore
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.records import make_record
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.lora_rows import zero_shot
from meld_duckdb.train.rows import TrainingRow
from tests.bench.bench_engine import PRODUCTS, commit, hardware

BATCHES = (8, 16)


def make_rows(n: int) -> list[TrainingRow]:
    """Pairs of products whose prompts have about 100 tokens, half of them in common."""
    rows = []
    for i in range(n):
        left, right = PRODUCTS[i % 5], PRODUCTS[(i // 5) % 5]
        query = Query((make_record({"title": left}), make_record({"title": f"{right} v{i % 10}"})))
        rows.append(TrainingRow("match", query, "match" if left == right else "mismatch"))
    return rows


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, seconds of the processor) that ``work`` takes."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def train(path: Path, folder: Path, rows: list[TrainingRow], rounds: int) -> dict[str, Any]:
    """Rows per second for each batch size."""

    def run(batch: int, epochs: int) -> tuple[float, float]:
        settings = LoraSettings(epochs=epochs, batch=batch, device="cpu")
        out = folder / f"batch{batch}"
        return timed(lambda: train_adapter(rows, path, out, settings))

    found: dict[str, Any] = {}
    for batch in BATCHES:
        pairs = [(run(batch, 0), run(batch, 1)) for _ in range(rounds)]
        found[f"batch_{batch}"] = {
            f"rows_per_{name}": len(rows)
            / (min(pass_[i] for _, pass_ in pairs) - min(none[i] for none, _ in pairs))
            for i, name in enumerate(("s", "cpu_s"))
        }
    found["adapter_bytes"] = (folder / f"batch{BATCHES[0]}" / WEIGHTS).stat().st_size
    return found


def switch(engine: TransformersBackend, adapters: list[Adapter], rounds: int) -> dict[str, float]:
    """Milliseconds to load adapters, to switch between loaded ones, to take one off."""
    one, two = adapters
    slots = engine._slots
    found = {
        "first_load_ms": timed(lambda: slots.use(one))[0] * 1e3,
        "next_load_ms": timed(lambda: slots.use(two))[0] * 1e3,
    }
    names = (("switch_ms", one), ("off_ms", None), ("on_ms", two))
    times: dict[str, list[float]] = {name: [] for name, _ in names}
    for _ in range(10 * rounds):
        for name, adapter in names:
            times[name].append(timed(lambda a=adapter: slots.use(a))[0] * 1e3)  # type: ignore[misc]
    return found | {name: statistics.median(taken) for name, taken in times.items()}


def ask(
    engine: TransformersBackend,
    rows: list[TrainingRow],
    adapters: dict[str, Adapter | None],
    rounds: int,
) -> dict[str, float]:
    """Prompts per second of the processor, with each adapter and without, in turns."""
    prompts = [zero_shot(row, 2_000) for row in rows]
    best = dict.fromkeys(adapters, float("inf"))
    for _ in range(rounds):
        for name, adapter in adapters.items():
            list(engine.complete(prompts[:2], adapter))  # loads it, computes the prefix
            taken = timed(lambda a=adapter: list(engine.complete(prompts, a)))[1]  # type: ignore[misc]
            best[name] = min(best[name], taken)
    return {name: len(prompts) / taken for name, taken in best.items()}


def measure(n_rows: int, rounds: int) -> dict[str, Any]:
    """All of it."""
    path = models.locate(DEFAULT_MODEL, default_model_dir(), "language model")
    rows = make_rows(n_rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = train(path, folder, rows, rounds)
        parts = [(folder / f"batch{batch}", 0.5) for batch in BATCHES]
        store = MergeStore(folder / "merged")
        merge_s = timed(lambda: store.get(parts))[0]
        again_s = timed(lambda: store.get(parts))[0]
        svd_s = timed(lambda: store.get(parts, rank=4))[0]
        merged, cut = store.get(parts), store.get(parts, rank=4)
        engine = TransformersBackend(path, device="cpu")
        before = ask(engine, rows, {"before_any_adapter": None}, rounds)
        switching = switch(engine, [merged, cut], rounds)
        asking = ask(engine, rows, {"none": None, "rank 4": cut, "rank 8": merged}, rounds)
        lengths = [len(engine._renderer.render(zero_shot(row, 2_000), 512)) for row in rows]
    return {
        "benchmark": "lora",
        "rows": n_rows,
        "prompt_tokens_mean": statistics.mean(lengths),
        "training": training,
        "merge_ms": {"exact": merge_s * 1e3, "again": again_s * 1e3, "svd": svd_s * 1e3},
        "switching": switching,
        "prompts_per_cpu_s": before | asking,
        "hardware": hardware(),
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    result = measure(given.rows, given.rounds)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
