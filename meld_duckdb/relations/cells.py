"""Cells of a table: wrong ones, what should stand there, missing ones; what is worth a label."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from meld_duckdb.relations.scans import Connection, Scan, Table, arguments, literal


def find_errors(
    table: Table,
    *,
    columns: str | Sequence[str] | None = None,
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
    id: str = "id",
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Find the cells of a table that are probably wrong.

    Args:
        table: The table.
        columns: Columns that are looked at; None for all.
        threshold: Probability from which a cell is wrong; None for the calibrated one, 0 to get
            every cell with its probability.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every cell.
        on_error: ``"fail"`` to make a cell that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        accuracy: Least share of right answers that is guaranteed, below 1; None for no guarantee.
        precision: Likewise of right ones among those returned.
        recall: Likewise of those to be returned that are.
        delta: How likely the guarantee may fail; None for 0.05.
        label_budget: Rows that may be asked about for it; None for any number.
        id: Column that names the rows.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        A line per cell: id, column, value, probability, tier, evidence.

    Raises:
        InputError: The table or the column cannot be read.
        ConfigError: The functions are not registered on the connection of the relation.
    """
    options: dict[str, object] = {
        "columns": columns,
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
        "id": id,
    }
    return _of_one(Scan(connection, table), "find_errors", options, id)


def repairs(
    table: Table,
    *,
    columns: str | Sequence[str] | None = None,
    min_probability: float | None = None,
    tier: str | None = None,
    on_error: str | None = None,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    id: str = "id",
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Propose values for the cells of a table that should hold another one.

    Args:
        table: The table.
        columns: Columns that are looked at; None for all.
        min_probability: Nothing less likely is proposed; None for the calibrated bound.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every cell.
        on_error: ``"fail"`` to make a cell that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        id: Column that names the rows.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        A line per change: id, column, old, new, probability, tier, evidence.

    Raises:
        InputError: The table or the column cannot be read.
        ConfigError: The functions are not registered on the connection of the relation.
    """
    options: dict[str, object] = {
        "columns": columns,
        "min_probability": min_probability,
        "tier": tier,
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
        "id": id,
    }
    return _of_one(Scan(connection, table), "repairs", options, id)


def impute_nulls(
    table: Table,
    *,
    columns: str | Sequence[str] | None = None,
    options: Sequence[object] | None = None,
    min_probability: float | None = None,
    tier: str | None = None,
    on_error: str | None = None,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    id: str = "id",
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Propose values for the cells of a table that have none.

    Args:
        table: The table.
        columns: Columns that are looked at; None for all.
        options: The only values that are proposed; None for any.
        min_probability: Nothing less likely is proposed; None for the calibrated bound.
        tier: ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every cell.
        on_error: ``"fail"`` to make a cell that cannot be judged an error.
        max_calls: Prompts a language model may be asked; None for the setting.
        max_seconds: Seconds the statement may take; None for the setting.
        id: Column that names the rows.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        A line per cell without a value: id, column, value, probability, tier, evidence, error.

    Raises:
        InputError: The table or the column cannot be read.
        ConfigError: The functions are not registered on the connection of the relation.
    """
    given: dict[str, object] = {
        "columns": columns,
        "options": options,
        "min_probability": min_probability,
        "tier": tier,
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
        "id": id,
    }
    return _of_one(Scan(connection, table), "impute_nulls", given, id)


def label_next(
    task: str,
    table: Table,
    right: Table | None = None,
    *,
    n: int = 20,
    l_id: str = "id",
    r_id: str | None = None,
    connection: Connection = None,
) -> duckdb.DuckDBPyRelation:
    """Ask which questions are most worth a label.

    Args:
        task: ``"match"`` for pairs of rows, ``"detect_error"`` or ``"repair"`` for whole rows,
            ``"impute"`` for missing cells.
        table: The table.
        right: Task match: the other table; None for pairs of the same table.
        n: Most questions.
        l_id: Column that names the rows of ``table``.
        r_id: Column that names the rows of ``right``; None for the same as ``l_id``.
        connection: Where to run; see `meld_duckdb.relations`.

    Returns:
        l_id, r_id, column, probability; what a task does not ask for is NULL.

    Raises:
        InputError: A table or a column cannot be read.
        ConfigError: The functions are not registered on the connection of a relation.
    """
    scan = Scan(connection, table, right)
    options: dict[str, object] = {"n": n, "l_id": l_id, "r_id": r_id}
    other = "" if right is None else f", r := {scan.names[1]}"
    sql = f"FROM meld.label_next({literal(task)}, {scan.names[0]}{other}{arguments(options)})"
    return scan.query(sql, ("l_id", l_id, 0), ("r_id", r_id or l_id, 0 if right is None else 1))


def _of_one(scan: Scan, name: str, options: dict[str, object], id: str) -> duckdb.DuckDBPyRelation:
    sql = f"FROM meld.{name}({scan.names[0]}{arguments(options)})"
    return scan.query(sql, ("id", id, 0))
