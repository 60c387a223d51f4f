"""Word results: a Markdown table, or JSON with everything that decides a number."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from meld_duckdb.evaluate.labels import ALL, Request
from meld_duckdb.evaluate.result import Result, best_baseline

_PACKAGES = ("meld-duckdb", "duckdb", "pyarrow", "numpy", "scikit-learn", "rapidfuzz", "torch")
_HEADER = (
    "task", "data set", "labels", "n", "positives", "metric", "value", "95 % interval",
    "best baseline", "other baselines", "seconds",
)  # fmt: skip


def to_markdown(results: Sequence[Result]) -> str:
    """A table with a line per task and data set; further metrics below it stand in its line."""
    lines = [_line(_HEADER), _line(["---"] * len(_HEADER))]
    lines += [_line(_cells(result)) for result in results]
    notes = [
        f"- {r.task}, {r.dataset}: {note}" for r in results for note in (*r.notes, *_problems(r))
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _cells(result: Result) -> list[str]:
    positives = "" if result.positives is None else str(result.positives)
    shape = [result.task, result.dataset, str(result.labels), str(result.n), positives]
    seconds = f"{result.seconds:.1f}"
    if not result.values:
        return [*shape, "", "not possible", "", "", "", seconds]
    first, *others = result.values
    value = f"{first.value:.3f}"
    if others:
        value += " (" + ", ".join(f"{v.metric} {v.value:.3f}" for v in others) + ")"
    best = best_baseline(result)
    rest = {k: v for k, v in result.baselines.items() if best is None or k != best[0]}
    return [
        *shape,
        first.metric,
        value,
        f"{first.low:.3f} to {first.high:.3f}",
        f"{best[0]} {best[1]:.3f}" if best else "",
        "; ".join(f"{k} {v:.3f}" for k, v in rest.items()),
        seconds,
    ]


def _problems(result: Result) -> list[str]:
    found = [f"not possible: {result.error}"] if result.error is not None else []
    if result.failures:
        found.append(f"{result.failures} questions could not be answered")
    return found


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def to_json(results: Sequence[Result], request: Request, tier: str) -> str:
    """Everything, with settings, versions and data digests."""
    content = {
        "settings": {
            "labels": _labels(request.labels),
            "seed": request.seed,
            "protocol": request.protocol,
            "limit": request.limit,
            "lenient": request.lenient,
            "tier": tier,
            "options": dict(request.options),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": platform.machine(),
        "results": [_entry(result) for result in results],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def _labels(labels: int | None) -> str | int:
    if labels is None:
        return "shipped"
    return "all" if labels == ALL else labels


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _entry(result: Result) -> dict[str, Any]:
    best = best_baseline(result)
    first = result.values[0] if result.values else None
    return {
        "task": result.task,
        "dataset": result.dataset,
        "data_sha256": result.digest,
        "labels": result.labels,
        "n": result.n,
        "positives": result.positives,
        "metric": first.metric if first else None,
        "value": first.value if first else None,
        "ci_low": first.low if first else None,
        "ci_high": first.high if first else None,
        "metrics": [
            {"metric": v.metric, "value": v.value, "ci_low": v.low, "ci_high": v.high}
            for v in result.values
        ],
        "best_baseline": best[0] if best else None,
        "baselines": [{"name": k, "value": v} for k, v in result.baselines.items()],
        "tiers": {str(k): v for k, v in result.tiers.items()},
        "failures": result.failures,
        "seconds": round(result.seconds, 2),
        "notes": list(result.notes),
        "error": result.error,
    }
