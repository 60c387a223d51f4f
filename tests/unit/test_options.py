from __future__ import annotations

import pytest

from meld_duckdb.errors import ConfigError
from meld_duckdb.planner.options import Options, parse_options


def test_options_are_read() -> None:
    assert parse_options(
        "match", {"threshold": 0.8, "tier": 2, "on_error": None}, on_error="fail"
    ) == (Options(threshold=0.8, tier="t2", on_error="fail"))
    given = {"options": ["b", "a", "b", None], "min_probability": "0.5"}
    assert parse_options("impute", given, on_error="null") == Options(
        options=("b", "a"), min_probability=0.5
    )


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("match", {"treshold": 0.8}, "did you mean 'threshold'"),
        ("match", {"options": ["a"]}, "unknown option 'options' of match"),
        ("match", {"threshold": 1.5}, "expected a number from 0 to 1"),
        ("match", {"threshold": "high"}, "expected a number from 0 to 1"),
        ("match", {"on_error": "ignore"}, "expected 'null' or 'fail'"),
        ("match", {"tier": "t9"}, "expected 'auto', 't0', 't1' or 't2'"),
        ("impute", {"options": "a"}, "expected a list of values"),
        ("match", {"on_error": ["x"]}, "expected 'null' or 'fail'"),
        ("match", 0.8, "expected a STRUCT"),
    ],
)
def test_bad_options_are_named(task: str, given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(task, given, on_error="null")
