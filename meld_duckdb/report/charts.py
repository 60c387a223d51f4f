"""The charts of a report, from the temporary tables of `asked`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meld_duckdb.report.asked import Asked
from meld_duckdb.report.judged import Judged
from meld_duckdb.report.view import Chart

if TYPE_CHECKING:
    import duckdb

BINS = 20
_STEPS = 100
_SPAN = 50
"""Counts up to this are drawn on a linear axis."""

_ACCEPTED = "#0072B2"
_OTHERS = "#B4BEC8"
TIERS = {
    "answered before": _OTHERS,
    "tier 0": _ACCEPTED,
    "tier 1": "#E69F00",
    "tier 2": "#CC79A7",
}
"""Colours that people with any kind of colour vision can tell apart (Okabe and Ito)."""

_METRICS = {"F1": _ACCEPTED, "precision": "#D55E00", "recall": "#009E73"}


def probabilities(con: duckdb.DuckDBPyConnection, asked: Asked) -> Chart:
    """How many of what was judged have which probability, and which of them are accepted."""
    kind = asked.call.kind
    counts = con.execute(
        f"SELECT least(floor(probability * {BINS}), {BINS - 1})::INT, accepted, count(*)"
        f" FROM {asked.said} GROUP BY ALL ORDER BY 1, 2 DESC"
    ).fetchall()
    parts = [(at, kind.accepted if yes else "others", n) for at, yes, n in counts]
    colours = {kind.accepted: _ACCEPTED, "others": _OTHERS}
    title = f"Probability of all {kind.things}"
    return histogram(title, kind.things, parts, colours, asked.cut)


def histogram(
    title: str,
    things: str,
    parts: Sequence[tuple[int, str, int]],
    colours: dict[str, str],
    cut: float | None = None,
) -> Chart:
    """Bars of counts, each (bin, part, count), the parts of one bin on top of each other."""
    heights: dict[int, int] = {}
    rows = []
    for at, part, n in parts:
        below = heights.get(at, 0)
        heights[at] = below + n
        low, high = at / BINS, (at + 1) / BINS
        span = f"{low:.2f} to {high:.2f}"
        bar = {"low": low, "high": high, "below": below, "top": below + n}
        rows.append({"span": span, "part": part, "n": n, **bar})
    present = {row["part"] for row in rows}
    return Chart(
        "histogram",
        title,
        rows,
        {"span": "probability", "part": "", "n": things},
        {"y": things},
        {part: colour for part, colour in colours.items() if part in present},
        logarithmic=max(heights.values(), default=0) > _SPAN,
        cut=cut,
    )


def accepted(con: duckdb.DuckDBPyConnection, asked: Asked) -> Chart:
    """How many would be accepted from each probability on."""
    kind = asked.call.kind
    counts = con.execute(
        f"SELECT t, coalesce(n, 0), sum(coalesce(n, 0)) OVER (ORDER BY t DESC)::BIGINT"
        f" FROM range({_STEPS + 1}) AS r(t) LEFT JOIN (SELECT"
        f" floor(probability * {_STEPS})::INT AS t, count(*) AS n FROM {asked.said} GROUP BY ALL)"
        " AS s USING (t) ORDER BY t"
    ).fetchall()
    rows = [{"threshold": t / _STEPS, "n": n} for t, _, n in counts if t > 0]
    return Chart(
        "accepted",
        f"{kind.accepted.capitalize()} by threshold",
        rows,
        {"threshold": kind.bound, "n": kind.accepted},
        {"x": kind.bound, "y": kind.accepted},
        logarithmic=max((int(row["n"]) for row in rows), default=0) > _SPAN,
        cut=asked.cut,
    )


def quality(asked: Asked, judged: Judged) -> Chart:
    """Precision, recall and F1 on the labels by threshold; the interval is that of F1."""
    rows = [
        {
            "threshold": point.threshold,
            "metric": name,
            "value": round(point.values[name.lower()], 4),
            "low": round(point.intervals[name.lower()][0], 4),
            "high": round(point.intervals[name.lower()][1], 4),
        }
        for point in judged.points
        for name in _METRICS
    ]
    columns = {"threshold": asked.call.kind.bound, "metric": "metric", "value": "value"}
    return Chart(
        "quality",
        f"Tier 0 on {judged.n:,} labels, {judged.n_wanted:,} of them positive",
        rows,
        {**columns, "low": "95 % from", "high": "to"},
        {"x": asked.call.kind.bound},
        _METRICS,
        cut=asked.cut,
    )


def bars(title: str, things: str, counts: Sequence[tuple[str, int]]) -> Chart:
    """A bar per name."""
    rows = [{"name": name, "n": n} for name, n in counts]
    return Chart("bars", title, rows, {"name": "", "n": things}, {"x": things})


def tiers(lines: Sequence[dict[str, int | str]]) -> Chart:
    """Who answered the questions of each function, by the lines of ``meld.stats()``."""
    fields = dict(zip(TIERS, ("cache_hits", "tier0", "tier1", "tier2"), strict=True))
    counts: dict[tuple[str, str], int] = {}
    for line in lines:
        for part, name in fields.items():
            key = str(line["function"]), part
            counts[key] = counts.get(key, 0) + int(line[name])
    sums: dict[str, int] = {}
    for (function, _), n in counts.items():
        sums[function] = sums.get(function, 0) + n
    rows = [
        {"name": function, "part": part, "n": n, "share": n / sums[function]}
        for (function, part), n in counts.items()
        if n
    ]
    present = {row["part"] for row in rows}
    return Chart(
        "shares",
        "Who answered",
        rows,
        {"name": "function", "part": "by", "n": "questions"},
        {},
        {part: colour for part, colour in TIERS.items() if part in present},
    )
