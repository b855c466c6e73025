"""Who waits for the next request: counted on a shim and a trio that are fakes, without FUSE."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import trio
import trio.testing

from dvfs.fs.threads import Threads
from dvfs.fs.turns import (
    BUSY_REQUESTS_A_TURN,
    LEAST_PAUSE_SECONDS,
    MOST_PAUSE_SECONDS,
    REQUESTS_A_TURN,
    WAIT_NS,
    WAITS_IN_VAIN,
    Standby,
    Turns,
    quicken,
)


class Shim:
    """Finds a request each time, unless it is made idle."""

    def __init__(self) -> None:
        self.is_idle = False
        self.waited_ns: list[int] = []
        self.woken: int | None = None

    def wait_ns(self, nanoseconds: int) -> None:
        self.waited_ns.append(nanoseconds)

    def watch(self) -> int | None:
        return self.woken


class Loop:
    """The wait of pyfuse3; `awaits` says what a `Turns` is told of threads."""

    def __init__(self) -> None:
        self.waits = 0
        self.awaits = False
        self.goes_on = True

    async def wait(self) -> bool:
        self.waits += 1
        return self.goes_on


def _nothing() -> None:
    pass


async def _take(turns: Turns, count: int) -> list[bool]:
    return [await turns.next() for _ in range(count)]


@pytest.mark.trio
async def test_while_requests_come_the_loop_has_a_turn_after_many() -> None:
    shim, loop = Shim(), Loop()
    turns = Turns(shim, loop.wait, lambda: loop.awaits, _nothing)

    assert all(await _take(turns, 10 * (REQUESTS_A_TURN + 1)))

    assert (loop.waits, turns.waits) == (10, 10)
    assert set(shim.waited_ns) == {WAIT_NS}


@pytest.mark.trio
async def test_what_the_shim_answered_is_noted_before_each_request() -> None:
    shim, loop = Shim(), Loop()
    caught_up: list[int] = []
    turns = Turns(shim, loop.wait, lambda: loop.awaits, lambda: caught_up.append(loop.waits))
    await _take(turns, 3)
    shim.is_idle = True
    await _take(turns, 2)
    assert caught_up == [0, 0, 0, 0, 1]


@pytest.mark.trio
async def test_while_threads_are_awaited_it_has_one_after_few_and_nobody_else_waits() -> None:
    shim, loop = Shim(), Loop()
    loop.awaits = True

    await _take(Turns(shim, loop.wait, lambda: loop.awaits, _nothing), 10 * (BUSY_REQUESTS_A_TURN + 1))

    assert loop.waits == 10
    assert set(shim.waited_ns) == {0}


@pytest.mark.trio
async def test_without_requests_each_wait_is_of_the_loop() -> None:
    shim, loop = Shim(), Loop()
    shim.is_idle = True

    await _take(Turns(shim, loop.wait, lambda: loop.awaits, _nothing), 10)

    assert loop.waits == 10


@pytest.fixture
def watched() -> Iterator[Shim]:
    """A shim that keeps watch when it is told to, and never has anything for Python."""
    shim = Shim()
    shim.is_idle = True
    shim.woken = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        yield shim
    finally:
        os.close(shim.woken)


@pytest.mark.trio
async def test_after_waits_in_vain_the_shim_keeps_watch_until_there_is_a_request(watched: Shim) -> None:
    loop = Loop()
    turns = Turns(watched, loop.wait, lambda: loop.awaits, _nothing)
    await _take(turns, WAITS_IN_VAIN)
    assert (loop.waits, turns.watches) == (WAITS_IN_VAIN, 0)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            nursery.start_soon(turns.next)
            await trio.testing.wait_all_tasks_blocked()
            assert (loop.waits, turns.watches) == (WAITS_IN_VAIN, 1)
            os.eventfd_write(watched.woken or 0, 1)
    watched.is_idle = False
    await turns.next()
    watched.is_idle = True
    await turns.next()
    assert (loop.waits, turns.watches) == (WAITS_IN_VAIN + 1, 1)


@pytest.mark.trio
async def test_who_waits_by_a_watch_ends_with_the_session(watched: Shim) -> None:
    loop = Loop()
    turns = Turns(watched, loop.wait, lambda: loop.awaits, _nothing)
    await _take(turns, WAITS_IN_VAIN)
    ended: list[bool] = []

    async def wait() -> None:
        ended.append(await turns.next())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            turns.end()
    assert ended == [False, False]
    assert not await turns.next()


@pytest.mark.trio
async def test_the_end_of_the_session_is_passed_on() -> None:
    shim, loop = Shim(), Loop()
    shim.is_idle, loop.goes_on = True, False

    assert await _take(Turns(shim, loop.wait, lambda: loop.awaits, _nothing), 1) == [False]


class Worker:
    """A `Standby` of *shim* and *loop*; each time that it flushes what it noted is in `flushed`, that it
    catches up in `caught_up`."""

    def __init__(self, shim: Shim, loop: Loop) -> None:
        self.stands_back = False
        self.flushed = 0
        self.caught_up = 0
        self.standby = Standby(
            shim,
            loop.wait,
            is_awaited=lambda: loop.awaits,
            stands_back=lambda: self.stands_back,
            before_wait=self._flush,
            catch_up=self._catch_up,
        )

    def _flush(self) -> None:
        self.flushed += 1

    def _catch_up(self) -> None:
        self.caught_up += 1


async def _seconds_of(worker: Worker) -> float:
    before = trio.current_time()
    assert await worker.standby.next()
    return trio.current_time() - before


@pytest.mark.trio
async def test_a_worker_goes_on_while_it_finds_requests(autojump_clock: trio.testing.MockClock) -> None:
    shim, loop = Shim(), Loop()
    worker = Worker(shim, loop)

    for _ in range(10 * REQUESTS_A_TURN):
        assert await _seconds_of(worker) == 0

    assert (loop.waits, worker.flushed) == (0, 10)
    assert worker.caught_up == 10 * REQUESTS_A_TURN


@pytest.mark.trio
async def test_a_worker_that_finds_none_looks_less_and_less_often(autojump_clock: trio.testing.MockClock) -> None:
    shim, loop = Shim(), Loop()
    worker = Worker(shim, loop)
    shim.is_idle = True

    pauses = [await _seconds_of(worker) for _ in range(10)]
    shim.is_idle = False
    assert await _seconds_of(worker) == 0
    shim.is_idle = True

    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[0] == pytest.approx(2 * LEAST_PAUSE_SECONDS)
    assert pauses[-1] == pytest.approx(MOST_PAUSE_SECONDS)
    assert await _seconds_of(worker) == pytest.approx(LEAST_PAUSE_SECONDS)
    assert worker.flushed == loop.waits == worker.standby.pauses == 11


@pytest.mark.trio
async def test_a_worker_that_stands_back_takes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    shim, loop = Shim(), Loop()
    worker = Worker(shim, loop)
    worker.stands_back = True

    with trio.move_on_after(1) as scope:
        await worker.standby.next()
    assert scope.cancelled_caught
    assert loop.waits >= 1 / MOST_PAUSE_SECONDS / 2

    loop.goes_on = False
    assert not await worker.standby.next()


def test_a_pyfuse3_that_waits_in_another_way_is_left_alone() -> None:
    other = ModuleType("pyfuse3")
    assert quicken(other, lambda wait: Turns(Shim(), wait, lambda: False, _nothing)) is None
    assert not hasattr(other, "_wait_fuse_readable")


@pytest.mark.trio
async def test_threads_know_that_somebody_waits_for_them() -> None:
    threads = Threads()
    seen = [threads.are_awaited]
    await threads.run(threads.reads, lambda: seen.append(threads.are_awaited))
    with trio.CancelScope() as scope:
        scope.cancel()
        await threads.run(threads.reads, lambda: None)
    seen.append(threads.are_awaited)
    assert seen == [False, True, False]
