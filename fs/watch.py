"""What a daemon answers of itself when it is asked at its control socket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from dvfs.fs.figures import Blocks, CacheUse, Daemon, Figures, Prefetching, Reads, Requests

if TYPE_CHECKING:
    from dvfs.fs.control_server import Handler
    from dvfs.fs.leading import Leader
    from dvfs.fs.operations import VersionOperations
    from dvfs.fs.source import MountedSource
    from dvfs.fs.zeroopen import Shim


class Filling(Protocol):
    """The part of a `Prefetcher` that is needed."""

    @property
    def is_filling(self) -> bool: ...


class Watch:
    """The mount of *source* behind *operations*, with its *prefetcher* of that *mode*, and the *shim* if it has one.

    *leader* of others that answer its requests, whose figures are added.
    """

    def __init__(
        self,
        operations: VersionOperations,
        source: MountedSource,
        prefetcher: Filling,
        mode: str,
        shim: Shim | None,
        leader: Leader | None = None,
    ) -> None:
        self._operations = operations
        self._source = source
        self._prefetcher = prefetcher
        self._mode = mode
        self._shim = shim
        self._leader = leader
        self._began = time.monotonic()

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        return {"stats": self.stats}

    async def stats(self) -> dict[str, Any]:
        """Answer with the `Figures` since the mount began."""
        others = await self._leader.figures() if self._leader is not None else []
        return sum(others, start=await self._own()).to_message()

    async def _own(self) -> Figures:
        operations, source = self._operations, self._source
        threads, stalls, passthrough = operations.threads, operations.stalls, operations.passthrough
        passes = passthrough is not None and passthrough.is_at_work
        cache = await threads.run(threads.figures, source.cache.use)
        found = source.fetcher.stats()
        requests = dict(operations.requests)
        return Figures(
            seconds=time.monotonic() - self._began,
            requests=requests,
            answered_by_shim=self._shim.answered if self._shim is not None else 0,
            reads=Reads(
                count=requests.get("read", 0),
                bytes=operations.bytes_read,
                waited=stalls.reads,
                from_stretches=operations.answered_ahead,
                latencies=stalls.latencies(),
                passed_through=passthrough.opens if passthrough is not None else 0,
            ),
            waits=stalls.waits(),
            blocks=Blocks(
                hits=found.hits,
                misses=found.misses,
                joins=found.joins,
                errors=found.errors,
                memory_bytes=found.memory_bytes,
                cache_bytes=found.cache_bytes,
                missed_bytes=found.missed_bytes,
            ),
            store=Requests(
                count=found.requests,
                bytes=found.bytes_fetched,
                ahead_bytes=found.ahead_bytes,
                raw_bytes=found.raw_bytes,
                retries=found.repeats.retries,
                throttled=found.repeats.throttled,
                latencies=found.latencies,
                now=found.under_way,
                parallel=found.parallel,
            ),
            prefetch=Prefetching(mode=self._mode, fills=self._prefetcher.is_filling, wanted=found.wanted),
            cache=CacheUse(bytes=cache.bytes, budget_bytes=cache.budget_bytes, version_bytes=source.tree.size),
            daemon=Daemon(
                cpu_seconds=time.process_time(),
                loop_cpu_seconds=time.thread_time(),
                zero_open=operations.zero_open and not passes,
                passthrough=passes,
                workers=1,
            ),
        )
