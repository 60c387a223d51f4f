"""Data imputation (DI)."""

from __future__ import annotations

from meld_duckdb.udfs import DETAIL_VARCHAR, SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="meld_impute",
        returns="VARCHAR",
        handler="answer",
        arguments="row, column [, options]",
        doc="The value that belongs in a column of a row; NULL where none is likely enough.",
        task="impute",
    ),
    SqlFunction(
        name="meld_impute_prob",
        returns="DOUBLE",
        handler="answer",
        arguments="row, column [, options]",
        doc="Probability of the value that meld_impute answers.",
        task="impute",
        form="probability",
    ),
    SqlFunction(
        name="meld_impute_detail",
        returns=DETAIL_VARCHAR,
        handler="answer",
        arguments="row, column [, options]",
        doc="Value, probability, tier and evidence of meld_impute.",
        task="impute",
        form="detail",
    ),
)
