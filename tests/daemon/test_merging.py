from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from meld_duckdb import interrupt
from meld_duckdb.daemon.merging import MergingBackend
from meld_duckdb.engine.adapters import Adapter
from meld_duckdb.errors import ArtefactMissing
from meld_duckdb.tasks.base import Completion, Prompt
from tests.scripted import ScriptedBackend


def prompt(question: str) -> Prompt:
    return Prompt("", (), question, ("yes", "no"), 1)


class Gated:
    """A backend that waits for a permission before every batch, and says what it was given."""

    digest = "gated"

    def __init__(self, batch_size: int = 4) -> None:
        self.batch_size = batch_size
        self.may = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.adapters: list[str | None] = []
        self.closed = 0

    def complete(
        self, prompts: Sequence[Prompt], adapter: Adapter | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        done = False
        try:
            for start in range(0, len(prompts), self.batch_size):
                self.may.acquire()
                part = prompts[start : start + self.batch_size]
                self.batches.append([p.question for p in part])
                self.adapters.append(adapter and adapter.name)
                for p in part:
                    if "bad" in p.question:
                        raise ValueError(p.question)
                    if "gone" in p.question:
                        raise ArtefactMissing("the adapter is gone")
                yield [
                    (start + i, Completion("yes", (1.0, 0.0), 1.0, len(p.question)))
                    for i, p in enumerate(part)
                ]
            done = True
        finally:
            self.closed += not done


class Caller(threading.Thread):
    """Asks questions; keeps the answers by position, or the error."""

    def __init__(
        self, backend: MergingBackend, questions: Sequence[str], adapter: Adapter | None = None
    ) -> None:
        super().__init__()
        self.backend, self.questions, self.adapter = backend, questions, adapter
        self.stop = threading.Event()
        self.found: dict[int, int] = {}
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with interrupt.heeding(self.stop):
                prompts = [prompt(q) for q in self.questions]
                for part in self.backend.complete(prompts, self.adapter):
                    self.found.update({i: c.prompt_tokens for i, c in part})
        except BaseException as error:  # noqa: BLE001
            self.error = error

    @property
    def is_right(self) -> bool:
        self.join(10)
        return self.found == {i: len(q) for i, q in enumerate(self.questions)}


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def gated() -> Gated:
    return Gated()


def test_a_caller_alone_gets_the_batches_it_would_get_without() -> None:
    scripted = ScriptedBackend(batch_size=4)
    merging = MergingBackend(scripted, 4)
    parts = list(merging.complete([prompt(f"{i}") for i in range(10)]))
    assert [[i for i, _ in part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(merging.complete([])) == []
    assert (merging.n_rounds, merging.n_merged, merging.digest) == (1, 0, "scripted")


def test_callers_that_ask_at_once_share_batches_in_turn(gated: Gated) -> None:
    merging = MergingBackend(gated, 4)
    first = Caller(merging, ["first"])
    until(lambda: merging.n_rounds == 1)
    others = [Caller(merging, [f"{name}{i}" for i in range(2)]) for name in ("a", "bb", "ccc")]
    until(lambda: len(merging._requests) == 3)
    gated.may.release(9)
    assert first.is_right and all(caller.is_right for caller in others)
    assert len(gated.batches) == 3 and gated.batches[0] == ["first"]
    assert sorted(len(q) for q in gated.batches[1]) == [2, 2, 3, 4]  # one of each, then the next
    assert merging.n_merged == 6


def test_adapters_do_not_mix(gated: Gated) -> None:
    merging = MergingBackend(gated, 4)
    first = Caller(merging, ["first"])
    until(lambda: merging.n_rounds == 1)
    one, two = (Adapter(name, Path(name)) for name in ("one", "two"))
    callers = [Caller(merging, [f"{i}"], a) for i, a in enumerate([one, two, None, one])]
    until(lambda: len(merging._requests) == 4)
    gated.may.release(9)
    assert first.is_right and all(caller.is_right for caller in callers)
    assert sorted(map(str, gated.adapters)) == ["None", "None", "one", "two"]


def test_a_long_caller_does_not_keep_a_short_one_waiting(gated: Gated) -> None:
    merging = MergingBackend(gated, 4)
    long = Caller(merging, [f"long{i}" for i in range(40)])
    until(lambda: merging.n_rounds == 1)
    gated.may.release(2)
    until(lambda: len(long.found) >= 4)
    short = Caller(merging, ["short"])
    until(lambda: merging._requests or merging.n_rounds == 2)
    gated.may.release(3)
    assert short.is_right
    assert len(long.found) < 40
    gated.may.release(40)
    assert long.is_right


def test_what_one_of_many_no_longer_wants_is_bounded(gated: Gated) -> None:
    merging = MergingBackend(gated, 4)
    first = Caller(merging, ["first"])
    until(lambda: merging.n_rounds == 1)
    leaving = Caller(merging, [f"left{i}" for i in range(400)])
    staying = Caller(merging, [f"s{i}" for i in range(8)])
    until(lambda: len(merging._requests) == 2)
    gated.may.release(2)
    until(lambda: leaving.found)
    leaving.stop.set()
    leaving.join(5)
    assert isinstance(leaving.error, KeyboardInterrupt)
    gated.may.release(100)
    assert first.is_right and staying.is_right
    asked = [q for batch in gated.batches for q in batch if q.startswith("left")]
    assert len(asked) <= 16 - 8 + 4


def test_a_caller_alone_that_leaves_ends_its_round(gated: Gated) -> None:
    merging = MergingBackend(gated, 4)
    caller = Caller(merging, [f"{i}" for i in range(40)])
    gated.may.release(1)
    until(lambda: caller.found)
    caller.stop.set()
    caller.join(5)
    gated.may.release(50)
    until(lambda: gated.closed == 1)
    assert len(gated.batches) <= 3
    assert Caller(merging, ["next"]).is_right


@pytest.mark.parametrize(("word", "kind"), [("bad", ValueError), ("gone", ArtefactMissing)])
def test_the_error_of_one_caller_harms_no_other(
    gated: Gated, word: str, kind: type[Exception]
) -> None:
    merging = MergingBackend(gated, 4)
    first = Caller(merging, ["first"])
    until(lambda: merging.n_rounds == 1)
    guilty = Caller(merging, ["a", word])
    others = [Caller(merging, [f"{name}{i}" for i in range(5)]) for name in "bc"]
    until(lambda: len(merging._requests) == 3)
    gated.may.release(99)
    assert first.is_right and all(caller.is_right for caller in others)
    guilty.join(5)
    assert isinstance(guilty.error, kind)
    assert Caller(merging, ["after"]).is_right


def test_an_engine_that_forgets_a_prompt_is_an_error() -> None:
    class Forgetful(ScriptedBackend):
        def complete(self, prompts, adapter=None):  # type: ignore[no-untyped-def]
            yield from list(super().complete(prompts, adapter))[:1]

    merging = MergingBackend(Forgetful(batch_size=1), 4)
    with pytest.raises(Exception, match="answered 1 of 2 prompts"):
        list(merging.complete([prompt("a"), prompt("b")]))
