"""Columns of two schemas or tables that mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from meld_duckdb.errors import InputError
from meld_duckdb.relations.scans import Connection, Scan, Table, arguments, literal, struct

_SIDES = ("left", "right")
_VALUES = """(SELECT to_json(list(v ORDER BY n DESC, v))::VARCHAR FROM (
    SELECT struct_extract(__meld_row, {column})::VARCHAR AS v, count(*) AS n
    FROM query_table({table}) AS __meld_row WHERE v IS NOT NULL
    GROUP BY ALL ORDER BY n DESC, v LIMIT {samples}))"""
_DESCRIPTION = """SELECT any_value(description)::VARCHAR FROM query_table({descriptions})
    WHERE lower(table_name::VARCHAR) = lower({table}) AND lower(column_name::VARCHAR)"""


def match_schemas(
    left: Table,
    right: Table,
    *,
    k: int = 5,
    samples: int = 0,
    method: str | None = None,
    assignment: str | None = None,
    descriptions: Table | None = None,
    candidates: int | None = None,
    rules: str | None = None,
    sources: Sequence[str] | None = None,
    mode: str | None = None,
    demonstrations: int | None = None,
    self_indicator: bool | None = None,
    keywords: str | None = None,
    threshold: float | None = None,
    tier: str | None = None,
    on_error: str | None = None,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    accuracy: float | None = None,
    precision: float | None = None,
    recall: float | None = None,
    delta: float | None = None,
    label_budget: int | None = None,
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Rank, for every column of one schema, the columns of another that mean the same.

    Args:
        left: A relation or frame; or the name of a database, a schema or a table.
        right: As ``left``. If one is a name and the other is not, it names a table.
        k: Columns shown for one.
        samples: The most frequent values of each column that are looked at; none are read unless
            asked for.
        method: ``"features"``, or ``"kcmf"`` to have candidates judged by rules and knowledge.
        assignment: ``"many_to_many"`` or ``"one_to_one"``.
        descriptions: A table (table_name, column_name, description) that says what columns mean,
            and tables where column_name is NULL. A table without a name is called left or right.
        candidates: KcMF: columns looked at closely for one.
        rules: KcMF: name of the set of rules.
        sources: KcMF: knowledge sources, one vote each.
        mode: KcMF: ``"choose"`` or ``"generate"``.
        demonstrations: KcMF: labels shown in a prompt.
        self_indicator: KcMF: whether the model summarises each column first.
        keywords: KcMF: who finds the words to look up.
        threshold: Probability from which columns match; None for the calibrated one.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every pair.
        on_error: ``"fail"`` to make a pair that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        accuracy: Least share of right answers that is guaranteed, below 1; None for no guarantee.
        precision: Likewise of right ones among those returned.
        recall: Likewise of those to be returned that are.
        delta: How likely the guarantee may fail; None for 0.05.
        label_budget: Rows that may be asked about for it; None for any number.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        l_table, l_column, r_table, r_column, rank, probability, matches, tier, evidence. The tables
        are called left and right where they have no name.

    Raises:
        InputError: A table cannot be read, or ``descriptions`` is not of the right kind.
        ConfigError: The functions are not registered on the connection of a relation.
    """
    options: dict[str, object] = {
        "k": k,
        "method": method,
        "assignment": assignment,
        "candidates": candidates,
        "rules": rules,
        "sources": sources,
        "mode": mode,
        "demonstrations": demonstrations,
        "self_indicator": self_indicator,
        "keywords": keywords,
        "threshold": threshold,
        "tier": tier,
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
        "accuracy": accuracy,
        "precision": precision,
        "recall": recall,
        "delta": delta,
        "label_budget": label_budget,
    }
    scan = Scan(connection, left, right, descriptions)
    return scan.query(_statement(scan, (left, right), samples, descriptions, options))


def _statement(
    scan: Scan,
    sides: tuple[Table, Table],
    samples: int,
    descriptions: Table | None,
    options: Mapping[str, object],
) -> str:
    if not isinstance(samples, int) or samples < 0:
        raise InputError(f"samples is {samples!r}, expected a whole number from 0 on")
    if all(isinstance(side, str) for side in sides):
        if not isinstance(descriptions, str | None):
            raise InputError(
                "left and right are names, but descriptions is a table",
                hint="register it, con.register('my_descriptions', table), and give its name",
            )
        named = arguments({**options, "samples": samples, "descriptions": descriptions})
        return f"FROM meld.match_schemas({scan.names[0]}, {scan.names[1]}{named})"
    names = [t if isinstance(t, str) else _SIDES[i] for i, t in enumerate(sides)]
    if sides[0] is sides[1]:
        names[1] = names[0]
    lists = (_columns(scan, i, names[i], samples, descriptions is not None) for i in (0, 1))
    call = ", ".join([*map(literal, names), *lists, struct(options)])
    return f"SELECT unnest(pair) FROM (SELECT unnest(__meld_match_schemas({call})) AS pair)"


def _columns(scan: Scan, place: int, name: str, samples: int, described: bool) -> str:
    """The columns of a table as the list of STRUCTs that the function behind the macro takes."""
    table, descriptions = scan.names[place], scan.names[2]
    known = _DESCRIPTION.format(descriptions=descriptions, table=literal(name))
    columns = []
    for column, kind in scan.columns(place).items():
        fields = {
            "qualified": literal(name),
            "table": literal(name) if literal(name) == table else "NULL::VARCHAR",
            "table_description": f"({known} IS NULL)" if described else "NULL::VARCHAR",
            "column": literal(column),
            "type": literal(kind),
            "description": f"({known} = lower({literal(column)}))"
            if described
            else "NULL::VARCHAR",
        }
        if samples:
            fields["values"] = _VALUES.format(column=literal(column), table=table, samples=samples)
        columns.append("{" + ", ".join(f"{literal(k)}: {v}" for k, v in fields.items()) + "}")
    return f"[{', '.join(columns)}]"
