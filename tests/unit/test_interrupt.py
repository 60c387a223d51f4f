from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meld_duckdb import interrupt

LASTS_S = 30.0


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    interrupt.clear()


def heedful() -> None:
    until = time.monotonic() + LASTS_S
    while time.monotonic() < until:
        interrupt.check()
        time.sleep(0.01)


def stubborn() -> None:
    until = time.monotonic() + LASTS_S
    while time.monotonic() < until:
        time.sleep(0.01)


def answered_by_a_thread(work: Callable[[], None]) -> list[BaseException | None]:
    """How a call ends that another thread answers while this one gets SIGINT."""
    ended: list[BaseException | None] = []
    begun = threading.Event()

    def answer() -> None:
        try:
            with interrupt.answering():
                begun.set()
                work()
            ended.append(None)
        except BaseException as error:  # noqa: BLE001
            ended.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    begun.wait()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        thread.join()
    except KeyboardInterrupt:
        pass
    thread.join(LASTS_S + 5)
    return ended


@pytest.mark.parametrize("work", [heedful, stubborn])
def test_a_call_of_another_thread_hears_of_ctrl_c(work: Callable[[], None]) -> None:
    started = time.monotonic()
    [error] = answered_by_a_thread(work)
    seconds = time.monotonic() - started
    print(f"stopped after {seconds:.2f} s")
    assert isinstance(error, KeyboardInterrupt) and str(error) == interrupt.STOPPED
    assert seconds < LASTS_S / 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupt.answering():  # a later call is not disturbed
        time.sleep(0.2)
        interrupt.check()
        assert not interrupt.is_set()


def test_calls_of_all_threads_stop_when_one_is_interrupted() -> None:
    ended: list[str] = []

    def answer() -> None:
        try:
            with interrupt.answering():
                heedful()
        except KeyboardInterrupt as error:
            ended.append(str(error))

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match=interrupt.STOPPED), interrupt.answering():
        time.sleep(0.2)
        raise KeyboardInterrupt
    thread.join(LASTS_S)
    assert ended == [interrupt.STOPPED]


def test_a_program_with_its_own_handler_decides_itself() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))

    def short() -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            interrupt.check()
            time.sleep(0.01)

    assert answered_by_a_thread(short) == [None]
    assert heard == [signal.SIGINT]


def test_a_library_is_imported_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(1)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    interrupt.interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt.import_apart("slow_library")
    interrupt.clear()
    interrupt.import_apart("slow_library", "no_such_library_at_all")
    import slow_library  # type: ignore[import-not-found]

    assert slow_library.whole
    del sys.modules["slow_library"]


def in_a_fork(files: int = 0) -> int:
    """Fork, open some files; gives 0 if a call in the child was interrupted."""
    child = os.fork()
    if child == 0:
        try:
            for _ in range(files):
                os.dup(0)
            [error] = answered_by_a_thread(heedful)
            os._exit(0 if isinstance(error, KeyboardInterrupt) else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_process_watches_for_itself() -> None:
    with interrupt.answering():
        assert in_a_fork() == 0
        interrupt.check()


def test_a_process_with_many_open_files_is_watched() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2_000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2_000, hard))
    with interrupt.answering():
        assert in_a_fork(1_100) == 0
