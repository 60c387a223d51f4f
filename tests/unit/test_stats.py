from __future__ import annotations

import pytest

from meld_duckdb.planner import stats
from meld_duckdb.planner.stats import Outcome, Stats
from meld_duckdb.records import digest


def digests(first: int, last: int) -> list[str]:
    return [digest(str(i)) for i in range(first, last)]


def outcome(cached: list[str], evaluated: list[str]) -> Outcome:
    return Outcome(cached, evaluated, [0] * len(evaluated))


def test_an_input_counts_once_in_a_statement_and_again_in_the_next() -> None:
    counted = Stats()
    counted.count("f", 6, outcome([], digests(0, 6)), 0.1)
    counted.count("f", 8, outcome(digests(0, 8), []), 0.1)
    [line] = counted.lines()
    assert (line.rows, line.distinct_inputs, line.cache_hits, line.evaluations) == (14, 8, 2, 6)
    counted.begin_statement()
    counted.count("f", 8, outcome(digests(0, 8), []), 0.1)
    first, second = counted.lines()
    assert (second.distinct_inputs, second.cache_hits) == (8, 8)
    assert first.distinct_inputs == 8


def test_what_is_remembered_of_inputs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_MOST_SEEN", 10)
    counted = Stats()
    for start in range(0, 40, 4):
        counted.count("f", 4, outcome(digests(start, start + 2), digests(start + 2, start + 4)), 0)
    [line] = counted.lines()
    assert len(line.seen) < 10 + 4
    assert line.distinct_inputs == line.cache_hits + line.evaluations == 40
    counted.begin_statement()
    assert all(not line.seen for line in counted.lines())
