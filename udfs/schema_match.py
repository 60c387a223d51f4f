"""Schema matching (SM)."""

from __future__ import annotations

from meld_duckdb.udfs import DETAIL_BOOLEAN, SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="meld_schema_match",
        returns="BOOLEAN",
        handler="answer",
        arguments="a, b [, options]",
        doc="Whether two columns, as STRUCT(table, column, description), mean the same.",
        task="schema_match",
    ),
    SqlFunction(
        name="meld_schema_match_prob",
        returns="DOUBLE",
        handler="answer",
        arguments="a, b [, options]",
        doc="Probability that two columns mean the same.",
        task="schema_match",
        form="probability",
    ),
    SqlFunction(
        name="meld_schema_match_detail",
        returns=DETAIL_BOOLEAN,
        handler="answer",
        arguments="a, b [, options]",
        doc="Answer, probability, tier and evidence of meld_schema_match.",
        task="schema_match",
        form="detail",
    ),
)
