"""Entity matching (EM)."""

from __future__ import annotations

from meld_duckdb.udfs import DETAIL_BOOLEAN, SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="meld_match",
        returns="BOOLEAN",
        handler="answer",
        arguments="a, b [, options]",
        doc="Whether two records describe the same entity.",
        task="match",
    ),
    SqlFunction(
        name="meld_match_prob",
        returns="DOUBLE",
        handler="answer",
        arguments="a, b [, options]",
        doc="Probability that two records describe the same entity.",
        task="match",
        form="probability",
    ),
    SqlFunction(
        name="meld_match_detail",
        returns=DETAIL_BOOLEAN,
        handler="answer",
        arguments="a, b [, options]",
        doc="Answer, probability, tier and evidence of meld_match.",
        task="match",
        form="detail",
    ),
)
