"""Certificates: what is guaranteed of answers."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction

_LINE = (
    "task VARCHAR, goal VARCHAR, target DOUBLE, delta DOUBLE, certified BOOLEAN, bound DOUBLE, "
    '"rows" BIGINT, known BIGINT, sample BIGINT, escalated BIGINT, confidence DOUBLE, '
    "oracle VARCHAR, tables VARCHAR[]"
)
_LABEL = 'STRUCT(l_id VARCHAR, r_id VARCHAR, "column" VARCHAR)'

FUNCTIONS = (
    SqlFunction(
        name="__meld_certify",
        returns=f"STRUCT({_LINE}, to_label {_LABEL}[])[]",
        handler="certify",
        arguments="task, left rows, right rows, label rows, options",
        doc="Behind FROM meld.certify.",
        volatile=True,
        stores=True,
    ),
    SqlFunction(
        name="__meld_certificates",
        returns=f"STRUCT({_LINE})[]",
        handler="certificates",
        arguments="",
        doc="Behind FROM meld.certificates.",
        volatile=True,
    ),
)
