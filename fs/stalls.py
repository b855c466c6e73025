"""The requests of the kernel that had to wait, and for what; see `dvfs.store.stalls` for how that is told.

Event loop only. A request that is answered from memory never comes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dvfs.fs.figures import Waits
from dvfs.store.latencies import Histogram, Latencies
from dvfs.store.stalls import Cause, Course, Seconds


class Stall:
    """A request that waits, from now to the end of the context; *course* tells for what."""

    __slots__ = ("_stalls", "course", "is_read")

    def __init__(self, stalls: Stalls, *, is_read: bool) -> None:
        self._stalls = stalls
        self.is_read = is_read
        self.course = Course()

    def __enter__(self) -> Course:
        self._stalls.begin(self)
        return self.course

    def __exit__(self, *_: object) -> None:
        self._stalls.end(self)


class Stalls:
    """All stalls of one mount. *clock* tells seconds.

    Invariant: what was told of a stall while it lasted is never more than what is told of it at its end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: dict[Stall, None] = {}
        self._ended = [0.0] * len(Cause)
        self._reads = Histogram()
        self._count = 0
        self._count_of_reads = 0
        self._some_since = 0.0
        self._some_seconds = 0.0

    def one(self, *, is_read: bool = False) -> Stall:
        """Return the context in which a request waits; *is_read*: for bytes of a file that are to be read."""
        return Stall(self, is_read=is_read)

    def begin(self, stall: Stall) -> None:
        """Count *stall*, which begins."""
        if not self._under_way:
            self._some_since = self._clock()
        self._under_way[stall] = None
        self._count += 1
        self._count_of_reads += stall.is_read

    def end(self, stall: Stall) -> None:
        """Add up *stall*, which ends."""
        del self._under_way[stall]
        if not self._under_way:
            self._some_seconds += self._clock() - self._some_since
        parts = stall.course.seconds()
        _add(self._ended, parts)
        if stall.is_read:
            self._reads.add(sum(parts))

    @property
    def reads(self) -> int:
        """How many reads waited, those under way too."""
        return self._count_of_reads

    def latencies(self) -> Latencies:
        """Return how long the reads waited that are answered."""
        return self._reads.latencies()

    def waits(self) -> Waits:
        """Return what all requests waited for until now, those under way too."""
        parts = [stall.course.seconds() for stall in self._under_way]
        sums = list(self._ended)
        for part in parts:
            _add(sums, part)
        some = self._clock() - self._some_since if parts else 0.0
        return Waits(
            count=self._count,
            seconds=sum(sums),
            some_seconds=self._some_seconds + some,
            **{f"{cause.name.lower()}_seconds": sums[cause] for cause in Cause},
            now=len(parts),
            longest_now_seconds=max(map(sum, parts), default=0.0),
        )


def _add(sums: list[float], more: Seconds) -> None:
    for index, seconds in enumerate(more):
        sums[index] += seconds
