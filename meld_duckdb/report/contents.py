"""The tables of a report that show rows of the user's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meld_duckdb.records import Record
from meld_duckdb.report.asked import Asked, rows_by_id
from meld_duckdb.report.view import Cell, Fields, Table, number, shortened
from meld_duckdb.report.wanted import Wanted

if TYPE_CHECKING:
    import duckdb

_MOST_CLUSTERS = 25
_MOST_MEMBERS = 10
_MOST_REASONS = 3
_LONGEST_REASON = 90
_GONE = "no longer there"


def tables_of(con: duckdb.DuckDBPyConnection, asked: Asked, wanted: Wanted) -> list[Table]:
    """Pairs, clusters or cells, those worth a look first."""
    if asked.clusters is not None:
        return _clusters(con, asked, wanted)
    kind = asked.call.kind
    build = _pairs if kind.task == "match" else _cells
    most, keys = wanted.n_rows, ", ".join(kind.keys)
    found = []
    for title, where, order, most_rows in (
        (kind.accepted.capitalize(), "accepted", "probability", most),
        (
            "Closest below the bound",
            "NOT accepted AND probability > 0",
            "probability DESC",
            most // 4,
        ),
    ):
        [(n,)] = con.execute(f"SELECT count(*) FROM {asked.said} WHERE {where}").fetchall()
        if not n:
            continue
        picked = f"FROM {asked.said} WHERE {where} ORDER BY {order}, {keys} LIMIT {most_rows}"
        columns, rows = build(con, asked, wanted, picked)
        least = "least sure" if where == "accepted" else "likeliest"
        found.append(Table(title, columns, rows, _not_shown(len(rows), n, least), wide=True))
    return found


def _not_shown(n_shown: int, n: int, which: str) -> str:
    if n_shown == n:
        return ""
    return f"The {which} {n_shown:,} of {n:,}; {n - n_shown:,} are not shown (--rows)."


def _fields(record: Record | None, key: str) -> Cell:
    if record is None:
        return _GONE
    return Fields(
        tuple(
            (name, shortened(value))
            for name, value in record.fields.items()
            if name.lower() != key.lower()
        )
    )


def _pairs(
    con: duckdb.DuckDBPyConnection, asked: Asked, wanted: Wanted, picked: str
) -> tuple[Sequence[str], list[tuple[Cell, ...]]]:
    left, right = asked.call.tables
    pairs = con.execute(f"SELECT l_id::VARCHAR, r_id::VARCHAR, probability, tier {picked}")
    shown = pairs.fetchall()
    keys = wanted.id_of(left), wanted.id_of(right)
    rows_l = rows_by_id(con, left, keys[0], [pair[0] for pair in shown if pair[0] is not None])
    rows_r = rows_by_id(con, right, keys[1], [pair[1] for pair in shown if pair[1] is not None])
    headings = ("probability", f"{left} {keys[0]}", left, f"{right} {keys[1]}", right)
    return headings, [
        (
            number(p),
            _text(a),
            _fields(rows_l.get(a), keys[0]),
            _text(b),
            _fields(rows_r.get(b), keys[1]),
        )
        for a, b, p, _ in shown
    ]


def _cells(
    con: duckdb.DuckDBPyConnection, asked: Asked, wanted: Wanted, picked: str
) -> tuple[Sequence[str], list[tuple[Cell, ...]]]:
    shown = con.execute(
        f'SELECT id::VARCHAR, "column", "old", "new", probability, evidence {picked}'
    ).fetchall()
    key = wanted.id_of(asked.call.tables[0])
    has_old, has_new = (
        asked.call.kind.function in names
        for names in (("find_errors", "repairs"), ("repairs", "impute_nulls"))
    )
    values = ["old", "new"] if has_old and has_new else ["value"]
    return [key, "column", *values, "probability", "evidence"], [
        (
            _text(row),
            column,
            *((_text(old),) if has_old else ()),
            *((_text(new),) if has_new else ()),
            number(p),
            _reasons(evidence),
        )
        for row, column, old, new, p, evidence in shown
    ]


def _reasons(evidence: Sequence[Mapping[str, Any]] | None) -> str:
    reasons = (evidence or ())[:_MOST_REASONS]
    return "\n".join(
        f"{e['kind']} {e['weight']:.2f}: {shortened(e['text'], _LONGEST_REASON)}" for e in reasons
    )


def _text(value: str | None) -> str:
    return "NULL" if value is None else shortened(value) or ""


def _clusters(con: duckdb.DuckDBPyConnection, asked: Asked, wanted: Wanted) -> list[Table]:
    """The clusters with the least likely pair inside, and the largest ones."""
    measured = (
        f"SELECT m.cluster_id, any_value(m.cluster_size) AS size, min(p.probability) AS least"
        f" FROM {asked.clusters} AS m LEFT JOIN ({asked_inside(asked)}) AS p USING (cluster_id)"
        " WHERE m.cluster_size > 1 GROUP BY ALL"
    )
    found = []
    for title, order, which in (
        ("Clusters with the least likely pair", "least, cluster_id", "least sure"),
        ("Largest clusters", "size DESC, cluster_id", "largest"),
    ):
        [(n,)] = con.execute(f"SELECT count(*) FROM ({measured})").fetchall()
        if not n:
            continue
        rows, n_shown, n_left = _members(con, asked, wanted, f"{measured} ORDER BY {order}")
        note = _not_shown(n_shown, n, which)
        if n_left:
            note += f" {n_left:,} rows of clusters with more than {_MOST_MEMBERS} are left out."
        key = wanted.id_of(asked.call.tables[0])
        columns = ("cluster", "rows", "least likely pair", key, asked.call.tables[0])
        found.append(Table(title, columns, rows, note.strip(), wide=True))
    return found


def asked_inside(asked: Asked) -> str:
    """Query of the judged pairs of which both rows are in one cluster."""
    return (
        f"SELECT a.cluster_id, s.probability FROM {asked.said} AS s"
        f" JOIN {asked.clusters} AS a ON a.id = s.l_id"
        f" JOIN {asked.clusters} AS b ON b.id = s.r_id AND b.cluster_id = a.cluster_id"
    )


def _members(
    con: duckdb.DuckDBPyConnection, asked: Asked, wanted: Wanted, ordered: str
) -> tuple[list[tuple[Cell, ...]], int, int]:
    """Rows of the first clusters of a query, how many clusters, and how many rows are left out."""
    most = min(_MOST_CLUSTERS, wanted.n_rows)
    members = con.execute(
        f"SELECT c.cluster_id::VARCHAR, c.size, c.least, m.id::VARCHAR, c.at FROM"
        f" (SELECT *, row_number() OVER () AS at FROM ({ordered} LIMIT {most})) AS c"
        f" JOIN {asked.clusters} AS m USING (cluster_id) ORDER BY c.at, m.id"
    ).fetchall()
    counted: dict[int, int] = {}
    shown = []
    for cluster, size, least, row, at in members:
        counted[at] = counted.get(at, 0) + 1
        if counted[at] <= _MOST_MEMBERS:
            shown.append((cluster, size, least, row))
    table = asked.call.tables[0]
    key = wanted.id_of(table)
    records = rows_by_id(con, table, key, [row for *_, row in shown if row is not None])
    rows: list[tuple[Cell, ...]] = [
        (
            _text(cluster),
            number(size),
            "" if least is None else number(least),
            _text(row),
            _fields(records.get(row), key),
        )
        for cluster, size, least, row in shown
    ]
    return rows, len(counted), len(members) - len(shown)
