from __future__ import annotations

import threading
import time

import pytest

from meld_duckdb.daemon.queue import FairQueue


def nothing() -> None:
    """Never gives up."""


def filled(*items: tuple[str, int], n_workers: int = 100) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(100, 100, n_workers)
    for client, item in items:
        queue.put(client, item, nothing)
    return queue


def test_clients_take_turns_whatever_one_of_them_asks() -> None:
    queue = filled(*[("greedy", i) for i in range(4)], ("modest", 10), ("other", 20))
    order = []
    for _ in range(6):
        taken = queue.get()
        assert taken is not None
        order.append(taken[1])
        queue.done(taken[0])
    assert order == [0, 10, 20, 1, 2, 3]


def test_who_has_fewer_running_comes_first() -> None:
    queue = filled(*[("greedy", i) for i in range(3)])
    assert queue.get() == ("greedy", 0) and queue.get() == ("greedy", 1)
    queue.put("late", 9, nothing)
    assert queue.get() == ("late", 9)
    assert queue.get() == ("greedy", 2)


def test_one_client_never_has_all_workers() -> None:
    queue = filled(*[("greedy", i) for i in range(3)], n_workers=5)
    queue.get(), queue.get()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(queue.get()))
    thread.start()
    time.sleep(0.1)
    assert found == []
    queue.put("late", 9, nothing)
    thread.join()
    assert found == [("late", 9)]
    queue.done("greedy")
    assert queue.get() == ("greedy", 2)


@pytest.mark.parametrize(("per_client", "total"), [(2, 100), (100, 2)])
def test_a_full_queue_makes_wait_until_there_is_room(per_client: int, total: int) -> None:
    queue: FairQueue[int] = FairQueue(per_client, total, 100)
    queue.put("a", 0, nothing)
    queue.put("a", 1, nothing)
    put = threading.Event()
    thread = threading.Thread(target=lambda: (queue.put("a", 2, nothing), put.set()))
    thread.start()
    assert not put.wait(0.2)
    assert queue.get() == ("a", 0)
    assert put.wait(2)
    thread.join()


def test_waiting_for_room_can_be_given_up() -> None:
    queue: FairQueue[int] = FairQueue(1, 100, 100)
    queue.put("a", 0, nothing)

    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        queue.put("a", 1, check)
    queue.put("b", 2, check)
    assert queue.size().waiting == 2


def test_what_nobody_waits_for_is_taken_out() -> None:
    queue = filled(("a", 0), ("a", 1))
    assert queue.remove("a", 0) and not queue.remove("a", 0) and not queue.remove("b", 0)
    assert queue.get() == ("a", 1)
    assert (queue.size().waiting, queue.size().running, queue.size().clients) == (0, 1, 1)


def test_a_closed_queue_hands_out_what_waits_and_ends() -> None:
    queue = filled(("a", 0))
    queue.close()
    with pytest.raises(RuntimeError):
        queue.put("a", 1, nothing)
    assert queue.get() == ("a", 0)
    assert not queue.wait_empty(0.05)
    assert queue.get() is None
    queue.done("a")
    assert queue.wait_empty(0.05)
