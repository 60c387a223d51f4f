"""Every task on a small real set: rows per second and quality, cold, warm and duplicated.

    python -m tests.bench.bench_tasks [--data DIR] [--task match ...] [--json FILE]

The exams, labels and grades are those of ``meld eval``. A task is a fresh process:

- ``cold``: the first time in a fresh workspace, with what the statement has to load and fit;
- ``warm``: the same statement again;
- ``duplicated``: in another fresh workspace of the same process, every question ten times.

Preparing (indexing, teaching labels) is timed apart. Tier ``auto``: with the default model tier 0
settles all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.fresh import in_fresh_process

if TYPE_CHECKING:
    import duckdb

    from meld_duckdb.evaluate.case import Case

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
TIMES = 10
_QUESTIONS = "questions"


@dataclass(frozen=True, slots=True)
class Exercise:
    """A task on a set.

    Attributes:
        folder: Of the set, below the data.
        limit: Questions drawn; None for all.
        protocol: How labels are chosen; see `Request`.
    """

    folder: str
    limit: int | None = None
    protocol: str = "stratified"


EXERCISES = {
    "block": Exercise("EM/amazon_google"),
    "match": Exercise("EM/amazon_google"),
    "detect_error": Exercise("ED_DC/hospital", protocol="active"),
    "repair": Exercise("ED_DC/hospital", protocol="active"),
    "impute": Exercise("DI/amazon"),
    "annotate_column": Exercise("CTA/t2dv2"),
    "extract_relation": Exercise("RE/wikigs_re", 1_000),
    "link_entity": Exercise("EL/limaye", 1_000),
    "schema_match": Exercise("SM/cms"),
    "extract_attribute": Exercise("AVE/oa_mine", 1_000),
}


def run_one(task: str, data: str) -> dict[str, Any]:
    """Measure a task in this process."""
    from meld_duckdb.evaluate.fresh import fresh_connection
    from meld_duckdb.evaluate.labels import Request
    from meld_duckdb.evaluate.layout import find_datasets
    from meld_duckdb.evaluate.run import prepare

    given = EXERCISES[task]
    [found] = find_datasets(Path(data) / given.folder, task)
    request = Request(limit=given.limit, protocol=given.protocol)
    case = prepare(task, found, request, None)[0]
    with fresh_connection() as (con, _):
        prepare_s = _prepared(con, case)
        modes = {"cold": _asked(con, case), "warm": _asked(con, case)}
    if task != "block":  # which blocks tables: there are no questions to repeat
        with fresh_connection() as (con, _):
            _prepared(con, case)
            con.execute(f"CREATE TABLE once AS FROM {_QUESTIONS}; DROP TABLE {_QUESTIONS}")
            con.execute(f"CREATE TABLE {_QUESTIONS} AS SELECT once.* FROM range({TIMES}), once")
            modes["duplicated"] = _asked(con, case, TIMES)
    head = {"task": task, "set": case.dataset, "labels": case.labels, "prepare_s": prepare_s}
    return head | {"modes": modes}


def _prepared(con: duckdb.DuckDBPyConnection, case: Case) -> float:
    from meld_duckdb.evaluate.asking import load

    load(con, case.exam)
    started = time.perf_counter()
    for statement in case.exam.setup:
        con.execute(statement).fetchall()
    return time.perf_counter() - started


def _asked(con: duckdb.DuckDBPyConnection, case: Case, times: int = 1) -> dict[str, Any]:
    """Ask and grade; a question that is there several times is graded once."""
    from meld_duckdb.evaluate.asking import replies_of
    from meld_duckdb.evaluate.metrics import interval

    started, processor = time.perf_counter(), time.process_time()
    replies = replies_of(con, case.exam, "auto")
    seconds, used = time.perf_counter() - started, time.process_time() - processor
    headline = case.gold.grade(replies)[0]
    low, high = interval(headline, 42)
    rows = times * case.exam.n
    return {
        "rows": rows,
        "seconds": seconds,
        "processor_s": used,
        "rows_per_s": rows / seconds,
        "metric": headline.name,
        "value": headline.value,
        "low": low,
        "high": high,
        "failures": sum(reply.error is not None for reply in replies),
        "tiers": dict(Counter(f"tier {reply.tier}" for reply in replies)),
    }


def run_all(data: Path, tasks: Iterable[str] = tuple(EXERCISES)) -> list[dict[str, Any]]:
    """Measure tasks, each in a process of its own."""
    lines = []
    for task in tasks:
        line = in_fresh_process("tests.bench.bench_tasks", task, data)
        line["exercise"] = asdict(EXERCISES[task])
        lines.append(line)
        print(_shown(line), flush=True)
    return lines


def _shown(line: dict[str, Any]) -> str:
    cold = line["modes"]["cold"]
    rates = ", ".join(
        f"{name} {m['rows_per_s']:.0f}/s (processor {m['processor_s']:.1f} s)"
        for name, m in line["modes"].items()
    )
    return (
        f"{line['task']} on {line['set']} ({line['labels']} labels, {cold['rows']} rows): {rates}; "
        f"{cold['metric']} {cold['value']:.3f} ({cold['low']:.3f} to {cold['high']:.3f}), "
        f"prepared in {line['prepare_s']:.1f} s, {line['peak_mb']:.0f} MB"
    )


def main() -> None:
    """Measure the tasks asked for, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--task", nargs="+", choices=list(EXERCISES), default=list(EXERCISES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        found = run_one(*given.one)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    lines = run_all(given.data, given.task)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
