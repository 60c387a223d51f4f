"""The SQL functions, one module per family: names, arguments, types, purity. No logic here."""

from __future__ import annotations

from dataclasses import dataclass

EVIDENCE = "STRUCT(kind VARCHAR, text VARCHAR, weight DOUBLE)[]"
_TYPES = {
    "probability": "DOUBLE",
    "tier": "TINYINT",
    "experts": "VARCHAR[]",
    "evidence": EVIDENCE,
    "raw": "VARCHAR",
    "error": "VARCHAR",
    "changed": "BOOLEAN",
    "ranking": "STRUCT(option VARCHAR, probability DOUBLE)[]",
    "votes": "STRUCT(source VARCHAR, answer VARCHAR, probability DOUBLE)[]",
    "bad_formats": "BIGINT",
    "knowledge": "STRUCT(source VARCHAR, text VARCHAR)[]",
    "reasoning": "STRUCT(source VARCHAR, text VARCHAR)[]",
}
DETAIL = ("answer", "probability", "tier", "experts", "evidence", "raw", "error")
"""Fields of the detail of every task function."""


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """One SQL function as DuckDB sees it.

    Attributes:
        name: SQL name.
        returns: DuckDB type of the result.
        handler: Name of the method of `meld_duckdb.handlers.Handlers` that answers it.
        arguments: Names of the arguments, options in brackets, for help and messages.
        doc: One sentence for ``FROM meld.help()`` and the SQL reference.
        task: Task of a task function, else None.
        form: Task functions: ``"answer"``, ``"probability"``, ``"detail"`` or ``"topk"``.
        fields: Fields of the result of a detail.
        volatile: True for functions that write or read state; they are never folded or shared.
        reads: True for functions that read the user's own database; see `reading`.
        local: True for functions about the process that calls them: no engine is asked.
        stores: True for functions that change what the workspace knows; the setting ``learn``
            shuts them off.
        runs: True for functions that run a statement on the user's database; see `estimate.run`.
    """

    name: str
    returns: str
    handler: str
    arguments: str
    doc: str
    task: str | None = None
    form: str = "answer"
    fields: tuple[str, ...] = ()
    volatile: bool = False
    reads: bool = False
    local: bool = False
    stores: bool = False
    runs: bool = False


def detail_type(fields: tuple[str, ...], returns: str) -> str:
    """DuckDB type of a detail with these fields; an unknown one has the type of the answer."""
    return f"STRUCT({', '.join(f'{field} {_TYPES.get(field, returns)}' for field in fields)})"


def family(
    task: str, returns: str, arguments: str, doc: str, *, extra: tuple[str, ...] = ()
) -> tuple[SqlFunction, ...]:
    """The three forms of a task function: answer, probability and detail.

    Args:
        task: The task; the functions are ``meld_<task>``, with ``_prob`` and ``_detail``.
        returns: DuckDB type of the answer.
        arguments: Names of the data arguments.
        doc: One sentence about the answer.
        extra: Fields that the detail has besides `DETAIL`.
    """
    name, arguments = f"meld_{task}", f"{arguments} [, options]"
    fields = (*DETAIL, *extra)
    probability = f"Probability of what {name} answers."
    if returns == "BOOLEAN":
        probability = f"Probability that {name} is true."
    return (
        SqlFunction(name, returns, "answer", arguments, doc, task),
        SqlFunction(
            f"{name}_prob", "DOUBLE", "answer", arguments, probability, task, "probability"
        ),
        SqlFunction(
            f"{name}_detail",
            detail_type(fields, returns),
            "answer",
            arguments,
            f"Answer of {name} with {', '.join(fields[1:])}.",
            task,
            "detail",
            fields,
        ),
    )
