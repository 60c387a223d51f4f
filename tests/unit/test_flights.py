"""Threads that share a planner: nothing is computed twice, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from meld_duckdb import interrupt
from meld_duckdb.planner.flights import InFlight, Turn
from meld_duckdb.tasks.base import Completion, Prompt
from tests.unit.test_plan import World, pair


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def slowly(prompt: Prompt) -> Completion:
    time.sleep(0.02)
    return Completion("match", (0.7, 0.3), 0.7)


def ask_at_once(world: World, *parts: range) -> list[list[float | None]]:
    found: list[list[float | None]] = [[] for _ in parts]

    def run(at: int, numbers: range) -> None:
        answers, _ = world.ask(*[pair(0.5, f"n{i}") for i in numbers])
        found[at] = [a.probability for a in answers]

    threads = [threading.Thread(target=run, args=item) for item in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_that_ask_the_same_compute_it_once(world: World) -> None:
    world.backend.script = slowly
    parts = (range(20), range(20), range(10, 30), range(5))
    assert ask_at_once(world, *parts) == [[0.7] * len(p) for p in parts]
    assert len(world.backend.asked) == 30


def test_a_thread_computes_while_another_waits_for_the_engine(world: World) -> None:
    asked, go = threading.Event(), threading.Event()

    def script(prompt: Prompt) -> Completion:
        asked.set()
        assert go.wait(10)
        return Completion("match", (0.7, 0.3), 0.7)

    world.backend.script = script
    thread = threading.Thread(target=ask_at_once, args=(world, range(1)))
    thread.start()
    assert asked.wait(10)
    assert world.ask(pair(0.95, "cheap"))[0][0].tier == 0
    go.set()
    thread.join()


def test_what_failed_elsewhere_is_computed_here(world: World) -> None:
    first = threading.Event()

    def script(prompt: Prompt) -> Completion:
        if not first.is_set():
            first.set()
            time.sleep(0.2)
            return Completion(None, error="broken")
        return Completion("match", (0.7, 0.3), 0.7)

    world.backend.script = script
    results: list[object] = []

    def run() -> None:
        results.append(world.ask(pair(0.5, "same"), tier="t2")[0][0].error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert first.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["None", "broken"]


def test_without_a_cache_a_thread_keeps_its_turn(tmp_path: Path) -> None:
    world = World(tmp_path, cached=False)
    running, most = 0, 0
    lock = threading.Lock()

    def script(prompt: Prompt) -> Completion:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return Completion("match", (0.7, 0.3), 0.7)

    world.backend.script = script
    ask_at_once(world, range(4), range(4))
    assert most == 1 and len(world.backend.asked) == 8


def test_an_interruption_of_one_call_leaves_the_others_alone(world: World) -> None:
    world.backend.script = slowly
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with interrupt.heeding(stop):
                world.ask(*[pair(0.5, f"n{i}") for i in range(200)])
        except KeyboardInterrupt as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    stop.set()
    assert ask_at_once(world, range(195, 200)) == [[0.7] * 5]
    thread.join()
    assert len(errors) == 1 and not interrupt.is_set()


def test_waiting_can_be_interrupted() -> None:
    turn, flights, stop = Turn(), InFlight(), threading.Event()
    stop.set()
    with turn.hold(), flights.claim({"a", "b"}) as first, flights.claim({"b", "c"}) as second:
        assert (first, second) == ({"a", "b"}, {"c"})
        with interrupt.heeding(stop):
            with pytest.raises(KeyboardInterrupt):
                flights.wait({"a"})
            flights.wait({"z"})
            with pytest.raises(KeyboardInterrupt), turn.hold():
                pytest.fail("two have the turn")
    flights.wait({"a", "b", "c"})
