"""Training rows that a tiny language model can learn."""

from __future__ import annotations

from meld_duckdb.records import make_record
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.rows import TrainingRow


def toy_rows(n: int, start: int = 0, task: str = "match") -> list[TrainingRow]:
    """Pairs that match if the first is of sony; the second says nothing.

    The tiny tokenizer begins both ``match`` and ``mismatch`` with one token, but ``error`` and
    ``correct``, the answers of ``detect_error`` about the first record, with two.
    """
    rows = []
    for i in range(start, start + n):
        brand = "sony" if i % 2 else "canon"
        left = make_record({"title": f"{brand} camera {i}"})
        right = make_record({"title": f"price {i * 7 % 10}"})
        query, named = Query((left, right)), TASKS[task].labels
        if task == "detect_error":
            query = Query((left,), "title")
        assert named is not None
        rows.append(TrainingRow(task, query, named[0] if i % 2 else named[1]))
    return rows
