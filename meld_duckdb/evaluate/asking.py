"""Put an exam into a database and read the replies."""

from __future__ import annotations

import duckdb

from meld_duckdb.evaluate.case import TIER, Exam, Reply


def load(connection: duckdb.DuckDBPyConnection, exam: Exam) -> None:
    """Make the tables of an exam in the database; nothing else is ever put there."""
    for name, table in exam.tables.items():
        connection.register("__given", table)
        connection.execute(f'CREATE TABLE "{name}" AS FROM __given')
        connection.unregister("__given")


def replies_of(connection: duckdb.DuckDBPyConnection, exam: Exam, tier: str) -> list[Reply]:
    """Ask the questions of an exam; an empty reply where the statement gave no row."""
    replies = [Reply()] * exam.n
    for n, answer, probability, ranking, settled, error in connection.execute(
        exam.ask.replace(TIER, f"'{tier}'")
    ).fetchall():
        replies[n] = Reply(answer, probability, tuple(ranking or ()), settled, error)
    return replies
