"""Who waits for the next request: counted on a shim and a trio that are fakes, without FUSE."""

from __future__ import annotations

from types import ModuleType

import pytest
import trio

from dvfs.fs.threads import Threads
from dvfs.fs.turns import BUSY_REQUESTS_A_TURN, REQUESTS_A_TURN, WAIT_NS, Turns, quicken


class Shim:
    """Finds a request each time, unless it is made idle."""

    def __init__(self) -> None:
        self.is_idle = False
        self.waited_ns: list[int] = []

    def wait_ns(self, nanoseconds: int) -> None:
        self.waited_ns.append(nanoseconds)


class Loop:
    """The wait of pyfuse3; `awaits` says what a `Turns` is told of threads."""

    def __init__(self) -> None:
        self.waits = 0
        self.awaits = False
        self.goes_on = True

    async def wait(self) -> bool:
        self.waits += 1
        return self.goes_on


async def _take(turns: Turns, count: int) -> list[bool]:
    return [await turns.next() for _ in range(count)]


@pytest.mark.trio
async def test_while_requests_come_the_loop_has_a_turn_after_many() -> None:
    shim, loop = Shim(), Loop()
    turns = Turns(shim, loop.wait, lambda: loop.awaits)

    assert all(await _take(turns, 10 * (REQUESTS_A_TURN + 1)))

    assert (loop.waits, turns.waits) == (10, 10)
    assert set(shim.waited_ns) == {WAIT_NS}


@pytest.mark.trio
async def test_while_threads_are_awaited_it_has_one_after_few_and_nobody_else_waits() -> None:
    shim, loop = Shim(), Loop()
    loop.awaits = True

    await _take(Turns(shim, loop.wait, lambda: loop.awaits), 10 * (BUSY_REQUESTS_A_TURN + 1))

    assert loop.waits == 10
    assert set(shim.waited_ns) == {0}


@pytest.mark.trio
async def test_without_requests_each_wait_is_of_the_loop() -> None:
    shim, loop = Shim(), Loop()
    shim.is_idle = True

    await _take(Turns(shim, loop.wait, lambda: loop.awaits), 10)

    assert loop.waits == 10


@pytest.mark.trio
async def test_the_end_of_the_session_is_passed_on() -> None:
    shim, loop = Shim(), Loop()
    shim.is_idle, loop.goes_on = True, False

    assert await _take(Turns(shim, loop.wait, lambda: loop.awaits), 1) == [False]


def test_a_pyfuse3_that_waits_in_another_way_is_left_alone() -> None:
    other = ModuleType("pyfuse3")
    assert quicken(other, Shim(), lambda: False) is None
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
