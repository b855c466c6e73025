"""The figures of a mount: what its daemon counted since it began, and what of that fell into a window of time.

Plain values, as they go from the daemon to `dvfs stats` and `dvfs why-slow`. docs/STATS.md says what each means.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from dvfs.store.latencies import Latencies
from dvfs.store.stalls import Cause

_NOW = {"is_now": True}
"""Of a field that tells how things are, not what was counted."""

_NOW_TOGETHER = {"is_now": True, "together": operator.add}
"""Of one that each process of a mount has its own of."""


class Section:
    """Fields that are counted, or say how things are now."""

    __slots__ = ()

    def __sub__(self, earlier: Self) -> Self:
        """Return what was counted since *earlier*; what says how things are stays as it is."""
        values = {}
        for item in fields(self):  # type: ignore[arg-type]  # all sections are dataclasses
            now, then = getattr(self, item.name), getattr(earlier, item.name)
            if isinstance(now, Mapping):
                values[item.name] = {name: count - then.get(name, 0) for name, count in now.items()}
            else:
                values[item.name] = now if item.metadata.get("is_now") else now - then
        return type(self)(**values)

    def __add__(self, other: Self) -> Self:
        """Return what this and *other* process of a mount counted together; what they do not have each is as here."""
        values = {}
        for item in fields(self):  # type: ignore[arg-type]  # all sections are dataclasses
            ours, theirs = getattr(self, item.name), getattr(other, item.name)
            if isinstance(ours, Mapping):
                values[item.name] = {name: ours.get(name, 0) + theirs.get(name, 0) for name in {**ours, **theirs}}
            elif isinstance(ours, Section):
                values[item.name] = ours + theirs
            elif item.metadata.get("is_now") and "together" not in item.metadata:
                values[item.name] = ours
            else:
                values[item.name] = item.metadata.get("together", operator.add)(ours, theirs)
        return type(self)(**values)


@dataclass(frozen=True, slots=True)
class Reads(Section):
    """Reads of the kernel: *bytes* it got, how many *waited*; *from_stretches*: answered out of buffers read ahead.

    *latencies*: of those that waited and are answered. *passed_through*: how often a file was opened that the kernel
    reads by itself, of which there is nothing more to tell.
    """

    count: int
    bytes: int
    waited: int
    from_stretches: int
    latencies: Latencies
    passed_through: int


@dataclass(frozen=True, slots=True)
class Waits(Section):
    """The requests of the kernel that waited, *count* of them, *seconds* together, in parts by cause.

    *some_seconds*: time in which at least one waited. Of those that wait *now*, the longest does since
    *longest_now_seconds*.
    """

    count: int
    seconds: float
    some_seconds: float = field(metadata={"together": max})
    catalog_seconds: float
    queue_seconds: float
    network_seconds: float
    decompression_seconds: float
    disk_seconds: float
    other_seconds: float
    now: int = field(metadata=_NOW_TOGETHER)
    longest_now_seconds: float = field(metadata=_NOW | {"together": max})

    def of(self, cause: Cause) -> float:
        """Return the seconds of *cause*."""
        seconds: float = getattr(self, f"{cause.name.lower()}_seconds")
        return seconds


@dataclass(frozen=True, slots=True)
class Blocks(Section):
    """Blocks and pages that reading asked for: at hand, missed, and of these on their way; those not to be had.

    Bytes that were asked for: in memory, in files of the cache, or missed.
    """

    hits: int
    misses: int
    joins: int
    errors: int
    memory_bytes: int
    cache_bytes: int
    missed_bytes: int


@dataclass(frozen=True, slots=True)
class Requests(Section):
    """Requests to the store for blocks and pages, *bytes* as stored; *ahead_bytes*: before anybody asked; *raw_bytes*:
    decompressed. *retries* of attempts that failed, *throttled*: of those, by a store that asks to be asked less.

    *latencies*: of those answered, with all their attempts. *now*: under way, of *parallel* at most.
    """

    count: int
    bytes: int
    ahead_bytes: int
    raw_bytes: int
    retries: int
    throttled: int
    latencies: Latencies
    now: int = field(metadata=_NOW_TOGETHER)
    parallel: int = field(metadata=_NOW_TOGETHER)


@dataclass(frozen=True, slots=True)
class Prefetching(Section):
    """How much is fetched ahead: the *mode*, whether the whole version is (*fills*), blocks *wanted* and not there."""

    mode: str = field(metadata=_NOW)
    fills: bool = field(metadata=_NOW)
    wanted: int = field(metadata=_NOW)


@dataclass(frozen=True, slots=True)
class CacheUse(Section):
    """What the cache holds, for all that use it, its budget, and how many bytes the files of the version have."""

    bytes: int = field(metadata=_NOW)
    budget_bytes: int = field(metadata=_NOW)
    version_bytes: int = field(metadata=_NOW)


@dataclass(frozen=True, slots=True)
class Daemon(Section):
    """The processes: processor time of all their threads, and of those that answer; *zero_open*: opens cost nothing.

    *passthrough*: large files may be left to the kernel. *workers*: how many they are.
    """

    cpu_seconds: float
    loop_cpu_seconds: float
    zero_open: bool = field(metadata=_NOW)
    passthrough: bool = field(metadata=_NOW)
    workers: int = field(metadata=_NOW_TOGETHER)


@dataclass(frozen=True, slots=True)
class Figures(Section):
    """All figures, of *seconds*. *requests* of the kernel by kind, without those *answered_by_shim*."""

    seconds: float = field(metadata={"together": max})
    requests: Mapping[str, int]
    answered_by_shim: int
    reads: Reads
    waits: Waits
    blocks: Blocks
    store: Requests
    prefetch: Prefetching
    cache: CacheUse
    daemon: Daemon

    def past(self) -> Figures:
        """Return what was counted, of a process of which it is not known how things are now."""
        return replace(
            self,
            waits=replace(self.waits, now=0, longest_now_seconds=0.0),
            store=replace(self.store, now=0, parallel=0),
            daemon=replace(self.daemon, workers=0),
        )

    def to_message(self) -> dict[str, Any]:
        """Return it as what JSON can carry."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Figures:
        """Return what `to_message` made a message of."""
        reads, store = message["reads"], message["store"]
        return cls(
            message["seconds"],
            message["requests"],
            message["answered_by_shim"],
            Reads(**reads | {"latencies": Latencies(**reads["latencies"])}),
            Waits(**message["waits"]),
            Blocks(**message["blocks"]),
            Requests(**store | {"latencies": Latencies(**store["latencies"])}),
            Prefetching(**message["prefetch"]),
            CacheUse(**message["cache"]),
            Daemon(**message["daemon"]),
        )
