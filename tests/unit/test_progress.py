from __future__ import annotations

import io
import sys
import types

import pytest

from meld_duckdb import progress
from meld_duckdb.progress import Line, Meter, duration, line_text
from meld_duckdb.screen import Notebook, Terminal, find_screen


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Shown:
    """A screen that remembers; None stands for a line that was taken away."""

    def __init__(self) -> None:
        self.lines: list[str | None] = []
        self.shares: list[float | None] = []

    def show(self, text: str, share: float | None) -> None:
        self.lines.append(text)
        self.shares.append(share)

    def clear(self) -> None:
        self.lines.append(None)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def line(clock: Clock, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(Line, "_tick", lambda self: None)  # the tests draw themselves
    return Line(lambda: shown, clock)


@pytest.mark.parametrize(
    ("counts", "seconds", "rates", "text"),
    [
        ({}, 3, (0, 0), "f: 3 s"),
        ({"t0": 90, "cache": 10}, 9, (10, 0), "f: 100 rows (cache 10, t0 90), 10 rows/s, 9 s"),
        ({"t0": 25, "total": 1e2}, 9, (5, 0), "f: 25 of 100 rows (t0 25), 5 rows/s, 15 s left"),
        ({"total": 1000}, 10, (0, 0), "f: 0 of 1,000 rows, 10 s"),
        ({"asked": 40, "prompts": 10}, 9, (0, 2), "f: prompts 10 of 40 (2.0/s), 15 s left"),
        ({"asked": 40}, 9, (0, 0), "f: prompts 0 of 40, 9 s"),
        ({"t2": 1}, 200, (0.005, 0), "f: 1 rows (t2 1), 3 min 20 s"),
    ],
)
def test_the_line_says_what_is_known(
    counts: dict[str, int], seconds: float, rates: tuple[float, float], text: str
) -> None:
    meter = Meter()
    meter.counts.update({name: int(n) for name, n in counts.items()})
    assert line_text("f", "", meter.counts, seconds, *rates) == text


def test_what_comes_before_the_rows_is_named() -> None:
    meter = Meter()
    text = line_text("f", "finding candidates", meter.counts, 4, 0, 0)
    assert text == "f: finding candidates, 4 s"
    meter.counts.update(step=20, steps=100)
    assert line_text("f", "indexing t", meter.counts, 4, 0, 0) == "f: indexing t 20 of 100, 4 s"


def test_nothing_is_shown_for_two_seconds(line: Line, clock: Clock, shown: Shown) -> None:
    meter = Meter("meld_match")
    line.enter(meter)
    clock.now += 1.9
    line.draw()
    assert shown.lines == []
    clock.now += 0.2
    line.draw()
    assert shown.lines == ["meld_match: 2 s"]
    line.leave(meter)
    assert shown.lines[-1] is None, "a result must not be written into the line"


def test_calls_that_follow_closely_are_counted_together(
    line: Line, clock: Clock, shown: Shown
) -> None:
    for _ in range(3):
        meter = Meter("meld_match")
        line.enter(meter)
        line.draw()
        meter.counts["t0"] += 2048
        line.draw()
        clock.now += 1.0
        line.leave(meter)
    line.enter(meter)
    meter.counts.clear()
    line.draw()
    assert shown.lines[-1] == "meld_match: 6,144 rows (t0 6,144), 1,365 rows/s, 3 s"
    line.leave(meter)
    clock.now += 5
    line.enter(meter)
    clock.now += 2
    line.draw()
    assert shown.lines[-1] == "meld_match: 2 s", "another statement begins anew"


def test_calls_at_once_are_added_up_and_the_share_is_told(
    line: Line, clock: Clock, shown: Shown
) -> None:
    meters = [Meter("meld.join", whole=True), Meter("meld.join", whole=True)]
    for meter in meters:
        line.enter(meter)
        with progress.metering(meter), progress.doing("finding candidates"):
            clock.now += 30
    line.draw()
    for meter in meters:
        with progress.metering(meter):
            progress.expect(100)
    line.draw()
    for meter in meters:
        with progress.metering(meter):
            progress.settled({"t0": 25})
    clock.now += 10
    line.draw()
    assert shown.lines[1:] == [
        "meld.join: 0 of 200 rows, 1 min 0 s",
        "meld.join: 50 of 200 rows (t0 50), 5 rows/s, 30 s left",
    ], "the time before the first row says nothing of the rows"
    assert shown.shares == [None, 0.0, 0.25]


def test_a_statement_keeps_its_line_between_calls(line: Line, clock: Clock, shown: Shown) -> None:
    line.keep()
    meter = Meter("f")
    line.enter(meter)
    clock.now += 3
    line.draw()
    line.leave(meter)
    assert None not in shown.lines
    line.drop()
    assert shown.lines[-1] is None


def test_a_plain_function_does_not_know_its_total() -> None:
    meter = Meter("meld_match")
    with progress.metering(meter):
        progress.expect(100)
        progress.asking(8)
        progress.answered(3)
        progress.asking(-5)
    assert meter.state()["total"] == 0
    assert (meter.state()["asked"], meter.state()["prompts"]) == (3, 3)


def test_counts_cross_a_socket_and_nonsense_is_left_out() -> None:
    sent, got = Meter("f", whole=True), Meter("f")
    with progress.metering(sent), progress.doing("finding candidates"):
        progress.expect(7)
        progress.step(1, 2)
        with progress.metering(got):
            progress.received({**sent.state(), "t0": -1, "t1": "many", "other": 3})
    assert (got.doing, got.counts["total"], got.counts["step"]) == ("finding candidates", 7, 1)
    assert got.counts["t0"] == got.counts["t1"] == got.counts["other"] == 0
    assert sent.doing == "" and sent.counts["step"] == 0


def test_without_a_call_nothing_is_counted() -> None:
    progress.settled({"t0": 1})
    progress.asking(1)
    with progress.doing("nothing"):
        progress.step(1, 2)


def test_a_terminal_is_written_over_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Tty()
    monkeypatch.setattr(sys, "stderr", stderr)
    screen = find_screen()
    assert isinstance(screen, Terminal)
    screen.clear()
    assert stderr.getvalue() == "", "what was never shown needs no clearing"
    screen.show("x" * 200, None)
    screen.clear()
    assert stderr.getvalue() == "\r" + "x" * 79 + "\x1b[K" + "\r\x1b[K"


def test_a_notice_stands_on_a_line_of_its_own(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Tty()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(Line, "_tick", lambda self: None)
    line = Line(find_screen, clock)
    line.enter(Meter("f"))
    clock.now += 3
    line.draw()
    line.say("meld: loading")
    assert stderr.getvalue() == "\rf: 3 s\x1b[K" + "\r\x1b[K" + "meld: loading\n"


def test_in_a_pipe_there_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert find_screen() is None
    monkeypatch.setattr(sys, "stderr", None)  # pythonw
    assert find_screen() is None


def test_a_notebook_has_its_output_updated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, str]]] = []

    class Handle:
        def update(self, content: dict[str, str], *, raw: bool) -> None:
            said.append(("update", content))

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        said.append(("display", content))
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    shown = types.ModuleType("IPython.display")
    shown.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    screen = find_screen()
    assert isinstance(screen, Notebook)
    screen.show("a < b", None)
    screen.show("c", 0.5)
    screen.clear()
    assert said == [
        ("display", {"text/plain": "a < b", "text/html": "<div>a &lt; b</div>"}),
        (
            "update",
            {
                "text/plain": "c",
                "text/html": '<div><progress value="0.5000" max="1"></progress> c</div>',
            },
        ),
    ]


def test_ipython_in_a_terminal_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(sys, "stderr", Tty())
    assert isinstance(find_screen(), Terminal)


def test_seconds_in_words() -> None:
    assert [duration(s) for s in (3.4, 200, 7300)] == ["3 s", "3 min 20 s", "2 h 1 min"]
