"""One chart of a run, as a self-contained SVG file: rows per second of every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLOURS = {"cold": "#0072B2", "warm": "#E69F00", "duplicated": "#009E73"}
"""Told apart by people with any kind of colour vision (Okabe and Ito)."""

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 150, 560, 10, 12, 60


def draw(tasks: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw rows per second on a logarithmic axis, three bars a task.

    Args:
        tasks: Lines of `bench_tasks.run_all`.
        title: What was measured: commit and machine.
    """
    rates = [mode["rows_per_s"] for task in tasks for mode in task["modes"].values()]
    low, high = math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates)))
    row = len(_COLOURS) * _BAR + _GAP
    bottom = _TOP + row * len(tasks)
    parts = [_text(10, 20, title, "start", 13)]
    for power in range(low, high + 1):
        x = _x(10.0**power, low, high)
        parts.append(f'<path d="M{x:.1f} {_TOP - 4}V{bottom}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 16, f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"))
    parts.append(_text(_LEFT + _WIDTH / 2, bottom + 34, "rows per second"))
    for at, (name, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + 110 * at
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 15, 41, name, "start"))
    for n, task in enumerate(tasks):
        parts += _task(task, _TOP + n * row, low, high)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 130}" '
        f'height="{bottom + 45}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _task(task: Mapping[str, Any], y: float, low: int, high: int) -> list[str]:
    cold = task["modes"]["cold"]
    parts = [
        _text(_LEFT - 8, y + 14, task["task"], "end"),
        _text(_LEFT - 8, y + 27, f"{cold['metric']} {cold['value']:.2f}", "end", 10),
    ]
    for n, (name, mode) in enumerate(task["modes"].items()):
        x, top = _x(mode["rows_per_s"], low, high), y + n * _BAR
        parts.append(
            f'<rect x="{_LEFT}" y="{top}" width="{x - _LEFT:.1f}" height="{_BAR - 1}" '
            f'fill="{_COLOURS[name]}"/>'
        )
        parts.append(_text(x + 4, top + 8, f"{mode['rows_per_s']:,.0f}", "start", 9))
    return parts


def _x(rate: float, low: int, high: int) -> float:
    return _LEFT + _WIDTH * (math.log10(rate) - low) / max(1, high - low)


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
