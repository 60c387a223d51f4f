"""Arguments of calls: what an engine takes of them, and when; and who waits for it."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack

import pyarrow as pa
import pytest
from pyarrow import flight

from meld_duckdb import errors
from meld_duckdb.daemon import arguments, client, protocol
from meld_duckdb.daemon import server as server_module
from meld_duckdb.daemon.arguments import Room
from meld_duckdb.daemon.client import EngineDeclined
from meld_duckdb.daemon.protocol import Message
from meld_duckdb.errors import EngineRejected
from tests.daemon.served import Served, make_small

_MANY = 10**9


def _empty_lists() -> pa.Array:
    """One list of very many NULLs; a few bytes."""
    return pa.ListArray.from_arrays(pa.array([0, 10**7], pa.int32()), pa.nulls(10**7))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.nulls(_MANY), r"1000000000 rows or more, at most 1000000"),
        (_empty_lists(), r"160\d+ bytes or more, at most 100000000"),
        (pa.StructArray.from_arrays([_empty_lists()], ["a"]), r"160\d+ bytes or more"),
        (pa.FixedSizeListArray.from_arrays(pa.nulls(10**7), 10**7), r"160\d+ bytes or more"),
        (pa.RunEndEncodedArray.from_arrays(pa.array([5]), pa.array(["x"])), r"run-end encoded"),
    ],
)
def test_what_takes_no_bytes_on_the_way_is_counted(
    served: Served, column: pa.Array, message: str
) -> None:
    make_small(served, 100_000_000)
    found = served.exchange(served.header(), [pa.record_batch([column], names=["c0"])])
    assert isinstance(found[-1], Message) and found[-1].error is not None
    assert re.search(message, str(found[-1].error))
    assert served.is_well()


def test_what_is_packed_counts_as_what_it_is(served: Served) -> None:
    column = pa.array(["x" * 20_000_000])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    writer, reader = served.raw.do_exchange(
        flight.FlightDescriptor.for_command(served.header(n_bytes=6_500))
    )
    writer.begin(pa.schema([("c0", pa.string())]), options=options)
    writer.write_batch(pa.record_batch([column], names=["c0"]))
    writer.done_writing()
    message = protocol.decode_message(reader.read_chunk().app_metadata.to_pybytes())
    assert "bytes or more, at most 1013000" in str(message.error)
    writer.close()


def test_a_call_in_too_many_parts_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "_MOST_CHUNKS", 3)
    batches = [pa.record_batch([pa.array(["a"])] * 2, names=["a", "b"])] * 5
    [message] = served.exchange(served.header(), batches)
    assert isinstance(message, Message) and "more than 3 parts" in str(message.error)


def test_arguments_take_their_room_before_they_are_read() -> None:
    room, given_up = Room(), threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise TimeoutError

    with pytest.raises(EngineRejected, match="11 bytes or more, at most 10"):
        with room.hold("a", 11, 10, check):
            pytest.fail("too large")
    with ExitStack() as stack:
        places = [stack.enter_context(room.hold("a", 10, 10, check)) for _ in range(4)]
        threading.Timer(0.2, given_up.set).start()
        with pytest.raises(TimeoutError), room.hold("b", 1, 10, check):
            pytest.fail("there is no room")
        places[0].n_bytes = 9
        with room.hold("b", 1, 10, check):
            pass
        places[1].until = 0.0  # it sent nothing for too long
        with room.hold("b", 10, 10, check):
            pass


def test_calls_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_MOST_OF_CLIENT", 2)
    room = Room()
    with room.hold("a", 0, 10, print), room.hold("a", 0, 10, print):
        with pytest.raises(EngineRejected, match="2 calls, 2 of them of this process"):
            with room.hold("a", 0, 10, print):
                pytest.fail("one too many")
        with room.hold("b", 0, 10, print):
            pass


def test_a_refusal_arrives_while_the_client_is_sending(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "_MOST_OF_CLIENT", 0)
    text = "x" * 1_000
    many = pa.array([text + str(i) for i in range(60_000)])
    with pytest.raises(EngineDeclined, match="takes no more"):
        served.match(many, many)
    monkeypatch.undo()
    assert served.is_well()


def test_arguments_that_come_too_late_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "READING_S", 0.1)
    writer, reader = served.raw.do_exchange(flight.FlightDescriptor.for_command(served.header()))
    batch = pa.record_batch([pa.array(["a"])] * 2, names=["a", "b"])
    writer.begin(batch.schema)
    time.sleep(0.3)
    writer.write_batch(batch)
    writer.done_writing()
    message = protocol.decode_message(reader.read_chunk().app_metadata.to_pybytes())
    assert "took too long to come" in str(message.error) and message.declined
    writer.close()


def test_who_waits_for_room_is_told_and_hears_the_engine(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the queue is full, and without the queue's lock."""
    monkeypatch.setattr(server_module, "_QUEUED_NOTICE_S", 0.1)
    monkeypatch.setattr(server_module, "_HEARTBEAT_S", 0.1)
    heard: list[Message] = []
    decode = protocol.decode_message
    monkeypatch.setattr(
        client.protocol, "decode_message", lambda data: heard.append(decode(data)) or heard[-1]
    )
    full = [True]
    monkeypatch.setattr(served.engine.workers._queue, "_is_full", lambda client: full[0])
    threading.Timer(1.0, lambda: full.insert(0, False)).start()
    assert served.is_well()
    assert served.said == ["waiting for the engine: 0 calls run, 0 wait"]
    assert Message() in heard


def test_an_engine_that_is_silent_for_long_is_taken_for_hung(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SILENT_S", 0.3)
    monkeypatch.setattr(served.engine.workers._queue, "_is_full", lambda client: True)
    with pytest.raises(errors.EngineTimeout, match=r"silent since \d s"):
        served.is_well()


def test_an_engine_is_ended_over_the_socket_alone(served: Served) -> None:
    found = served.raw.do_action(flight.Action(protocol.STOP, b""))
    assert "there is no action 'stop'" in json.loads(next(found).body.to_pybytes())["error"]["what"]
