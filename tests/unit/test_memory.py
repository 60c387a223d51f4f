from __future__ import annotations

import pyarrow as pa

from meld_duckdb.planner.memory import CallMemory, Remembered, call_key


def remembered(n: int) -> Remembered:
    return Remembered(pa.array([{"a": "x" * n}]), ("d",))


def test_a_call_is_known_by_task_types_and_values() -> None:
    rows = [{"t": "a", "n": 1}, None, {"t": None, "n": 2}]
    arrays = [pa.array(rows), pa.array(["x", "y", None])]
    key = call_key("match", arrays)
    assert key == call_key("match", [pa.array(rows), pa.array(["x", "y", None])])
    assert key == call_key("match", [pa.chunked_array([a.slice(0, 2), a.slice(2)]) for a in arrays])
    others = [
        ("repair", arrays),
        ("match", arrays[::-1]),
        ("match", arrays[:1]),
        ("match", [arrays[0], pa.array(["x", None, "y"])]),
        ("match", [arrays[0], pa.array(["x", "y", None], pa.large_string())]),
        ("match", [arrays[0].cast(pa.struct([("t", pa.string()), ("n", pa.int32())])), arrays[1]]),
        ("match", [pa.array([{"u": r["t"], "n": r["n"]} if r else None for r in rows]), arrays[1]]),
        ("match", [pa.array([rows[0], {"t": None, "n": None}, rows[2]]), arrays[1]]),
    ]
    keys = {call_key(task, given) for task, given in others}
    assert len(keys) == len(others)
    assert key not in keys


def test_nothing_is_remembered_across_a_change() -> None:
    memory = CallMemory()
    memory.put(b"k", (1,), remembered(3))
    assert memory.get(b"k", (1,)) is not None
    assert memory.get(b"k", (2,)) is None
    memory.put(b"other", (2,), remembered(3))
    assert memory.get(b"k", (2,)) is None
    assert memory.get(b"k", (1,)) is None


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    one = remembered(1_000).n_bytes
    memory = CallMemory(most_bytes=3 * one)
    for name in (b"a", b"b", b"c"):
        memory.put(name, (), remembered(1_000))
    memory.put(b"a", (), remembered(1_000))  # again: counted once
    assert memory.get(b"b", ()) is not None
    memory.put(b"d", (), remembered(1_000))
    assert [memory.get(name, ()) is not None for name in (b"a", b"b", b"c", b"d")] == [
        True,
        True,
        False,
        True,
    ]
    memory.put(b"huge", (), remembered(100_000))
    assert memory.get(b"huge", ()) is None
