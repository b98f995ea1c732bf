"""Pieces handed to a thread: in order, bounded, and no failure lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from mesocosm.images.layers.conveyor import DEPTH, Conveyor

PATIENCE = 10.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_pieces_are_worked_on_in_order_and_all_of_them() -> None:
    taken: list[bytes] = []
    conveyor = Conveyor(taken.append)
    pieces = [bytes([number]) for number in range(100)]
    for piece in pieces:
        conveyor.put(piece)
    conveyor.finish()
    assert taken == pieces


def test_it_works_in_one_thread_that_is_not_the_callers() -> None:
    threads: set[int] = set()
    conveyor = Conveyor(lambda _: threads.add(threading.get_ident()))
    for _ in range(10):
        conveyor.put(b"piece")
    conveyor.finish()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_nothing_put_needs_no_thread() -> None:
    conveyor = Conveyor(lambda _: None)
    before = threading.active_count()
    conveyor.finish()
    assert threading.active_count() == before


def test_whoever_is_ahead_waits_for_room() -> None:
    go_on = threading.Event()
    worked = threading.Semaphore(0)

    def work(_: bytes) -> None:
        assert go_on.wait(PATIENCE)
        worked.release()

    conveyor = Conveyor(work)
    full = threading.Event()

    def fill() -> None:
        for _ in range(DEPTH):
            conveyor.put(b"piece")
        full.set()
        conveyor.put(b"one too many")
        beyond.set()

    beyond = threading.Event()
    filler = threading.Thread(target=fill)
    filler.start()
    assert full.wait(PATIENCE)
    assert not beyond.wait(0.05)
    go_on.set()
    assert beyond.wait(PATIENCE)
    filler.join()
    conveyor.finish()
    assert all(worked.acquire(timeout=PATIENCE) for _ in range(DEPTH + 1))


def test_a_failure_ends_the_work_and_is_raised_to_whoever_feeds() -> None:
    seen: list[bytes] = []

    def work(piece: bytes) -> None:
        seen.append(piece)
        if piece == b"bad":
            raise ValueError("bad piece")

    conveyor = Conveyor(work)
    with pytest.raises(ValueError, match="bad piece"):
        for piece in [b"good", b"bad", *[b"later"] * (2 * DEPTH)]:
            conveyor.put(piece)
    conveyor.abort()
    assert seen == [b"good", b"bad"]


def test_a_failure_at_the_last_piece_is_raised_at_the_end() -> None:
    def work(_: bytes) -> None:
        raise ValueError("bad piece")

    conveyor = Conveyor(work)
    conveyor.put(b"piece")
    with pytest.raises(ValueError, match="bad piece"):
        conveyor.finish()


def test_giving_up_drops_what_waits_and_may_be_repeated() -> None:
    started, go_on = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def work(piece: bytes) -> None:
        seen.append(piece)
        started.set()
        assert go_on.wait(PATIENCE)

    conveyor = Conveyor(work)
    conveyor.put(b"first")
    conveyor.put(b"second")
    assert started.wait(PATIENCE)
    timer = threading.Timer(0.05, go_on.set)
    timer.start()
    conveyor.abort()
    timer.join()
    conveyor.abort()
    assert seen == [b"first"]


def test_on_a_single_processor_pieces_are_worked_on_at_once() -> None:
    """A second thread would only take the processor, and its caches, from the first."""
    threads: list[int] = []
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        conveyor = Conveyor(lambda _: threads.append(threading.get_ident()))
        conveyor.put(b"piece")
        assert threads == [threading.get_ident()]
        conveyor.finish()
    finally:
        os.sched_setaffinity(0, allowed)
