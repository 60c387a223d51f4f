"""Error detection (ED)."""

from __future__ import annotations

from meld_duckdb.udfs import DETAIL_BOOLEAN, SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="meld_detect_error",
        returns="BOOLEAN",
        handler="answer",
        arguments="row, column [, options]",
        doc="Whether the value in a column of a row is wrong.",
        task="detect_error",
    ),
    SqlFunction(
        name="meld_detect_error_prob",
        returns="DOUBLE",
        handler="answer",
        arguments="row, column [, options]",
        doc="Probability that the value in a column of a row is wrong.",
        task="detect_error",
        form="probability",
    ),
    SqlFunction(
        name="meld_detect_error_detail",
        returns=DETAIL_BOOLEAN,
        handler="answer",
        arguments="row, column [, options]",
        doc="Answer, probability, tier and evidence of meld_detect_error.",
        task="detect_error",
        form="detail",
    ),
)
