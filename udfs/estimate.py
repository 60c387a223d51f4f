"""What a statement will cost."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="__meld_estimate",
        returns=(
            "STRUCT(function VARCHAR, rows BIGINT, distinct_inputs BIGINT, cache_hits BIGINT, "
            "evaluations BIGINT, tier0 BIGINT, tier1 BIGINT, tier2 BIGINT, engine_prompts BIGINT, "
            "prompt_tokens BIGINT, seconds DOUBLE, exact BOOLEAN)[]"
        ),
        handler="estimate",
        arguments="statement, options",
        doc="Behind FROM meld.estimate.",
        volatile=True,
        local=True,
        runs=True,
    ),
)
