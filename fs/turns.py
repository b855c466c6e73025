"""The wait for the next request: the event loop has its turn once nothing comes, not after each request.

pyfuse3 lets trio wait for each request, which takes longer than answering one from memory. Here the shim waits a
moment for the next one first (see `_zeroopen.c`), and trio waits only when none came, after so many in a row that
everything else on the loop must have its turn, or, with a shorter wait and fewer of them, while results of threads are
due. So a mount without requests waits in trio as ever. Event loop only; needs the shim at work.

Where trio is woken again and again by what the shim answers alone, the shim waits in a thread of its own, and wakes
trio for what needs Python (see `_watch.c`): that is a training job that opens files which the kernel has.

A worker waits by `Standby`: it takes what the leader does not get to.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Protocol, TypeVar

import trio

REQUESTS_A_TURN = 64
BUSY_REQUESTS_A_TURN = 4
WAIT_NS = 100_000
"""How long the next request may take to come; a program that works through files asks again sooner."""

WAITS_IN_VAIN = 8
"""After so many waits in a row that brought Python nothing, the shim keeps watch."""

LEAST_PAUSE_SECONDS = 0.001
MOST_PAUSE_SECONDS = 0.016

_WAIT_OF_PYFUSE3 = "_wait_fuse_readable"


Wait = Callable[[], Awaitable[bool]]


class Receiving(Protocol):
    """The part of the shim that is needed: whether it found no request last time, and how long it is to wait."""

    @property
    def is_idle(self) -> bool: ...

    def wait_ns(self, nanoseconds: int) -> None: ...

    def watch(self) -> int | None: ...


class Turns:
    """Takes turns with trio, whose wait for a request is *wait*.

    *is_awaited* tells whether somebody waits for something other than requests. *catch_up* is called before each
    request. `waits` counts those left to trio, `watches` those left to the shim.
    """

    def __init__(
        self, shim: Receiving, wait: Wait, is_awaited: Callable[[], bool], catch_up: Callable[[], None]
    ) -> None:
        self._shim = shim
        self._wait = wait
        self._is_awaited = is_awaited
        self._catch_up = catch_up
        self._taken = 0
        self._in_vain = 0
        self._watching = trio.Lock()
        self._woken: int | None = None
        self._has_ended = False
        self.waits = 0
        self.watches = 0

    async def next(self) -> bool:
        """Return when a request should be taken from the kernel; False when there will be none any more."""
        self._catch_up()
        is_awaited = self._is_awaited()
        self._shim.wait_ns(0 if is_awaited else WAIT_NS)
        most = BUSY_REQUESTS_A_TURN if is_awaited else REQUESTS_A_TURN
        if self._shim.is_idle or self._taken >= most:
            self._in_vain = 0 if self._taken else self._in_vain + 1
            self._taken = 0
            if self._in_vain > WAITS_IN_VAIN:
                return await self._watch()
            self.waits += 1
            return await self._wait()
        self._taken += 1
        return True

    def end(self) -> None:
        """Have whoever waits by a watch return False, now and from now on."""
        self._has_ended = True
        if self._woken is not None:
            trio.lowlevel.notify_closing(self._woken)

    async def _watch(self) -> bool:
        async with self._watching:
            if self._has_ended:
                return False
            self._woken = self._shim.watch()
            if self._woken is None:
                self.waits += 1
                return await self._wait()
            self.watches += 1
            try:
                await trio.lowlevel.wait_readable(self._woken)
            except trio.ClosedResourceError:
                return False
            os.eventfd_read(self._woken)
            return True


class Standby:
    """Waits for what the leader of the mount leaves lying, with trio's *wait* for a request; for workers.

    A request wakes whoever waits for one. A worker then looks only after a pause: what is still there, the leader did
    not get to. While it finds more, it goes on taking them; where it finds nothing, the next pause is longer. It takes
    nothing while it *stands_back*. *is_awaited* and *catch_up* as for `Turns`. *before_wait* is called before each
    wait, and before each turn of trio.
    """

    def __init__(
        self,
        shim: Receiving,
        wait: Wait,
        *,
        is_awaited: Callable[[], bool],
        stands_back: Callable[[], bool],
        before_wait: Callable[[], None],
        catch_up: Callable[[], None],
    ) -> None:
        self._shim = shim
        self._wait = wait
        self._is_awaited = is_awaited
        self._stands_back = stands_back
        self._before_wait = before_wait
        self._catch_up = catch_up
        self._looking = trio.Lock()
        self._pause_seconds = LEAST_PAUSE_SECONDS
        self._taken = 0
        self.pauses = 0

    async def next(self) -> bool:
        """Do as `Turns.next`."""
        self._catch_up()
        if not self._shim.is_idle and not self._stands_back():
            self._taken += 1
            if self._taken % (BUSY_REQUESTS_A_TURN if self._is_awaited() else REQUESTS_A_TURN) == 0:
                self._before_wait()
                await trio.lowlevel.checkpoint()
            return True
        self._before_wait()
        self._pause_seconds = LEAST_PAUSE_SECONDS if self._taken else min(2 * self._pause_seconds, MOST_PAUSE_SECONDS)
        self._taken = 0
        async with self._looking:
            while await self._wait():
                self.pauses += 1
                await trio.sleep(self._pause_seconds)
                if not self._stands_back():
                    return True
                self._pause_seconds = MOST_PAUSE_SECONDS
        return False


_T = TypeVar("_T", Turns, Standby)


def quicken(pyfuse3: ModuleType, make: Callable[[Wait], _T]) -> _T | None:
    """Make *pyfuse3* wait by what *make* returns for its own wait; None when it has no such wait."""
    wait = getattr(pyfuse3, _WAIT_OF_PYFUSE3, None)
    if not inspect.iscoroutinefunction(wait):
        return None
    turns = make(wait)
    setattr(pyfuse3, _WAIT_OF_PYFUSE3, turns.next)
    return turns
