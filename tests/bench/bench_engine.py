"""Throughput of the T2 engine against a bare transformers loop with the same reuse of prefixes.

    python -m tests.bench.bench_engine --json bench-results/engine.json

Both sides score the same prompts in batches of 16 on the same weights, in turns (A B A B), so
that other load on the machine hits both; the ratio of the medians is what counts.
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meld_duckdb import models
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir
from meld_duckdb.tasks.base import Prompt

BATCH = 16
ROUNDS = 3
TARGET = 0.9
SYSTEM = (
    "Decide whether two product records describe the same product. Compare brand, model, version "
    "and price. Answer yes or no."
)
TURNS = (("A: adobe acrobat 8 pro, 449.0\nB: adobe acrobat professional 8", "yes"),)
PRODUCTS = (
    "microsoft office small business edition 2007 upgrade",
    "adobe creative suite cs3 design premium for mac",
    "intuit quickbooks pro 2007 accounting software",
    "encore hoyle card games 2008 win xp vista",
    "punch software professional home design suite platinum",
)


def make_prompts(n_prompts: int) -> list[Prompt]:
    """Pairs of products; about half of each prompt's tokens are shared."""
    prompts = []
    for n in range(n_prompts):
        left, right = PRODUCTS[n % 5], PRODUCTS[(n // 5) % 5]
        question = (
            f"A: title: {left}, manufacturer: {left.split()[0]}, price: {n * 7 % 400}.99\n"
            f"B: title: {right} {n}, price: {n * 13 % 500}.0" + ", boxed" * (n % 4)
        )
        prompts.append(Prompt(SYSTEM, TURNS, question, ("yes", "no")))
    return prompts


class BareLoop:
    """What one writes by hand: one prefix cache, sorted batches, logits of the last position."""

    def __init__(self, path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

        self.torch, self.new_cache = torch, DynamicCache
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.tokenizer.padding_side = "left"
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
        self.model: Any = model.eval()
        arguments = inspect.signature(model.forward).parameters
        self.cache_name = "cache" if "cache" in arguments else "past_key_values"
        self.yes_no = [self.tokenizer.encode(word)[0] for word in ("yes", "no")]

    def run(self, prompts: list[Prompt]) -> list[float]:
        """Return the probability of yes for each prompt."""
        torch = self.torch
        texts = [self.text(prompt) for prompt in prompts]
        cut = texts[0].rindex(prompts[0].question)
        prefix = self.tokenizer(texts[0][:cut], return_tensors="pt")["input_ids"]
        encoded = self.tokenizer([text[cut:] for text in texts])["input_ids"]
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
        result = [0.0] * len(prompts)
        with torch.inference_mode():
            shared = self.new_cache()
            self.model(prefix, **{self.cache_name: shared}, use_cache=True, logits_to_keep=1)
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                batch = self.tokenizer.pad(
                    {"input_ids": [encoded[row] for row in rows]}, return_tensors="pt"
                )
                cache = self.new_cache()
                for number, layer in enumerate(shared.layers):
                    size = (len(rows), -1, -1, -1)
                    cache.update(layer.keys.expand(size), layer.values.expand(size), number)
                ahead = torch.ones(len(rows), prefix.shape[1], dtype=torch.long)
                mask = torch.cat([ahead, batch["attention_mask"]], dim=1)
                places = (mask.cumsum(-1) - 1)[:, prefix.shape[1] :]
                logits = self.model(
                    batch["input_ids"],
                    attention_mask=mask,
                    position_ids=places,
                    **{self.cache_name: cache},
                    logits_to_keep=1,
                ).logits[:, -1]
                yes = logits[:, self.yes_no].softmax(-1)[:, 0].tolist()
                for row, probability in zip(rows, yes, strict=True):
                    result[row] = probability
        return result

    def text(self, prompt: Prompt) -> str:
        """Render with the chat template as a whole."""
        chat = [{"role": "system", "content": prompt.system}]
        for question, answer in prompt.turns:
            chat += [{"role": "user", "content": question}]
            chat += [{"role": "assistant", "content": answer}]
        chat += [{"role": "user", "content": prompt.question}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return str(text)


def hardware() -> dict[str, object]:
    """CPU model, cores and versions."""
    import torch
    import transformers

    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def commit() -> str | None:
    """The commit that is measured, None outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(n_prompts: int) -> dict[str, object]:
    """Run both sides in turns."""
    path = models.locate(DEFAULT_MODEL, default_model_dir(), "language model")
    prompts = make_prompts(n_prompts)
    engine = TransformersBackend(path, device="cpu", batch_size=BATCH)
    bare = BareLoop(path)
    # A first, small run of each warms up both. The engine's prefix cache is emptied before every
    # round: the bare loop computes its prefix anew as well.
    list(engine.complete(prompts[:BATCH]))
    bare.run(prompts[:BATCH])
    seconds: dict[str, list[float]] = {"engine": [], "bare": []}
    for _ in range(ROUNDS):
        engine._prefixes._entries.clear()
        seconds["engine"].append(timed(lambda: list(engine.complete(prompts))))
        seconds["bare"].append(timed(lambda: bare.run(prompts)))
    rate = {name: n_prompts / statistics.median(times) for name, times in seconds.items()}
    rendered = [engine._renderer.render(prompt, 10_000) for prompt in prompts]
    return {
        "benchmark": "t2_throughput",
        "prompts": n_prompts,
        "batch": BATCH,
        "prompt_tokens_mean": statistics.mean(map(len, rendered)),
        "shared_prefix_tokens": len(rendered[0].prefix),
        "seconds": seconds,
        "engine_prompts_per_s": rate["engine"],
        "bare_prompts_per_s": rate["bare"],
        "ratio": rate["engine"] / rate["bare"],
        "target": TARGET,
        "hardware": hardware(),
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--prompts", type=int, default=128, help="how many (default 128)")
    arguments = parser.parse_args()
    result = measure(arguments.prompts)
    print(f"engine {result['engine_prompts_per_s']:.2f} prompts/s")
    print(f"bare   {result['bare_prompts_per_s']:.2f} prompts/s")
    print(f"ratio  {result['ratio']:.3f} (target {TARGET})")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
