"""Explanations: how one answer came about."""

from __future__ import annotations

from meld_duckdb.udfs import EVIDENCE, SqlFunction

STEP = (
    "STRUCT(step VARCHAR, seconds DOUBLE, settled BOOLEAN, answer VARCHAR, probability DOUBLE, "
    f"experts VARCHAR[], evidence {EVIDENCE})[]"
)
FEATURE = 'STRUCT("name" VARCHAR, "value" DOUBLE, added DOUBLE)[]'
PROMPT = (
    "STRUCT(source VARCHAR, adapter VARCHAR, "
    'messages STRUCT("role" VARCHAR, content VARCHAR)[], '
    "choices STRUCT(choice VARCHAR, probability DOUBLE, log_odds DOUBLE)[], "
    "said VARCHAR, probability DOUBLE, tokens BIGINT, error VARCHAR)[]"
)

FUNCTIONS: tuple[SqlFunction, ...] = (
    SqlFunction(
        name="meld_explain",
        returns=(
            "STRUCT(task VARCHAR, answer VARCHAR, probability DOUBLE, tier TINYINT, "
            "settled_by VARCHAR, reason VARCHAR, error VARCHAR, question VARCHAR, "
            f"tables VARCHAR[], steps {STEP}, features {FEATURE}, "
            "neighbours STRUCT(text VARCHAR, similarity DOUBLE)[], "
            "experts STRUCT(expert VARCHAR, weight DOUBLE, relevance DOUBLE)[], "
            "demonstrations STRUCT(question VARCHAR, answer VARCHAR)[], "
            f"prompts {PROMPT}, "
            "votes STRUCT(source VARCHAR, answer VARCHAR, probability DOUBLE)[], "
            "cache_key VARCHAR, cached BOOLEAN, seconds DOUBLE)"
        ),
        handler="explain",
        arguments="task, arguments [, options]",
        doc="How a task answers one row: computed anew in this process, step by step, and not "
        "stored. The arguments are a STRUCT by the names the task function gives them.",
        volatile=True,
        local=True,
    ),
)
