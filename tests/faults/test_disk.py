"""A disk without space: queries go on without their cache, writers say so, nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.runs import done, meld, remount, small_disk, write_table

ASK = """SELECT count(*) AS n FROM (SELECT meld_match({{'t': 'thing ' || i}}, {{'t': 'x ' || i}},
    {{'tier': 't2'}}) AS m FROM range({n}) AS t(i)) WHERE m"""
STATS = "SELECT cache_hits, evaluations, failures FROM meld.stats()"
SPACE = (
    r"error: \[MELD-E030\] there is no space left to write .* Hint: make space and run it again; .*"
)


def numbers(text: str) -> list[str]:
    """Lines of CSV that hold numbers."""
    return [line for line in text.splitlines() if line[:1].isdigit()]


def test_a_query_on_a_full_disk_is_answered_with_one_notice(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 400) as disk:
        ask = ("sql", f"{ASK.format(n=900)}; {STATS}", "--format", "csv")
        run = meld(disk / "w", *ask)
        assert run.code == 0 and not run.errors, run.err
        assert numbers(run.out) == ["900", "0,900,0"]
        [notice] = run.notices
        assert re.match(r"goes on without the answer cache: .* there is no space left", notice)
        remount(disk, "size=60m")
        first, second = numbers(done(disk / "w", *ask))
        n_kept = int(second.split(",")[0])
        assert first == "900" and 0 < n_kept < 900
        assert numbers(done(disk / "w", *ask)) == ["900", "900,0,0"]


def test_a_query_whose_file_may_not_grow_is_answered_with_one_notice(tmp_path: Path) -> None:
    ask = ("sql", f"{ASK.format(n=600)}; {STATS}", "--format", "csv")
    run = meld(tmp_path / "w", *ask, test_file_bytes=60_000)
    assert run.code == 0 and numbers(run.out) == ["600", "0,600,0"], run.err
    [notice] = run.notices
    assert notice.startswith("goes on without the answer cache: ")
    assert numbers(done(tmp_path / "w", *ask))[0] == "600"


@pytest.mark.parametrize("what", ["index", "learn", "kb"])
def test_writers_on_a_full_disk_say_so_and_go_on_later(tmp_path: Path, what: str) -> None:
    database = str(write_table(tmp_path / "t.duckdb", 6000))
    facts = tmp_path / "facts.csv"
    lines = [f"term {i},alias,{i:0500}" for i in range(6000)]
    facts.write_text("\n".join(["term,relation,object", *lines]), "utf-8")
    learn = ";".join(
        f"SELECT meld_learn('match', {{'a': 'a{i}' || repeat('x', 40000), 'b': 'b'}}, true)"
        for i in range(15)
    )
    commands = {
        "index": ("index", "t", "--db", database),
        "learn": ("sql", learn),
        "kb": ("kb", "add", "terms", str(facts)),
    }
    with small_disk(tmp_path / "disk", 900) as disk:
        work = disk / "w"
        done(work, "sql", "SELECT meld_learn('match', {'a': 'first', 'b': 'one'}, true)")
        run = meld(work, *commands[what])
        assert run.code == 1, run.out
        [line] = run.errors
        assert re.fullmatch(SPACE, line), line
        remount(disk, "size=80m")
        label = "SELECT meld_match_detail('first', 'one').evidence[1].kind AS k"
        assert "label" in done(work, "sql", label)
        done(work, *commands[what])
        [*_, last] = done(work, "workspace", "versions").splitlines()
        counts = dict(zip(("tables", "entries", "labels", "facts"), last.split()[-4:], strict=True))
        expected = {
            "index": ("entries", "6000"),
            "learn": ("labels", "16"),
            "kb": ("facts", "6000"),
        }
        name, number = expected[what]
        assert counts[name] == number
