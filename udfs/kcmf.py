"""KcMF: schema and entity matching by rules, knowledge and votes, without training."""

from __future__ import annotations

from meld_duckdb.udfs import DETAIL, SqlFunction, detail_type

_FIELDS = (*DETAIL, "votes", "bad_formats", "knowledge", "reasoning")


def _forms(task: str, doc: str) -> tuple[SqlFunction, SqlFunction]:
    return (
        SqlFunction(task, "BOOLEAN", "answer", "a, b [, options]", doc, task),
        SqlFunction(
            f"{task}_detail",
            detail_type(_FIELDS, "BOOLEAN"),
            "answer",
            "a, b [, options]",
            f"Answer of {task} with {', '.join(_FIELDS[1:])}.",
            task,
            "detail",
            _FIELDS,
        ),
    )


FUNCTIONS: tuple[SqlFunction, ...] = (
    *_forms(
        "kcmf_schema_match",
        "Whether what column b holds could be stored in column a, both STRUCT(table, column, "
        "description): by rules, knowledge and votes, without training.",
    ),
    *_forms(
        "kcmf_entity_match",
        "Whether two records describe the same entity: by rules, knowledge and votes, without "
        "training.",
    ),
)
