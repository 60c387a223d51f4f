"""An engine that fails or has no memory left, and a machine that has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from meld_duckdb.cli.run import one_line
from meld_duckdb.planner.scorers.match import MatchScorer
from meld_duckdb.tasks.base import Completion, Prompt
from tests.faults.runs import done, meld, write_table
from tests.faults.scripted_meld import FAULTS
from tests.scripted import ScriptedBackend, first_choice

N_ROWS = 40
ASK = f"""SELECT count(*) FILTER (m) FROM (SELECT meld_match(
    {{'t': (CASE i WHEN 21 THEN 'break-engine' ELSE 'row' END) || i}}, {{'t': 'x ' || i}},
    {{'tier': 't2'}}) AS m FROM range({N_ROWS}) AS t(i))"""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_it_raises_is_one_error_and_what_was_finished_is_kept(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend, fault: str
) -> None:
    def break_once(prompt: Prompt) -> Completion:
        if "break-engine" in prompt.question:
            raise FAULTS[fault]()
        return first_choice(prompt)

    backend.script = break_once
    with pytest.raises(duckdb.Error) as caught:
        con.sql(ASK).fetchall()
    line = one_line(caught.value)
    assert re.fullmatch(r"\[MELD-E020\] the engine (failed|has no memory left).* Hint: .*", line)
    assert ("no memory left" in line) == (fault in {"device", "host", "python"})
    n_asked = len(backend.asked)
    backend.script = first_choice
    assert con.sql(ASK).fetchall() == [(N_ROWS,)]
    # Batches are of four: those before the one that failed are not asked again.
    n_kept = N_ROWS - (len(backend.asked) - n_asked)
    assert n_kept == n_asked - 4 > 0


@pytest.mark.parametrize(
    "make",
    [lambda: np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(float)), FAULTS["host"]],
    ids=["numpy", "torch"],
)
def test_no_memory_for_the_features_is_one_error(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception]
) -> None:
    def scarce(*given: object) -> None:
        raise make()

    with monkeypatch.context() as patch:
        patch.setattr(MatchScorer, "score", scarce)
        with pytest.raises(duckdb.Error) as caught:
            con.sql("SELECT meld_match('a', 'b')").fetchall()
    line = one_line(caught.value)
    assert line.startswith("[MELD-E020] meld_match has no memory left") and "Hint: " in line
    assert con.sql("SELECT meld_match('a', 'b')").fetchall() == [(False,)]


@pytest.mark.parametrize("mbytes", [60, 200])
def test_a_process_without_memory_harms_no_workspace(tmp_path: Path, mbytes: int) -> None:
    """Libraries below may end the process; whatever it was, the next one goes on."""
    work, n_rows = tmp_path / "w", 20_000
    database = str(write_table(tmp_path / "t.duckdb", n_rows))
    ask = ("sql", "--db", database, "--format", "csv")
    few = "SELECT count(meld_match(t, t)) AS n FROM t WHERE id < 100"
    assert done(work, *ask, few).split() == ["n", "100"]
    large = f"{few}; SELECT count(*) AS n FROM meld.dedupe('t')"
    run = meld(work, *ask, large, test_memory_bytes=mbytes << 20)
    assert run.code != 0, run.out
    if run.code == 1:
        [line] = run.errors
        assert "emory" in line, line
    again = f"{few}; SELECT cache_hits FROM meld.stats()"
    assert done(work, *ask, again).split() == ["n", "100", "cache_hits", "100"]
