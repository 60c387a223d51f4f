"""A language model as a plain DuckDB function, a row at a time, on the first test pairs of a set.

    python tests/bench/peers/udf_match.py --data DIR [--set ...] [--rows 150] [--json FILE]

What one writes by hand: ``create_function`` around ``generate`` of transformers, with the same model
as the product's tier 2. Runs in the product's environment.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import transformers
from pairs import SETS, arguments, as_text, graded, read_pairs, report

from meld_duckdb import models
from meld_duckdb.settings import DEFAULT_MODEL, default_model_dir

QUESTION = "Do these two records describe the same entity? Answer yes or no.\nA: {}\nB: {}"


def connect() -> duckdb.DuckDBPyConnection:
    """A database with the function ``same(left, right)``."""
    path = models.locate(DEFAULT_MODEL, default_model_dir(), "language model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    model = loaded.eval()

    def same(left: str, right: str) -> bool:
        chat = [{"role": "user", "content": QUESTION.format(left, right)}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, return_tensors="pt")
        made = model.generate(**given, max_new_tokens=4, do_sample=False)
        answer = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        return str(answer).strip().lower().startswith("yes")

    con = duckdb.connect()
    con.create_function("same", same, ["VARCHAR", "VARCHAR"], "BOOLEAN")
    return con


def measure(con: duckdb.DuckDBPyConnection, folder: Path, n_rows: int) -> dict[str, Any]:
    """Ask the function about the test pairs of a set."""
    asked = read_pairs(folder, "test", n_rows)
    con.execute("CREATE OR REPLACE TABLE asked (n INTEGER, l VARCHAR, r VARCHAR)")
    rows = [(n, as_text(a), as_text(b)) for n, (a, b) in enumerate(asked.records)]
    con.executemany("INSERT INTO asked VALUES (?, ?, ?)", rows)
    started, used = time.perf_counter(), time.process_time()
    said = con.execute("SELECT same(l, r) FROM asked ORDER BY n").fetchall()
    head: dict[str, Any] = {"set": folder.name, "peer": "DuckDB UDF, a row at a time"}
    head["seconds"] = time.perf_counter() - started
    head["processor_s"] = time.process_time() - used
    return head | graded(asked.labels, np.array([x for (x,) in said]))


def main() -> None:
    """Measure the sets, print a line each, write JSON if asked to."""
    parser = arguments(__doc__, SETS)
    parser.add_argument("--rows", type=int, default=150)
    given = parser.parse_args()
    con = connect()
    found = (measure(con, given.data / name, given.rows) for name in given.set)
    report(given.json, found, ("duckdb", "torch", "transformers"))


if __name__ == "__main__":
    main()
