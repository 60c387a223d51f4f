"""Table functions over cells, clusters and schemas."""

from __future__ import annotations

from meld_duckdb.udfs import EVIDENCE, SqlFunction

_CELLS = (
    'STRUCT("row" BIGINT, "column" VARCHAR, old VARCHAR, "new" VARCHAR, probability DOUBLE, '
    f"tier TINYINT, evidence {EVIDENCE}, error VARCHAR)[]"
)


def _cells(name: str) -> SqlFunction:
    return SqlFunction(
        name=f"__meld_{name}",
        returns=_CELLS,
        handler=name,
        arguments="name, rows, options",
        doc=f"Behind FROM meld.{name}.",
    )


FUNCTIONS = (
    _cells("find_errors"),
    _cells("repairs"),
    _cells("impute_nulls"),
    SqlFunction(
        name="__meld_dedupe",
        returns='STRUCT("row" BIGINT, cluster BIGINT, size BIGINT)[]',
        handler="dedupe",
        arguments="name, rows, options",
        doc="Behind FROM meld.dedupe.",
    ),
    SqlFunction(
        name="__meld_label_next",
        returns='STRUCT(l BIGINT, r BIGINT, "column" VARCHAR, probability DOUBLE)[]',
        handler="label_next",
        arguments="task, left rows, right rows, options",
        doc="Behind FROM meld.label_next.",
        volatile=True,
    ),
    SqlFunction(
        name="__meld_match_schemas",
        returns=(
            "STRUCT(l_table VARCHAR, l_column VARCHAR, r_table VARCHAR, r_column VARCHAR, "
            "rank BIGINT, probability DOUBLE, matches BOOLEAN, tier TINYINT, "
            f"evidence {EVIDENCE})[]"
        ),
        handler="match_schemas",
        arguments="left name, right name, left columns, right columns, options",
        doc="Behind FROM meld.match_schemas.",
        reads=True,
    ),
)
