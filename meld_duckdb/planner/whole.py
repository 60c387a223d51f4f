"""Questions about whole tables: their cells, or pairs of their rows.

The tables are context for the time of the call; they need not be indexed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.planner.options import Options
from meld_duckdb.planner.plan import Planner
from meld_duckdb.planner.questions import find_column
from meld_duckdb.planner.stats import Outcome
from meld_duckdb.planner.tables import Context, Tables
from meld_duckdb.records import Record, is_key_column, is_missing, make_record
from meld_duckdb.retrieval.catalogue import table_digest
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Answer, Query


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table and what a task says about it.

    Attributes:
        row: Position of its row.
        column: Name of its column.
        value: What stands there; None for NULL.
        answer: What the task says.
    """

    row: int
    column: str
    value: str | None
    answer: Answer


def chosen_columns(records: Sequence[Record], columns: Collection[str] | None) -> list[str]:
    """The columns that are looked at, in the order of the table.

    Args:
        records: Rows of the table.
        columns: Names, in any case; None for all that are no keys (see `records.is_key_column`).

    Raises:
        InputError: The table has no such column.
    """
    names = list(dict.fromkeys(name for record in records for name in record.fields))
    if columns is None:
        return [name for name in names if not is_key_column(name)]
    if not records:
        return []
    table = make_record(dict.fromkeys(names))
    wanted: set[str] = set()
    for column in columns:
        found = find_column(table, column)
        if found is None:
            what, hint = unknown_name("column", column, names)
            raise InputError(what, hint=hint)
        wanted.add(found)
    return [name for name in names if name in wanted]


def ask_cells(
    planner: Planner,
    tables: Tables,
    task: str,
    records: Sequence[Record],
    columns: Sequence[str],
    options: Options,
    *,
    missing_only: bool,
) -> tuple[list[Cell], Outcome]:
    """Ask a task of a row and a column about the cells of a table.

    Args:
        planner: Answers the questions.
        tables: Is lent the table.
        task: Name of the task.
        records: Rows of the table.
        columns: Columns that are looked at.
        options: Options of the call.
        missing_only: Whether only cells without a value are asked about.

    Returns:
        The cells asked about, by row, then column, and how the answers came about. Equal cells of
        equal rows are asked about once.
    """
    where = [
        (row, column)
        for row, record in enumerate(records)
        for column in columns
        if column in record.fields and (not missing_only or is_missing(record.fields[column]))
    ]
    queries = [Query((records[row],), column, options.options) for row, column in where]
    digest = table_digest(records)
    answers, outcome = _ask(
        planner, tables, task, queries, [(digest,)] * len(queries), {digest: records}, options
    )
    cells = [
        Cell(row, column, records[row].fields[column], answer)
        for (row, column), answer in zip(where, answers, strict=True)
    ]
    return cells, outcome


def ask_pairs(
    planner: Planner,
    tables: Tables,
    task: str,
    left: Sequence[Record],
    right: Sequence[Record],
    pairs: Iterable[tuple[int, int]],
    options: Options,
    *,
    brief: bool = False,
) -> tuple[list[Answer], Outcome]:
    """Ask a task of two records about pairs of rows of two tables.

    Args:
        planner: Answers the questions.
        tables: Is lent the tables.
        task: Name of the task.
        left: Rows of one table.
        right: Rows of the other.
        pairs: Positions in both.
        options: Options of the call.
        brief: Whether evidence and ranking may be left out, which are most of an answer.

    Returns:
        One answer per pair, in order, and how they came about. Equal questions are asked once.
    """
    digests = (table_digest(left), table_digest(right))
    queries: list[Query] = []
    contexts: list[Context] = []
    for i, j in pairs:
        sides = [(left[i], digests[0]), (right[j], digests[1])]
        if ASKED[task].symmetric:
            sides.sort(key=_record_digest)
        queries.append(Query(tuple(record for record, _ in sides)))
        contexts.append(tuple(table for _, table in sides))
    lent = dict(zip(digests, (left, right), strict=True))
    return _ask(planner, tables, task, queries, contexts, lent, options, brief=brief)


def _ask(
    planner: Planner,
    tables: Tables,
    task: str,
    queries: Sequence[Query],
    contexts: Sequence[Context],
    lent: dict[str, Sequence[Record]],
    options: Options,
    *,
    brief: bool = False,
) -> tuple[list[Answer], Outcome]:
    distinct = {
        query.digest: (query, context) for query, context in zip(queries, contexts, strict=True)
    }
    with tables.lend(lent):
        answers, outcome = planner.answer(
            ASKED[task],
            [query for query, _ in distinct.values()],
            options,
            [context for _, context in distinct.values()],
            brief=brief,
        )
    found = dict(zip(distinct, answers, strict=True))
    return [found[query.digest] for query in queries], outcome


def _record_digest(side: tuple[Record, str]) -> str:
    return side[0].digest
