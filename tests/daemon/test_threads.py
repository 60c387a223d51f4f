"""What the threads of an engine share: turns, fits, sessions, models, memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from meld_duckdb import service as service_module
from meld_duckdb.daemon import serving
from meld_duckdb.daemon.merging import MergingBackend
from meld_duckdb.daemon.queue import FairQueue
from meld_duckdb.daemon.serving import Models, Sessions, SharedService
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.errors import EngineError
from meld_duckdb.planner.flights import Turn, letting_others, pausing
from meld_duckdb.planner.memory import CallMemory
from meld_duckdb.planner.scorers import impute, table_repairs
from meld_duckdb.planner.scorers.impute import ImputeScorer
from meld_duckdb.planner.session import Session
from meld_duckdb.planner.tables import Tables
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.settings import resolve
from meld_duckdb.tasks.base import Completion, Demonstration, Prompt, Query
from tests.scripted import ScriptedBackend


def in_threads(n: int, run: Callable[[int], object]) -> list[object]:
    """What a function gives in threads that start at once; exceptions as they are."""
    found: list[object] = [None] * n
    start = threading.Barrier(n)

    def go(number: int) -> None:
        start.wait()
        try:
            found[number] = run(number)
        except BaseException as error:  # noqa: BLE001
            found[number] = error

    threads = [threading.Thread(target=go, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_imputation_is_safe_for_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`least` is asked outside of any turn."""
    monkeypatch.setattr(impute, "_KEPT", 1)
    columns = [f"c{i}" for i in range(4)]
    row = make_record({name: "x" for name in columns})
    labels = [Demonstration(Query((row,), name), "x") for name in columns]
    index = impute.impute.ImputeIndex

    def slow(records: Sequence[object], column: str) -> object:
        time.sleep(0.0005)
        return index(records, column)  # type: ignore[arg-type]

    monkeypatch.setattr(impute.impute, "ImputeIndex", slow)
    scorer = ImputeScorer(Tables(Catalogue(tmp_path / "c"), lambda d: []), lambda task: labels)

    def ask(number: int) -> object:
        for i in range(150):
            query = Query((row,), columns[(number + i) % 4])
            assert scorer.least(query, ()) > 0
            scorer.score([query], ())
        return "well"

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert in_threads(6, ask) == ["well"] * 6
    finally:
        sys.setswitchinterval(before)


def test_repairs_are_fitted_once_whatever_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []

    def slow(*given: object) -> object:
        built.append(given)
        time.sleep(0.05)
        return object()

    monkeypatch.setattr(table_repairs, "FittedRepairs", slow)
    tables = Tables(Catalogue(tmp_path / "c"), lambda d: [])
    repairs = table_repairs.TableRepairs(tables, lambda task: ())
    record = make_record({"a": "x"})
    found = in_threads(6, lambda number: repairs.fitted(record, ()))
    assert len(built) == 1 and len(set(map(id, found))) == 1


class Nervous:
    """A lock during whose acquisition Ctrl-C comes: before it is had, or just after."""

    def __init__(self, *moments: str) -> None:
        self.lock, self.moments = threading.RLock(), list(moments)

    def acquire(self, timeout: float = -1) -> bool:
        moment = self.moments.pop(0) if self.moments else ""
        if moment == "before":
            raise KeyboardInterrupt
        had = self.lock.acquire(timeout=timeout)
        if moment == "after":
            raise KeyboardInterrupt
        return had

    def release(self) -> None:
        self.lock.release()

    def _is_owned(self) -> bool:
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]


@pytest.mark.parametrize("moments", [["before"], ["before", "before"], ["after"]])
def test_ctrl_c_while_the_turn_is_waited_for_again(moments: list[str]) -> None:
    turn = Turn()
    turn._lock = Nervous("", *moments)  # type: ignore[assignment]
    other_has_it, other_may_end = threading.Event(), threading.Event()

    def other() -> None:
        with turn.hold():
            other_has_it.set()
            other_may_end.wait(10)
            assert turn._is_own()

    thread = threading.Thread(target=other)
    with pytest.raises(KeyboardInterrupt), turn.hold():
        turn._lock.moments, later = [], turn._lock.moments  # type: ignore[attr-defined]
        with turn.pause():
            thread.start()
            assert other_has_it.wait(10)
            turn._lock.moments = later  # type: ignore[attr-defined]
            threading.Timer(0.3, other_may_end.set).start()
    thread.join()
    with turn.hold():  # it is nobody's
        assert turn._is_own()
    assert not turn._is_own()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_while_the_turn_is_first_waited_for(moment: str) -> None:
    turn = Turn()
    turn._lock = Nervous(moment)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt), turn.hold():
        pytest.fail("it was interrupted")
    assert in_threads(1, lambda number: turn._lock.acquire(timeout=1)) == [True]


def test_a_turn_is_given_away_where_that_is_allowed() -> None:
    turn = Turn()

    def free() -> bool:
        [found] = in_threads(1, lambda number: turn._lock.acquire(timeout=0.05))
        return bool(found)

    with letting_others():  # without a turn: nothing
        pass
    with pausing(turn):
        with letting_others():
            assert not turn._is_own()
            with letting_others():
                pass
        assert turn._is_own()
    with turn.hold(), letting_others():
        assert turn._is_own() and not free()


def test_a_session_that_waits_keeps_no_other_client_waiting(
    backend: ScriptedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    made: list[bool] = []
    make = serving.SharedSession.__init__

    def slow(self: serving.SharedSession, settings: object, models: Models) -> None:
        made.append(settings.cache)  # type: ignore[attr-defined]
        if not settings.cache:  # type: ignore[attr-defined]
            assert go.wait(10)
        make(self, settings, models)  # type: ignore[arg-type]

    monkeypatch.setattr(serving.SharedSession, "__init__", slow)
    settings, _ = resolve({"workspace": tmp_path / "w"})
    waiting, _ = resolve({"workspace": tmp_path / "w", "cache": False})
    sessions = Sessions(settings)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(sessions.get(waiting))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert sessions.get(settings) is sessions.get(settings)
    assert found == []
    go.set()
    for thread in threads:
        thread.join()
    assert found[0] is found[1] and sorted(made) == [False, True]


def test_a_session_that_cannot_be_made_is_tried_again(
    backend: ScriptedBackend, tmp_path: Path
) -> None:
    (tmp_path / "w").write_text("")
    settings, _ = resolve({"workspace": tmp_path / "w"})
    sessions = Sessions(settings)
    for _ in range(2):
        with pytest.raises(Exception, match="cannot be written"):
            sessions.get(settings)
    (tmp_path / "w").unlink()
    assert sessions.get(settings) is not None


def test_a_model_that_loads_keeps_no_other_one_waiting() -> None:
    models, go = Models(), threading.Event()
    thread = threading.Thread(target=lambda: models.get("large", lambda: go.wait(10)))
    thread.start()
    time.sleep(0.05)
    assert models.get("small", lambda: 1) == 1 and models.names() == ["small"]
    go.set()
    thread.join()
    assert models.names() == ["large", "small"]


def test_calls_are_remembered_for_all_clients_and_within_one_budget(
    backend: ScriptedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = CallMemory(most_bytes=50_000)
    monkeypatch.setattr(service_module, "_MEMORY", memory)
    asked: list[str] = []
    state = Session.state

    def counted(self: Session) -> tuple[object, ...]:
        asked.append("state")
        return state(self)

    monkeypatch.setattr(Session, "state", counted)
    settings, _ = resolve({"workspace": tmp_path / "w"})
    sessions = Sessions(settings)
    first, second = (SharedService(settings, sessions) for _ in range(2))

    def ask(service: SharedService, word: str = "a") -> None:
        texts = pa.array([f"{word} {i}" for i in range(20)])
        service.answer("meld_match", "match", [texts, texts])

    ask(first)
    assert len(asked) == 2 and len(memory._calls) == 1
    ask(second)
    assert len(asked) == 3  # known
    other, _ = resolve({"workspace": tmp_path / "w", "experts": 0})
    ask(SharedService(other, sessions))
    assert len(memory._calls) == 2  # asked of another model, so to say
    for i in range(30):
        ask(first, f"w{i}")
    assert 0 < memory._n_bytes <= 50_000
    asked.clear()
    uncached, _ = resolve({"workspace": tmp_path / "w", "cache": False})
    ask(SharedService(uncached, sessions))
    assert asked == []


def test_three_clients_find_workers_whatever_two_of_them_ask() -> None:
    queue: FairQueue[int] = FairQueue(100, 1000, 16)

    def nothing() -> None:
        """Never gives up."""

    def take(client: str) -> int:
        """How many workers a client gets that asks much."""
        for i in range(40):
            queue.put(client, i, nothing)
        n_before = queue._running[client]
        while queue._next() == client:
            queue.get()
        return queue._running[client] - n_before

    assert [take(client) for client in ("one", "two", "three", "four", "five")] == [8, 4, 2, 1, 1]
    queue.done("one")
    queue.put("six", 0, nothing)
    assert queue.get() == ("six", 0)


class Breaking:
    """A backend whose first completions cannot even be counted."""

    digest = "breaking"

    def __init__(self) -> None:
        self.n_asked = 0

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        self.n_asked += 1
        first = self.n_asked == 1
        yield [
            (99 if first else i, Completion("yes", (1.0, 0.0), 1.0)) for i in range(len(prompts))
        ]


@pytest.mark.filterwarnings("error")
def test_a_merging_thread_that_dies_fails_its_callers_and_is_replaced() -> None:
    backend = MergingBackend(Breaking(), batch_size=4)
    prompt = Prompt("", (), "q", ("yes", "no"), 1)
    with pytest.raises(EngineError, match="the engine failed: IndexError"):
        list(backend.complete([prompt]))
    assert [i for part in backend.complete([prompt, prompt]) for i, _ in part] == [0, 1]
