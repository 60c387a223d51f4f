"""Administration: version, counters, errors, settings, help."""

from __future__ import annotations

from meld_duckdb.udfs import SqlFunction

FUNCTIONS = (
    SqlFunction(
        name="meld_version",
        returns="VARCHAR",
        handler="version",
        arguments="",
        doc="Version of meld-duckdb.",
        local=True,
    ),
    SqlFunction(
        name="__meld_stats",
        returns=(
            "STRUCT(statement BIGINT, function VARCHAR, rows BIGINT, distinct_inputs BIGINT, "
            "cache_hits BIGINT, evaluations BIGINT, tier0 BIGINT, tier1 BIGINT, tier2 BIGINT, "
            "engine_prompts BIGINT, prompt_tokens BIGINT, failures BIGINT, seconds DOUBLE)[]"
        ),
        handler="stats",
        arguments="",
        doc="Behind FROM meld.stats.",
        volatile=True,
    ),
    SqlFunction(
        name="__meld_errors",
        returns=(
            "STRUCT(function VARCHAR, row_digest VARCHAR, code VARCHAR, message VARCHAR, "
            "count BIGINT)[]"
        ),
        handler="errors",
        arguments="",
        doc="Behind FROM meld.errors.",
        volatile=True,
    ),
    SqlFunction(
        name="__meld_experts",
        returns=(
            "STRUCT(expert VARCHAR, tier BIGINT, task VARCHAR, trained_for VARCHAR, used BOOLEAN, "
            "reason VARCHAR, rows BIGINT, metrics MAP(VARCHAR, DOUBLE), path VARCHAR[], "
            "model VARCHAR, size_bytes BIGINT, answers BIGINT)[]"
        ),
        handler="experts",
        arguments="",
        doc="Behind FROM meld.experts.",
        volatile=True,
    ),
    SqlFunction(
        name="__meld_settings",
        returns="STRUCT(key VARCHAR, value VARCHAR, source VARCHAR)[]",
        handler="settings",
        arguments="",
        doc="Behind FROM meld.settings.",
        volatile=True,
        local=True,
    ),
    SqlFunction(
        name="__meld_help",
        returns="STRUCT(function VARCHAR, arguments VARCHAR, doc VARCHAR)[]",
        handler="help",
        arguments="",
        doc="Behind FROM meld.help.",
        volatile=True,
        local=True,
    ),
)
