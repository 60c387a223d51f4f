"""Rows that describe the same thing: blocking, matching, joining, clusters."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from meld_duckdb.relations.scans import Connection, Key, Scan, Table, arguments, literal, struct

_MATCH = """
    WITH __meld_judged AS MATERIALIZED (
        SELECT l_id, r_id, meld_match_detail(__meld_a, __meld_b, {options}) AS __meld_found
        FROM ({pairs}))
    SELECT l_id, r_id, __meld_found.answer AS matches, __meld_found.probability AS probability,
           __meld_found.tier AS tier, __meld_found.evidence AS evidence, __meld_found.error AS error
    FROM __meld_judged"""
_GIVEN = """
    SELECT p.l_id AS l_id, p.r_id AS r_id, __meld_a, __meld_b FROM query_table({pairs}) AS p
    LEFT JOIN {left} ON struct_extract(__meld_a, {l_id}) = p.l_id
    LEFT JOIN {right} ON struct_extract(__meld_b, {r_id}) = p.r_id"""
_SIDE_BY_SIDE = """
    SELECT struct_extract(__meld_a, {l_id}) AS l_id, struct_extract(__meld_b, {r_id}) AS r_id,
           CASE WHEN __meld_a IS NULL OR __meld_b IS NULL
                THEN error('the tables have different numbers of rows; give pairs, or use join')
                ELSE __meld_a END AS __meld_a,
           __meld_b
    FROM {left} POSITIONAL JOIN {right}"""


def block(
    left: Table,
    right: Table,
    *,
    k: int = 10,
    method: str = "ranked",
    l_id: str = "id",
    r_id: str = "id",
    equal: str | Sequence[str] | None = None,
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Find, for every row of a table, the rows of another that are most likely the same thing.

    Args:
        left: Every row of it gets candidates.
        right: Where the candidates are; the table itself to look for duplicates.
        k: Candidates of a row.
        method: ``"ranked"``, ``"lexical"``, ``"static"``, ``"dense"``, ``"hybrid"`` or ``"union"``.
        l_id: Column that names the rows of ``left``.
        r_id: Column that names the rows of ``right``.
        equal: Columns whose values have to be equal, ``"zip = postcode"`` for different names.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        l_id, r_id, rank, score, recall_estimate.

    Raises:
        InputError: A table or a column cannot be read.
        ConfigError: The functions are not registered on the connection of a relation.
    """
    scan = Scan(connection, left, right)
    options: dict[str, object] = {
        "k": k,
        "method": method,
        "l_id": l_id,
        "r_id": r_id,
        "equal": equal,
    }
    return _of_two(scan, "block", options, l_id, r_id)


def join(
    left: Table,
    right: Table,
    *,
    k: int = 10,
    threshold: float | None = None,
    method: str = "lexical",
    tier: str | None = None,
    on_error: str | None = None,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    accuracy: float | None = None,
    precision: float | None = None,
    recall: float | None = None,
    delta: float | None = None,
    label_budget: int | None = None,
    l_id: str = "id",
    r_id: str = "id",
    equal: str | Sequence[str] | None = None,
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Find the pairs of rows that match: candidates, judged with both tables as context.

    Args:
        left: One table.
        right: The other; the table itself to look for duplicates.
        k: Candidates of a row.
        threshold: Probability from which a pair matches; None for the calibrated one.
        method: How candidates are found; see `block`.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every pair.
        on_error: ``"fail"`` to make a pair that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        accuracy: Least share of right answers that is guaranteed, below 1; None for no guarantee.
        precision: Likewise of right ones among those returned.
        recall: Likewise of those to be returned that are.
        delta: How likely the guarantee may fail; None for 0.05.
        label_budget: Rows that may be asked about for it; None for any number.
        l_id: Column that names the rows of ``left``.
        r_id: Column that names the rows of ``right``.
        equal: Columns whose values have to be equal, ``"zip = postcode"`` for different names;
            other pairs are not compared.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        l_id, r_id, probability, tier, blocking_score.

    Raises:
        InputError: A table or a column cannot be read.
        ConfigError: The functions are not registered on the connection of a relation.
    """
    scan = Scan(connection, left, right)
    options: dict[str, object] = {
        "k": k,
        "threshold": threshold,
        "method": method,
        "tier": tier,
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
        "accuracy": accuracy,
        "precision": precision,
        "recall": recall,
        "delta": delta,
        "label_budget": label_budget,
        "l_id": l_id,
        "r_id": r_id,
        "equal": equal,
    }
    return _of_two(scan, "join", options, l_id, r_id)


def match(
    left: Table,
    right: Table,
    pairs: Table | None = None,
    *,
    threshold: float | None = None,
    tier: str | None = None,
    on_error: str | None = None,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    l_id: str = "id",
    r_id: str = "id",
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Judge pairs of rows that are known: every one gets a line.

    To search for the pairs as well, use `join`, which also has both tables as context; here a table
    is context if it was indexed by ``FROM meld.index('name')``.

    Args:
        left: One table.
        right: The other.
        pairs: A table with columns ``l_id`` and ``r_id``, such as `block` gives. Without it the
            first row of ``left`` is judged with the first of ``right``, and so on; then both need
            as many rows.
        threshold: Probability from which a pair matches; None for the calibrated one.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every pair.
        on_error: ``"fail"`` to make a pair that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        l_id: Column that names the rows of ``left``.
        r_id: Column that names the rows of ``right``.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        l_id, r_id, matches, probability, tier, evidence, error; matches is NULL where a table has
        no such row, and where ``error`` says why.

    Raises:
        InputError: A table or a column cannot be read.
        ConfigError: The functions are not registered on the connection of a relation.
    """
    scan = Scan(connection, left, right, pairs)
    a, b, known = scan.names
    judged = (_SIDE_BY_SIDE if pairs is None else _GIVEN).format(
        left=f"(SELECT __meld_row AS __meld_a FROM query_table({a}) AS __meld_row)",
        right=f"(SELECT __meld_row AS __meld_b FROM query_table({b}) AS __meld_row)",
        pairs=known,
        l_id=literal(l_id),
        r_id=literal(r_id),
    )
    options = {
        "threshold": threshold,
        "tier": tier,
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
    }
    keys: list[Key] = [("l_id", l_id, 0), ("r_id", r_id, 1)]
    if pairs is not None:
        keys += [("pairs", "l_id", 2), ("pairs", "r_id", 2)]
    return scan.query(_MATCH.format(options=struct(options), pairs=judged), *keys)


def dedupe(
    table: Table,
    *,
    k: int = 10,
    threshold: float | None = None,
    method: str = "lexical",
    linkage: str = "majority",
    tier: str | None = None,
    on_error: str | None = None,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    id: str = "id",
    equal: str | Sequence[str] | None = None,
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Put the rows of a table that describe the same thing into clusters.

    Args:
        table: The table.
        k: Candidates of a row.
        threshold: Probability from which a pair matches; None for the calibrated one.
        method: How candidates are found; see `block`.
        linkage: ``"majority"``, or ``"components"`` to join along chains of matches.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every pair.
        on_error: ``"fail"`` to make a pair that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        id: Column that names the rows.
        equal: Columns whose values all rows of a cluster have in common.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        Every row: id, cluster_id (the least id of its cluster), cluster_size.

    Raises:
        InputError: The table or the column cannot be read.
        ConfigError: The functions are not registered on the connection of the relation.
    """
    options: dict[str, object] = {
        "k": k,
        "threshold": threshold,
        "method": method,
        "linkage": linkage,
        "tier": tier,
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
        "id": id,
        "equal": equal,
    }
    scan = Scan(connection, table)
    return scan.query(f"FROM meld.dedupe({scan.names[0]}{arguments(options)})", ("id", id, 0))


def _of_two(
    scan: Scan, name: str, options: dict[str, object], l_id: str, r_id: str
) -> duckdb.DuckDBPyRelation:
    sql = f"FROM meld.{name}({scan.names[0]}, {scan.names[1]}{arguments(options)})"
    return scan.query(sql, ("l_id", l_id, 0), ("r_id", r_id, 1))
