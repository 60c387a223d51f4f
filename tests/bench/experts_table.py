"""The table of an ablation: mean and spread over the seeds, and what each part is worth.

    python -m tests.bench.experts_table FILE [FILE ...]

The files are those of ``bench_experts --json``, all of the same costs. First every set and variant:
mean of the metric over the seeds, and the distance from the lowest to the highest. Then every
variant against ``full``: mean over sets and seeds of what ``full`` has more, by task, with an
interval of 95 % by bootstrap over sets, then seeds within a set. The same rows are
asked in both, so what differs between sets and draws of rows does not widen it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.bench_experts import VARIANTS

Cells = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Metric by variant, ``task/set`` and seed; ``match, AUC/set`` for the probabilities of pairs."""

DRAWS = 2_000


def read(files: Sequence[Path]) -> Cells:
    """What was measured.

    Raises:
        ValueError: The files are of different costs.
    """
    lines: list[dict[str, Any]] = [x for file in files for x in json.loads(file.read_text("utf-8"))]
    costs = {
        json.dumps({k: v for k, v in x.items() if k not in ("variant", "seed", "seconds", "sets")})
        for x in lines
    }
    if len(costs) != 1:
        raise ValueError(f"the files are of {len(costs)} different costs: {sorted(costs)}")
    found: dict[str, dict[str, dict[int, float]]] = {}
    for line in lines:
        of_variant = found.setdefault(line["variant"], {})
        for one in line["sets"]:
            values = {one["task"]: one["value"]}
            if "auc" in one["others"]:
                values[f"{one['task']}, AUC"] = one["others"]["auc"]
            for task, value in values.items():
                of_variant.setdefault(f"{task}/{one['set']}", {})[line["seed"]] = value
    return {name: found[name] for name in VARIANTS if name in found}


def gains(cells: Cells, variant: str, sets: Sequence[str]) -> list[np.ndarray]:
    """What ``full`` has more than a variant, for each set: an array over their common seeds."""
    found = []
    for name in sets:
        full, other = cells["full"].get(name, {}), cells[variant].get(name, {})
        shared = sorted(full.keys() & other.keys())
        if shared:
            found.append(np.array([full[seed] - other[seed] for seed in shared]))
    return found


def interval(found: Sequence[np.ndarray], seed: int = 42) -> tuple[float, float, float]:
    """Mean over sets, and the bounds of its 95 % interval."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(DRAWS):
        drawn = [found[i] for i in rng.integers(0, len(found), len(found))]
        means.append(np.mean([rng.choice(one, len(one)).mean() for one in drawn]))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([one.mean() for one in found])), float(low), float(high)


def table(cells: Cells) -> str:
    """Both tables, as Markdown."""
    names = list(dict.fromkeys(name for sets in cells.values() for name in sets))
    lines = [f"| set | {' | '.join(cells)} |", "| --- |" + " --- |" * len(cells)]
    for name in names:
        row = []
        for sets in cells.values():
            values = list(sets.get(name, {}).values())
            spread = f" ({min(values):.2f} to {max(values):.2f})" if values else ""
            row.append(f"{np.mean(values):.2f}{spread}" if values else "")
        lines.append(f"| {name} | {' | '.join(row)} |")
    tasks = list(dict.fromkeys(name.partition("/")[0] for name in names))
    lines += [
        "",
        f"| `full` less | {' | '.join(tasks)} |",
        "| --- |" + " --- |" * len(tasks),
    ]
    for variant in cells:
        if variant == "full":
            continue
        row = []
        for task in tasks:
            found = gains(cells, variant, [n for n in names if n.startswith(f"{task}/")])
            mean, low, high = interval(found) if found else (0.0, 0.0, 0.0)
            row.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if found else "")
        lines.append(f"| {variant} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    print(table(read(parser.parse_args().files)))


if __name__ == "__main__":
    main()
