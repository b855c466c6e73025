"""The wait for the next request: the event loop has its turn once nothing comes, not after each request.

pyfuse3 lets trio wait for each request, which takes longer than answering one from memory. Here the shim waits a
moment for the next one first (see `_zeroopen.c`), and trio waits only when none came, after so many in a row that
everything else on the loop must have its turn, or, with a shorter wait and fewer of them, while results of threads are
due. So a mount without requests waits in trio as ever. Event loop only; needs the shim at work.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Protocol

REQUESTS_A_TURN = 64
BUSY_REQUESTS_A_TURN = 4
WAIT_NS = 100_000
"""How long the next request may take to come; a program that works through files asks again sooner."""

_WAIT_OF_PYFUSE3 = "_wait_fuse_readable"


class Receiving(Protocol):
    """The part of the shim that is needed: whether it found no request last time, and how long it is to wait."""

    @property
    def is_idle(self) -> bool: ...

    def wait_ns(self, nanoseconds: int) -> None: ...


class Turns:
    """Takes turns with trio, whose wait for a request is *wait*.

    *is_awaited* tells whether somebody waits for something other than requests. `waits` counts those left to trio.
    """

    def __init__(self, shim: Receiving, wait: Callable[[], Awaitable[bool]], is_awaited: Callable[[], bool]) -> None:
        self._shim = shim
        self._wait = wait
        self._is_awaited = is_awaited
        self._taken = 0
        self.waits = 0

    async def next(self) -> bool:
        """Return when a request should be taken from the kernel; False when there will be none any more."""
        is_awaited = self._is_awaited()
        self._shim.wait_ns(0 if is_awaited else WAIT_NS)
        most = BUSY_REQUESTS_A_TURN if is_awaited else REQUESTS_A_TURN
        if self._shim.is_idle or self._taken >= most:
            self._taken = 0
            self.waits += 1
            return await self._wait()
        self._taken += 1
        return True


def quicken(pyfuse3: ModuleType, shim: Receiving, is_awaited: Callable[[], bool]) -> Turns | None:
    """Make *pyfuse3* wait by `Turns`; None when it has no such wait, and goes on as it is."""
    wait = getattr(pyfuse3, _WAIT_OF_PYFUSE3, None)
    if not inspect.iscoroutinefunction(wait):
        return None
    turns = Turns(shim, wait, is_awaited)
    setattr(pyfuse3, _WAIT_OF_PYFUSE3, turns.next)
    return turns
