"""Entity matching with LOTUS ``sem_filter`` over a local server, on the first test pairs of a set.

    python tests/bench/peers/chat_server.py &
    python tests/bench/peers/lotus_match.py --data DIR [--set ...] [--rows 150] [--json FILE]

Two lines a set: the bare instruction, and with examples from ``fewshot`` in the parameter
``examples``. ``default=False``: a reply that is neither True nor False is no match.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pairs import SETS, Pairs, arguments, as_text, graded, read_pairs, report

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the net for prices
import lotus
from lotus.models import LM

INSTRUCTION = "The record {left} and the record {right} describe the same entity"
N_EXAMPLES = 4
"""Matches and others in turn. More lengthen every prompt; LOTUS shows all rows the same ones."""
WAIT_S = 120


def frame(pairs: Pairs) -> pd.DataFrame:
    """Pairs as a frame of two texts."""
    sides = [[as_text(record) for record in side] for side in zip(*pairs.records, strict=True)]
    return pd.DataFrame({"left": sides[0], "right": sides[1]})


def examples(taught: Pairs) -> pd.DataFrame:
    """The first matches and others of the labels, in turn."""
    picked = [np.flatnonzero(taught.labels == match)[: N_EXAMPLES // 2] for match in (True, False)]
    at = np.stack(picked, axis=1).ravel()
    found = frame(taught).iloc[at].reset_index(drop=True)
    found["Answer"] = taught.labels[at].tolist()
    return found


def processor_s(server: str) -> float:
    """Processor seconds so far of this process and the server."""
    with urllib.request.urlopen(f"{server}/models", timeout=60) as told:
        return time.process_time() + float(json.load(told)["processor_s"])


def measure(folder: Path, n_rows: int, server: str) -> list[dict[str, Any]]:
    """Filter the test pairs of a set by the instruction."""
    taught, asked = read_pairs(folder, "fewshot"), read_pairs(folder, "test", n_rows)
    lines = []
    for name, shown in (("no examples", None), (f"{N_EXAMPLES} examples", examples(taught))):
        started, used = time.perf_counter(), processor_s(server)
        found = frame(asked).sem_filter(
            INSTRUCTION, examples=shown, default=False, progress_bar_desc=folder.name
        )
        seconds = time.perf_counter() - started
        said = np.isin(np.arange(len(asked.ids)), found.index.to_numpy())
        head: dict[str, Any] = {
            "set": folder.name,
            "peer": f"LOTUS sem_filter, {name}",
            "seconds": seconds,
        }
        head["processor_s"] = processor_s(server) - used
        lines.append(head | graded(asked.labels, said))
    return lines


def wait_for(server: str) -> None:
    """Wait until a server answers: it loads a model first."""
    for _ in range(WAIT_S):
        try:
            urllib.request.urlopen(f"{server}/models", timeout=30).close()
            return
        except urllib.error.URLError:
            time.sleep(1)
    raise SystemExit(f"nothing answers at {server}; start tests/bench/peers/chat_server.py")


def main() -> None:
    """Measure the sets, print a line each, write JSON if asked to."""
    parser = arguments(__doc__, SETS)
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--server", default="http://127.0.0.1:8123/v1")
    given = parser.parse_args()
    wait_for(given.server)
    # the name is that of no known model, so LiteLLM only passes it on
    model = LM("openai/smollm2-135m-instruct", api_base=given.server, api_key="none", max_tokens=16)
    lotus.settings.configure(lm=model)
    found = (
        line for name in given.set for line in measure(given.data / name, given.rows, given.server)
    )
    report(given.json, found, ("lotus-ai", "litellm", "pandas", "duckdb"))


if __name__ == "__main__":
    main()
