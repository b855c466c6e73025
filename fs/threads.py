"""Blocking work off the event loop: one place where threads are asked for, with a limit for each resource.

What cancelling means: the call is abandoned. Its thread goes on until the work ends by itself, and the result is
dropped. So only work that changes nothing but caches may go through here, and work that waits for a store ends by
the timeouts of its backend.

Trio only; the limits belong to one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from dvfs.store.stalls import Course, carried

_T = TypeVar("_T")

PAGE_THREADS = 16
READ_THREADS = 64
"""A read waits for the store; as many may wait as a data loader has workers, and more."""


class Threads:
    """Limits: *pages* for pages of the catalog, *reads* for bytes of files, *chores* for what nobody waits for; one
    thread looks up what commands ask of the daemon.

    Pages have a limit of their own, so that readers of a slow store do not keep others from listing directories.
    """

    def __init__(
        self,
        *,
        pages: int = PAGE_THREADS,
        reads: int = READ_THREADS,
        chores: int = 2,
    ) -> None:
        self.pages = trio.CapacityLimiter(pages)
        self.reads = trio.CapacityLimiter(reads)
        self.chores = trio.CapacityLimiter(chores)
        self.figures = trio.CapacityLimiter(1)
        self._awaited = 0

    @property
    def are_awaited(self) -> bool:
        """Whether somebody on the event loop waits for a thread."""
        return self._awaited > 0

    async def run(
        self,
        limiter: trio.CapacityLimiter,
        work: Callable[[], _T],
        *,
        abandons: bool = True,
        course: Course | None = None,
    ) -> _T:
        """Return what *work* returns or raises, run in a thread that *limiter* allows; abandoned on cancel.

        Where *work* changes more than caches, it *abandons* nothing: who is cancelled waits for it. *course*: of the
        request that it is for.
        """
        if course is not None:
            work = carried(course, work)
        with self.awaiting():
            return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=abandons)

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Note that somebody waits for a thread meanwhile, one from here or another."""
        self._awaited += 1
        try:
            yield
        finally:
            self._awaited -= 1
