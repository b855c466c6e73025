"""Whether memory is at hand: told by the processor time that writing to the cache takes.

What is written is copied into pages of the page cache, which have to be made first. A virtual machine that gives free
memory back to its host (free page reporting), or was just started, is given each by the host: that takes ten times as
long as copying. It then pays to use few, and those that were used of late.
"""

from __future__ import annotations

import threading

from dvfs.store.clock import Clock

COSTLY_NS = 500_000
"""Of processor time, for 1 MiB: copying takes 0.2 to 0.35 ms; 2.4 ms in all where pages come from the host."""

LEAST_BYTES = 32 << 20
"""Several writes: one by itself takes long now and then, whatever pages it gets."""

_HIGH_SECONDS = 30.0


class WriteCost:
    """How much processor time writing took of late; high from *costly_ns* for 1 MiB on, with 0 always.

    It is high once costly writes outweigh others by `LEAST_BYTES`, and then for half a minute: when few pages are used
    they cost little, as long as that goes on. It is the time of the thread that writes alone, and has nothing of
    waiting: for a processor, another thread, or the disk. Thread-safe.
    """

    def __init__(self, costly_ns: int, clock: Clock) -> None:
        self._costly_ns = costly_ns
        self._clock = clock
        self._lock = threading.Lock()
        self._costly_bytes = 0
        self._high_until = 0.0

    @property
    def is_high(self) -> bool:
        """Whether pages are to be spared. Never blocks."""
        return not self._costly_ns or self._clock.monotonic() < self._high_until

    def note(self, size: int, ns: int) -> None:
        """Take note that writing *size* bytes took *ns* nanoseconds."""
        is_costly = ns << 20 >= self._costly_ns * size
        with self._lock:
            self._costly_bytes = max(0, self._costly_bytes + (size if is_costly else -size))
            if self._costly_bytes >= LEAST_BYTES:
                self._high_until = self._clock.monotonic() + _HIGH_SECONDS
                self._costly_bytes = 0


class WriteCosts:
    """What writing took that made *large* folios, and that made *small* ones.

    Large ones come out of large free areas, which may have to be given by the host where small ones are at hand: so
    those tell first. Only when small ones cost much too are pages to be spared.
    """

    def __init__(self, costly_ns: int, clock: Clock) -> None:
        self.large = WriteCost(costly_ns, clock)
        self.small = WriteCost(costly_ns, clock)

    @property
    def takes_large(self) -> bool:
        """Whether to make large folios."""
        return not (self.large.is_high or self.small.is_high)
