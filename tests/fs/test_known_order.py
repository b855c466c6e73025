"""An order that is known: what is taken of it, and when, as its reader goes on."""

from __future__ import annotations

import threading
from array import array

from dvfs.fs.known_order import KnownOrder


def order_of(*ranks: int, window: int = 100, slack: int = 4, strange: int = 3) -> KnownOrder:
    return KnownOrder(array("Q", ranks), window_bytes=window, slack_files=slack, strange_reads=strange)


def want(order: KnownOrder, most: int, size: int = 10) -> list[int]:
    """Go through the next files; return those that are wanted."""
    return [rank for rank in order.coming(most) if order.has_room() and order.want(rank, size)]


def test_files_are_taken_in_order_until_the_window_is_full() -> None:
    order = order_of(*range(100, 130))
    assert want(order, 4) == [100, 101, 102, 103]
    assert want(order, 20) == list(range(104, 110))
    assert not order.has_room()


def test_what_is_read_makes_room() -> None:
    order = order_of(*range(100, 130), slack=50)
    want(order, 10)
    order.note_read(105)
    assert want(order, 5) == [110]


def test_the_window_counts_bytes() -> None:
    order = order_of(1, 2, 3)
    want(order, 1, size=99)
    assert want(order, 1, size=1) == [2]
    assert not order.has_room()


def test_nothing_comes_after_the_end() -> None:
    order = order_of(1, 2)
    assert want(order, 5) == [1, 2]
    assert order.coming(5) == []
    assert not order.is_read
    order.note_read(2)
    order.note_read(1)
    assert order.is_read


def test_a_file_that_was_read_already_is_not_wanted() -> None:
    order = order_of(1, 2, 3)
    order.note_read(2)
    assert want(order, 3) == [1, 3]


def test_only_the_begin_of_a_file_that_is_not_wanted_says_that_it_was_read() -> None:
    order = order_of(1, 2, 3)
    order.note_read(2, is_begin=False)
    assert want(order, 3) == [1, 2, 3]


def test_files_that_the_reader_leaves_out_are_forgotten() -> None:
    order = order_of(*range(100, 130), slack=4)
    want(order, 10)  # the window is full
    order.note_read(109)  # 100 to 104 are further behind than readers are out of order
    assert want(order, 20) == list(range(110, 116))  # 105 to 108 are still waited for


def test_a_reader_that_is_further_on_is_followed() -> None:
    order = order_of(*range(100, 200), strange=3)
    want(order, 10)
    for rank in (150, 151, 152):
        order.note_read(rank)
    assert want(order, 2) == [153, 154]
    assert order.has_room()


def test_a_reader_of_other_files_is_not_followed() -> None:
    order = order_of(*range(100, 200), strange=3)
    want(order, 10)
    for rank in range(500, 520):
        order.note_read(rank)
    assert order.coming(1) == [110]
    assert not order.has_room()


def test_a_reader_of_other_files_at_the_end_has_left_the_order() -> None:
    order = order_of(*range(100, 105), strange=3)
    want(order, 5)
    for rank in range(500, 503):
        assert not order.is_read
        order.note_read(rank)
    assert order.is_read


def test_a_file_may_come_again() -> None:
    order = order_of(1, 2, 1)
    assert want(order, 2) == [1, 2]
    order.note_read(1)
    assert want(order, 1) == [1]
    order.note_read(2)
    assert not order.is_read
    order.note_read(1)
    assert order.is_read


def test_a_batch_that_the_reader_went_past_is_wanted_no_more() -> None:
    order = order_of(*range(100, 200), strange=3)
    batch = order.coming(5)
    for rank in (150, 151, 152):
        order.note_read(rank)
    assert [rank for rank in batch if order.want(rank, 10)] == []
    assert order.coming(1) == [153]


def test_whoever_waits_for_room_goes_on_when_there_is_some_or_at_the_end() -> None:
    order = order_of(*range(100, 130))
    for go_on, expected in ((lambda: order.note_read(100), True), (order.end, False)):
        want(order, 30)
        told: list[bool] = []
        thread = threading.Thread(target=lambda told=told: told.append(order.wait_for_room()))
        thread.start()
        assert not told
        go_on()  # type: ignore[no-untyped-call]
        thread.join()
        assert told == [expected]


def test_one_that_is_over_gives_nothing() -> None:
    order = order_of(1, 2, 3)
    order.end()
    assert order.coming(2) == []
    assert not order.want(1, 10)
