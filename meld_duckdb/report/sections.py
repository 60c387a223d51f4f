"""The parts of a report: one per function asked, then the workspace, failures, and how it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meld_duckdb.report import charts, facts
from meld_duckdb.report.asked import Asked
from meld_duckdb.report.contents import tables_of
from meld_duckdb.report.judged import Judged
from meld_duckdb.report.view import Chart, Section, Table, number
from meld_duckdb.report.wanted import Wanted
from meld_duckdb.settings import Settings

if TYPE_CHECKING:
    import duckdb

_MOST_COLUMNS = 30
_UNSURE = (0.2, 0.8)


def asked_section(
    con: duckdb.DuckDBPyConnection,
    asked: Asked,
    judged: Judged | None,
    wanted: Wanted,
    anchor: str,
) -> Section:
    """What one function said."""
    kind = asked.call.kind
    drawn = [charts.probabilities(con, asked), charts.accepted(con, asked)]
    drawn += [] if kind.task == "match" else [_by_column(con, asked)]
    drawn += [_sizes(con, asked)] if asked.clusters else []
    notes = [
        f"Several rows of {table} have the same {wanted.id_of(table)}: one of them is shown."
        for table in asked.repeated_ids
        if wanted.show_rows
    ]
    if judged is not None and judged.points:
        drawn.append(charts.quality(asked, judged))
    return Section(
        anchor,
        f"{kind.heading}: {' and '.join(asked.call.tables)}",
        asked.call.name,
        _figures(con, asked),
        [chart for chart in drawn if chart.rows],
        [*_on_labels(judged), *(tables_of(con, asked, wanted) if wanted.show_rows else ())],
        [*notes, *_about_labels(judged)],
    )


def _figures(con: duckdb.DuckDBPyConnection, asked: Asked) -> list[tuple[str, str]]:
    kind = asked.call.kind
    low, high = _UNSURE
    [(n_all, n_accepted, n_unsure)] = con.execute(
        "SELECT count(*), count(*) FILTER (accepted),"
        f" count(*) FILTER (probability > {low} AND probability < {high}) FROM {asked.said}"
    ).fetchall()
    figures = [(kind.things, number(n_all)), (kind.accepted, number(n_accepted))]
    if asked.clusters:
        [(n_rows, n_clusters)] = con.execute(
            f"SELECT count(*), count(DISTINCT cluster_id) FROM {asked.clusters}"
        ).fetchall()
        figures += [("rows", number(n_rows)), ("clusters", number(n_clusters))]
    if asked.cut is not None:
        figures.append(("accepted from", number(float(asked.cut))))
    figures.append((f"unsure ({low} to {high})", number(n_unsure)))
    by_tier = con.execute(
        f"SELECT tier, count(*) FROM {asked.said} GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    figures += [(f"by tier {tier}", number(n)) for tier, n in by_tier if tier is not None]
    n_failed = sum(failure.n_rows for failure in asked.failures)
    return [*figures, ("without an answer", number(n_failed))] if n_failed else figures


def _by_column(con: duckdb.DuckDBPyConnection, asked: Asked) -> Chart:
    counts = con.execute(
        f'SELECT "column", count(*) FROM {asked.said} WHERE accepted'
        f" GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT {_MOST_COLUMNS}"
    ).fetchall()
    named = asked.call.kind.accepted
    return charts.bars(f"{named.capitalize()} by column", named, counts)


def _sizes(con: duckdb.DuckDBPyConnection, asked: Asked) -> Chart:
    counts = con.execute(
        "SELECT cluster_size, count(DISTINCT cluster_id)"
        f" FROM {asked.clusters} WHERE cluster_size > 1 GROUP BY ALL ORDER BY 1"
    ).fetchall()
    sizes = [(f"{size} rows", n) for size, n in counts[:_MOST_COLUMNS]]
    rest = sum(n for _, n in counts[_MOST_COLUMNS:])
    sizes += [("more rows", rest)] if rest else []
    return charts.bars("Clusters of several rows by size", "clusters", sizes)


def _on_labels(judged: Judged | None) -> list[Table]:
    if judged is None or judged.at_cut is None:
        return []
    point = judged.at_cut
    rows = [
        (name.upper() if name == "f1" else name, number(value), *map(number, point.intervals[name]))
        for name, value in point.values.items()
    ]
    return [
        Table(
            f"Tier 0 on the labels, accepting from {point.threshold:.3f} on",
            ("metric", "value", "95 % from", "to"),
            rows,
        )
    ]


def _about_labels(judged: Judged | None) -> list[str]:
    if judged is None:
        return []
    if not judged.points:
        return [
            f"{judged.n} labels of these tables, {judged.n_wanted} of them positive: too few to "
            "judge by."
        ]
    return [
        f"Judged by {judged.n:,} labels of these tables, {judged.n_wanted:,} of them positive, "
        "each by a fit of tier 0 to the labels of other records. Intervals: 95 %, bootstrap over "
        "records. Recall is of what was labelled; labels that meld.label_next chose are harder "
        "than the rest of the tables."
    ]


def stored_section(settings: Settings) -> Section:
    """The answers the workspace keeps."""
    counts = facts.stored(settings, charts.BINS)
    tasks = sorted({task for task, *_ in counts if task})
    drawn = []
    for task in tasks:
        own = [(at, f"tier {tier}", n) for name, tier, at, n in counts if name == task]
        drawn.append(charts.histogram(task, "answers", sorted(own), charts.TIERS))
    sums = Counter({(task, tier): 0 for task, tier, *_ in counts})
    for task, tier, _, n in counts:
        sums[task, tier] += n
    rows = [
        (task or "not named", *(number(sums[task, tier]) for tier in range(3)))
        for task in sorted({task for task, _ in sums}, key=lambda name: (not name, name))
    ]
    lead = "Answers with a probability that the workspace keeps, of all statements so far."
    notes = (
        ["No task is named by answers of older versions and by replies to prompts of KcMF."]
        if any(not task for task, _ in sums)
        else []
    )
    if not rows:
        return Section("stored", "Stored answers", "The workspace has none.")
    table = Table("Answers by task", ("task", "tier 0", "tier 1", "tier 2"), rows)
    return Section("stored", "Stored answers", lead, charts=drawn, tables=[table], notes=notes)


def failures_section(asked: Sequence[Asked], *, messages: bool) -> Section:
    """Why rows have no answer; messages may quote values."""
    failures = [failure for one in asked for failure in one.failures]
    if not failures:
        return Section("failures", "Without an answer", "Every row asked about has an answer.")
    columns = ("function", "reason", "rows", *(("the first says",) if messages else ()))
    rows = [
        (f.function, f.code, number(f.n_rows), *((f.message,) if messages else ()))
        for f in failures
    ]
    return Section(
        "failures", "Without an answer", tables=[Table("Rows by reason", columns, rows, wide=True)]
    )


def run_section(
    con: duckdb.DuckDBPyConnection, settings: Settings, asked: Sequence[Asked], seconds: float
) -> Section:
    """How the answers came about: who answered, what it took, with what."""
    lines = [line for one in asked for line in one.stats]
    columns = [name for name in (lines[0] if lines else {}) if name != "statement"]
    counted = Table(
        "meld.stats()",
        columns,
        [tuple(_stat(line[name]) for name in columns) for line in lines],
    )
    models = Table("Models", ("use", "model", "digest"), list(facts.models(settings)))
    experts = Table("Experts", ("expert", "tier", "task", "used", "why"), facts.experts(con))
    versions = Table("Versions", ("what", "version"), facts.versions())
    set_to = Table("Settings", ("setting", "value", "source"), facts.settings_rows(con))
    return Section(
        "run",
        "How it was made",
        f"The functions took {seconds:.1f} seconds.",
        charts=[charts.tiers(lines)] if lines else [],
        tables=[t for t in (counted, models, experts, versions, set_to) if t.rows],
    )


def _stat(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
