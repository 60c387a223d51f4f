"""The SQL functions, one module per family: names, arguments, types, purity. No logic here."""

from __future__ import annotations

from dataclasses import dataclass

DETAIL_BOOLEAN = (
    "STRUCT(answer BOOLEAN, probability DOUBLE, tier TINYINT, experts VARCHAR[], "
    "evidence STRUCT(kind VARCHAR, text VARCHAR, weight DOUBLE)[], raw VARCHAR, error VARCHAR)"
)
DETAIL_VARCHAR = DETAIL_BOOLEAN.replace("answer BOOLEAN", "answer VARCHAR")


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """One SQL function as DuckDB sees it.

    Attributes:
        name: SQL name.
        returns: DuckDB type of the result.
        handler: Name of the method of `meld_duckdb.register.Handlers` that answers it.
        arguments: Names of the arguments, options in brackets, for help and messages.
        doc: One sentence for ``FROM meld.help()`` and the SQL reference.
        task: Task of a task function, else None.
        form: Task functions: ``"answer"``, ``"probability"`` or ``"detail"``.
        volatile: True for functions that write or read state; they are never folded or shared.
    """

    name: str
    returns: str
    handler: str
    arguments: str
    doc: str
    task: str | None = None
    form: str = "answer"
    volatile: bool = False
