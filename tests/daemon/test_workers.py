"""Calls and workers, without Flight."""

from __future__ import annotations

import logging
import threading
import time

import pyarrow as pa
import pytest

from meld_duckdb import interrupt
from meld_duckdb.daemon import calls as calls_module
from meld_duckdb.daemon.calls import Call, Workers, tell
from meld_duckdb.daemon.protocol import Message
from meld_duckdb.errors import EngineTimeout, EngineUnavailable, InputError

DONE = pa.array([True])


def nothing() -> None:
    """Never gives up."""


def call(client: str = "a", timeout_s: float = 0.0) -> Call:
    return Call(client, "meld_match", (), timeout_s=timeout_s)


def test_what_is_said_comes_before_the_result() -> None:
    def answer(call: Call) -> pa.Array:
        tell("loading")
        return DONE

    workers, one = Workers(answer), call()
    workers.submit(one, nothing)
    assert one.said.get(timeout=5) == Message(notice="loading")
    assert one.said.get(timeout=5) is DONE
    tell("to nobody")
    assert workers.drain(5)
    assert (workers.n_calls, workers.n_rows, workers.n_failed) == (1, 1, 0)


def test_errors_are_answers_and_their_texts_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(call: Call) -> pa.Array:
        raise (InputError if call.client == "input" else KeyError)("secret row")

    caplog.set_level(logging.DEBUG)
    workers = Workers(answer)
    for client, code in (("input", "MELD-E002"), ("broken", "MELD-E020")):
        one = call(client)
        workers.submit(one, nothing)
        said = one.said.get(timeout=5)
        assert isinstance(said, Message) and said.error is not None and not said.declined
        assert said.error.code == code and "secret row" in str(said.error)
    workers.drain(5)
    assert "meld_match failed (MELD-E002)" in caplog.text
    assert "meld_match failed (KeyError)" in caplog.text and "at answer:" in caplog.text
    assert "secret" not in caplog.text
    workers = Workers(answer, log_data=True)
    workers.submit(one := call("input"), nothing)
    one.said.get(timeout=5)
    workers.drain(5)
    assert "secret row" in caplog.text


def test_calls_wait_for_room_and_fail_past_their_deadline() -> None:
    go = threading.Event()

    def answer(call: Call) -> pa.Array:
        go.wait(10)
        return DONE

    workers = Workers(answer, n_workers=2, per_client=1)
    calls = [call(), call()]  # one runs, one waits, the next has no room
    for one in calls:
        workers.submit(one, nothing)
        time.sleep(0.1)
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"not answered within 0\.3 s"):
        workers.submit(call(timeout_s=0.3), nothing)
    assert 0.25 < time.monotonic() - started < 2
    other = call("b")
    workers.submit(other, nothing)
    go.set()
    for one in (*calls, other):
        assert one.said.get(timeout=5) is DONE
    workers.drain(5)


def test_a_dropped_call_stops_or_never_begins() -> None:
    begun: list[str] = []

    def answer(call: Call) -> pa.Array:
        begun.append(call.client)
        while True:
            interrupt.check()
            time.sleep(0.01)

    workers = Workers(answer, n_workers=1)
    first, second = call("first"), call("second")
    workers.submit(first, nothing)
    workers.submit(second, nothing)
    while not begun:
        time.sleep(0.01)
    workers.drop(second)
    workers.drop(first)
    assert workers.drain(5)
    assert begun == ["first"] and not interrupt.is_set()


def test_draining_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_GRACE_S", 0.1)
    go = threading.Event()

    def answer(call: Call) -> pa.Array:
        go.wait(10)
        return DONE

    workers = Workers(answer)
    workers.submit(call(), nothing)
    assert not workers.drain(0.1) and workers.gave_up.is_set()
    go.set()


def test_draining_gives_up_what_takes_too_long() -> None:
    def answer(call: Call) -> pa.Array:
        while True:
            interrupt.check()
            time.sleep(0.01)

    workers, one = Workers(answer), call()
    workers.submit(one, nothing)
    time.sleep(0.1)
    assert workers.idle_s() == 0
    assert not workers.drain(0.2)
    said = one.said.get(timeout=5)
    assert isinstance(said, Message) and isinstance(said.error, EngineUnavailable)
    assert said.declined and workers.idle_s() > 0
    with pytest.raises(EngineUnavailable, match="is stopping"):
        workers.submit(call(), nothing)
